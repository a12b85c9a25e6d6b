"""Any adapter of PEFT that can be merged into weights, by a PEFT configuration of the user's."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from harness.config import paths
from harness.config.yaml_files import load_yaml
from harness.core import seeds
from harness.core.errors import ConfigError, explain
from harness.methods.tuning.lora import ADAPTER, Adapter, added, layers

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from harness.core.sources import ModelFacts

IGNORED = ("base_model_name_or_path", "revision", "auto_mapping", "inference_mode", "peft_version", "task_type")
"""Settings of a file that change no weights: its origin, and those that are given here."""

LISTS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_to_transform")
"""Lists whose order has no meaning."""

UNFIT = {
    "ADALORA": "calls of its own after each optimizer step, to move its ranks",
    "POLY": "a task id with each row",
    "SHADOW": "a second network, which has no place in the weights",
    "XLORA": "several trained adapters",
}
"""Kind → what it needs that training does not give."""

FIX = "a kind that can be merged, such as LORA (use_dora too), IA3, VERA, LOHA or OFT"


@dataclass(frozen=True, kw_only=True)
class Peft(Adapter):
    """An adapter as a PEFT configuration describes it, trained in float32, and the rest frozen.

    Weights and biases are read off an adapted layer's outputs for the unit inputs, so any kind is
    valid whose layers are linear in their inputs, such as LoRA, DoRA, IA3, VeRA, LoHa and OFT.
    Rejected are prompts and prefixes, which have no weights to merge, anything trained next to the
    linear layers (biases, embeddings, norms, ``modules_to_save``), and adapters that change the
    start weights when they are added, such as PiSSA. A random draw uses the run's seed, unless the
    kind has one of its own (``projection_prng_key`` of VeRA).

    Reference: PEFT 0.21, https://huggingface.co/docs/peft. Checked against: PEFT's own merge, and
    ``lora`` for its configuration.

    Attributes:
        config: an adapter_config.json, or a yaml of the same settings, such as ``{peft_type: LORA,
            r: 8, use_dora: true, target_modules: all-linear}``. A run's identity has its values
            that differ from PEFT's defaults, not its path.
    """

    config: str | None = None

    def __post_init__(self) -> None:
        """Read the file once, so that what is identified is what is trained."""
        object.__setattr__(self, "_read", None if self.config is None else load_yaml(paths.expanded(self.config)))

    @property
    def dropout_rate(self) -> float:
        """Largest rate in the file at which anything drops in training."""
        rates = [value for name, value in self._values().items() if name.endswith("dropout") and isinstance(value, int | float)]
        return max(rates, default=0.0)

    @property
    def adapter_rank(self) -> int:
        """Rank of LoRA on every linear layer; 0 for anything else."""
        values = self._values()
        plain = self._kind == "LORA" and values.get("target_modules") == "all-linear"
        return int(values.get("r", 8)) if plain and not values.get("use_dora") and not values.get("rank_pattern") else 0

    def resolved_settings(self, facts: ModelFacts) -> Mapping[str, Any]:
        """Return the values that differ from PEFT's defaults, in place of the path.

        Raises ConfigError for a kind that cannot be merged into weights.
        """
        default = type(self.settings())()
        values: dict[str, Any] = {"peft_type": self._kind}
        for name, value in self._values().items():
            if name not in (*IGNORED, "peft_type") and value != getattr(default, name):
                values[name] = sorted(value) if name in LISTS and isinstance(value, list) else value
        return {"config": values}

    def trainable(self, facts: ModelFacts) -> int:
        """Return an estimate: as of LoRA for the kinds derived from it, else as of rank 1."""
        wanted, rank = self._values().get("target_modules"), self._values().get("r", 8)
        names = set(wanted) if isinstance(wanted, list) else None
        size = sum(size for name, size in facts.linear.items() if names is None or name in names)
        return size * (rank if self._kind == "LORA" else 1)

    def settings(self) -> PeftConfig:
        """Return PEFT's configuration. Raises ConfigError for a kind that cannot be merged."""
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

        kind = self._kind
        if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
            self._reject(f"peft_type {kind!r}", f"one of {', '.join(sorted(one.value for one in PeftType))}")
        if kind in UNFIT:
            self._reject(f"{kind}, which needs {UNFIT[kind]}", "a kind that trains as any layer does", FIX)
        cls = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
        values = {name: value for name, value in self._values().items() if name not in {*IGNORED, "peft_type"}}
        known = {field.name for field in dataclasses.fields(cls)}
        with self._explained():
            found = cls(**{name: value for name, value in values.items() if name in known}, task_type="CAUSAL_LM")
        if found.is_prompt_learning or found.is_adaption_prompt:
            self._reject(f"{kind}, whose prompts have no weights to merge", "an adapter of linear layers", FIX)
        if strange := sorted(values.keys() - known):
            fix = "remove it, or the release of PEFT that has it"
            self._reject(f"an unknown key {strange[0]} of {kind}", f"settings of PEFT's {cls.__name__}", fix)
        if values.get("alora_invocation_tokens"):
            self._reject("alora_invocation_tokens, by which weights depend on the text", "an adapter that can be merged", FIX)
        return found

    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Add adapters in place and freeze the rest.

        Raises:
            ConfigError: for settings that do not fit the model, for anything trained next to its
                linear layers, and for adapters that change the start weights.
        """
        from harness.models import whole

        before, config, plain = whole.logits(model), self.settings(), cast(Any, model)
        ends = [plain.get_input_embeddings(), plain.get_output_embeddings()]
        transposed = any(_is_transposed(module) for module in model.modules())
        if hasattr(config, "fan_in_fan_out"):
            config.fan_in_fan_out = transposed
        with self._explained():
            adapted = added(model, config, seed)
        self._require_mergeable(adapted, ends, seed)
        with self.base_weights(adapted, {}):
            start = whole.logits(adapted)
        if not bool((start == before).all()):
            self._reject("an adapter that changes the start weights when it is added", "one that leaves them", "init_lora_weights: true")
        return adapted

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return kind, settings, adapted layers and the number of trainable parameters."""
        names = [name for name, _ in layers(model)]
        return {
            "peft_type": self._kind,
            "settings": {name: value for name, value in self._values().items() if name not in IGNORED},
            "modules": sorted({name.rsplit(".", 1)[-1] for name in names}),
            "adapted_layers": len(names),
            "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        }

    def deltas(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (plain name, change) of every weight and bias that moves; ``base`` is not read."""
        from peft.tuners.lora import LoraLayer

        for name, layer in layers(model):
            if isinstance(layer, LoraLayer) and not layer.lora_variant and not layer.lora_bias[ADAPTER]:
                yield f"{name}.weight", cast(Any, layer).get_delta_weight(ADAPTER)  # exact, and of less work
                continue
            weight, bias = _change(layer)
            yield f"{name}.weight", weight
            if layer.get_base_layer().bias is not None:
                yield f"{name}.bias", bias

    @property
    def _kind(self) -> str:
        return str(self._values().get("peft_type", "")).upper()

    def _values(self) -> dict[str, Any]:
        """Return the values of the file. Raises ConfigError without one."""
        values: dict[str, Any] | None = self._read  # type: ignore[attr-defined]
        if values is None:
            self._reject("nothing", "an adapter_config.json of PEFT, or a yaml of its settings", "tuning.config=PATH")
        return cast(dict[str, Any], values)

    def _require_mergeable(self, adapted: PreTrainedModel, ends: list[Any], seed: int) -> None:
        """Raise ConfigError unless all that trains are mergeable adapters of linear layers."""
        import torch

        for name, layer in layers(adapted):
            inner = layer.get_base_layer()
            if inner in ends or not (isinstance(inner, torch.nn.Linear) or _is_transposed(inner)):
                got = f"an adapter of {name}, {'an embedding' if inner in ends else f'a {type(inner).__name__}'}"
                self._reject(got, "linear layers between the embeddings", "name others in target_modules")
        kinds = {type(layer.get_base_layer()): layer for _, layer in layers(adapted)}
        if not kinds or not all(_is_linear(layer, seed) for layer in kinds.values()):
            self._reject(f"{self._kind}, whose layers are not linear in their inputs", "an adapter that can be merged", FIX)
        inside = {id(one) for _, layer in layers(adapted) for name, one in layer.named_parameters() if not name.startswith("base_layer.")}
        for name, parameter in cast(Any, adapted).get_base_model().named_parameters():
            if parameter.requires_grad and id(parameter) not in inside:
                fix = "a configuration without bias, modules_to_save and trainable_token_indices"
                self._reject(f"{name}, which trains next to the adapters", "adapters of linear layers alone", fix)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise ConfigError for an error of PEFT about a configuration."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                yield
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, NotImplementedError, ImportError) as error:
            text = " ".join(str(error).split())[:200]
            raise ConfigError(explain("tuning.config", got=f"{self._kind} settings that PEFT rejects", fix=text)) from error

    def _reject(self, got: str, allowed: str, fix: str = "") -> None:
        raise ConfigError(explain("tuning.config", got=got, allowed=allowed, fix=fix))


def _is_transposed(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _is_linear(layer: Any, seed: int) -> bool:
    """Return whether an adapted layer, once moved, computes as one with changed weight and bias."""
    import torch

    inner = layer.get_base_layer()
    moving = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in moving]
    with torch.no_grad(), seeds.untouched_global_streams():
        seeds.seed_torch(seed)
        try:
            for parameter in moving:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            weight, bias = _change(layer)
            inputs = torch.randn(1, 8, weight.shape[0 if _is_transposed(inner) else 1]).to(weight)
            moved = inputs @ (weight if _is_transposed(inner) else weight.T) + (0 if inner.bias is None else bias)
            with _calm(layer):
                found = layer(inputs) - inner(inputs)
        except (RuntimeError, AttributeError, TypeError):  # a layer that computes otherwise than on inputs of its own
            return False
        finally:
            for parameter, value in zip(moving, before, strict=True):
                parameter.copy_(value)
    return bool((found - moved).abs().max() <= 1e-3 * moved.abs().max())


@contextmanager
def _calm(layer: Any) -> Iterator[None]:
    """Compute without dropout and autocast."""
    import torch

    training = [module for module in layer.modules() if module.training]
    layer.eval()
    try:
        with torch.autocast(layer.get_base_layer().weight.device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def _change(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the change of weight and bias by an adapter, differentiable.

    They are the difference of its outputs and its inner layer's for 0 and each unit input, without
    dropout and autocast. Weights in bfloat16 (``harness.models.halves``) are widened for it: the
    rounding of their sum would hide a small change.
    """
    import torch

    inner = layer.get_base_layer()
    halved = {name: one for name, one in inner.named_parameters(recurse=False) if one.dtype == torch.bfloat16}
    for name, one in halved.items():
        inner._parameters[name] = torch.nn.Parameter(one.detach().float(), requires_grad=False)
    try:
        return _difference(layer, inner)
    finally:
        inner._parameters.update(halved)


def _difference(layer: Any, inner: Any) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    size = inner.weight.shape[0] if _is_transposed(inner) else inner.in_features
    dtype = inner.weight.dtype if inner.weight.is_floating_point() else torch.float32  # of quantised weights
    kwargs: dict[str, Any] = {"device": inner.weight.device, "dtype": dtype}
    inputs = torch.cat([torch.zeros(1, size, **kwargs), torch.eye(size, **kwargs)])[None]
    with _calm(layer):
        found = (layer(inputs) - inner(inputs))[0]
    weight = found[1:] - found[0]  # (inputs, outputs)
    return (weight if _is_transposed(inner) else weight.T), found[0]
