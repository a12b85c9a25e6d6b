"""LoRA: low-rank changes of linear layers, through PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from harness.config.strict import check
from harness.core import seeds
from harness.core.errors import ConfigError, explain
from harness.core.tuning import Tuning
from harness.methods.tuning.full import full_rate

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

    from harness.core.sources import ModelFacts

RATE_OVER_FULL = 10.0
ADAPTER = "default"
"""The name that PEFT gives a first adapter."""


class Adapter(Tuning):
    """Weights next to frozen ones, added by PEFT: what all kinds of them share."""

    @property
    def adapts(self) -> bool:
        """Always: only what is added trains."""
        return True

    def default_learning_rate(self, params_total: int) -> float:
        """Return ten times the rate of full tuning, for any rank.

        An assumption for models without a searched rate: the best rates differ by an order of
        magnitude (Biderman et al. 2024, arXiv 2405.09673v2, learning rate sweeps), by a factor of
        about ten that is nearly the same for every rank (Schulman et al. 2025, LoRA Without
        Regret).
        """
        return RATE_OVER_FULL * full_rate(params_total)

    def merged(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return copies of the weights by plain name, with adapters added in float32.

        The model is unchanged. A tied weight is included once, under its first name; buffers, which
        never move, are not.
        """
        import torch

        added = {id(one) for _, layer in layers(model) for name, one in layer.named_parameters() if not name.startswith("base_layer.")}
        plain = {
            name.replace(".base_layer.", "."): parameter.detach().to("cpu", copy=True)
            for name, parameter in cast("PeftModel", model).get_base_model().named_parameters()
            if id(parameter) not in added
        }
        with torch.no_grad():
            return plain | {name: plain[name] + delta.to("cpu") for name, delta in self.deltas(model, {})}

    @contextmanager
    def base_weights(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Switch the adapters off, and on again; ``base`` is not read."""
        with cast("PeftModel", model).disable_adapter():
            yield

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the adapter alone (safetensors and config), for ``PeftModel.from_pretrained``."""
        # "auto" asks the hub whether the vocabulary was resized.
        cast("PeftModel", model).save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


@dataclass(frozen=True, kw_only=True)
class Lora(Adapter):
    """W + (alpha / rank)·B·A with A and B trained in float32 and W frozen.

    B starts at zero, so training starts at the start model.

    Reference: Hu et al. 2021, arXiv 2106.09685, equation 3. Differs from the paper: every linear
    layer except the output head is adapted, not attention alone, and alpha = 2·rank (Biderman et
    al. 2024, arXiv 2405.09673v2, section 4.7). Checked against: PEFT's own merge.

    Attributes:
        rank: inner dimension of B·A.
        alpha: numerator of the scaling; null is twice the rank.
        dropout: share of an adapter's inputs that is dropped in training.
        modules: last names of the layers to adapt, such as ``[q_proj, v_proj]``; null is every
            linear layer except the output head.
        layers: ``all`` of these, or those inside ``attention`` or ``mlp``, recognised by the names
            of their parent modules in any family. ``modules`` requires ``all``.
    """

    rank_stabilised: ClassVar[bool] = False

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    modules: tuple[str, ...] | None = None
    layers: Literal["all", "attention", "mlp"] = "all"

    def __post_init__(self) -> None:
        """Check ranges."""
        check("tuning.rank", self.rank, "1 or greater", lambda value: value >= 1)
        check("tuning.alpha", self.alpha, "null (twice the rank) or greater than 0", lambda value: value is None or value > 0)
        check("tuning.dropout", self.dropout, "from 0 to below 1", lambda value: 0 <= value < 1)
        check(
            "tuning.modules", self.modules, "null (every linear layer) or at least one name", lambda value: value is None or len(value) > 0
        )
        fix = "one of tuning.modules and tuning.layers"
        check("tuning.layers", self.layers, "all, if tuning.modules names layers", lambda v: v == "all" or self.modules is None, fix)

    @property
    def dropout_rate(self) -> float:
        """Rate at which an adapter's inputs are dropped in training."""
        return self.dropout

    @property
    def adapter_rank(self) -> int:
        """Its rank; 0 where some layers have none."""
        return self.rank if self.modules is None and self.layers == "all" else 0

    def resolved_settings(self, facts: ModelFacts) -> Mapping[str, Any]:
        """Return alpha, and the names of the adapted layers where these are known."""
        names = sorted(facts.linear) if self.modules is None and self.layers == "all" else self.modules
        return {"alpha": self.resolved_alpha, "modules": None if names is None else sorted(set(names))}

    @property
    def resolved_alpha(self) -> float:
        """Alpha, resolved."""
        return 2.0 * self.rank if self.alpha is None else self.alpha

    @property
    def scaling(self) -> float:
        """Factor on B·A."""
        return self.resolved_alpha / self.rank

    def trainable(self, facts: ModelFacts) -> int:
        """Return the parameters of A and B: rank·(inputs + outputs) of every adapted layer."""
        if self.layers != "all":
            return self.rank * facts.parts.get(self.layers, 0)
        return self.rank * sum(size for name, size in facts.linear.items() if self.modules is None or name in self.modules)

    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Add adapters in place and freeze the rest.

        A is drawn from ``seed``; global streams are restored.

        Raises:
            ConfigError: for a module name that the model does not have or that is one of its
                embeddings, and for ``layers`` that it does not have.
        """
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.resolved_alpha,  # type: ignore[arg-type, unused-ignore]
            lora_dropout=self.dropout,
            use_rslora=self.rank_stabilised,
            target_modules=self._targets(model),
            bias="none",
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        )
        self._reject_embeddings(model)
        try:
            return added(model, config, seed)
        except ValueError as error:
            got = ", ".join(self.modules or ("all linear layers",))
            raise ConfigError(explain("tuning.modules", got=got, allowed="names of layers of this model", fix=str(error))) from error

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return rank, alpha, scaling, adapted layers and the number of trainable parameters."""
        names = [name for name, _ in layers(model)]
        return {
            "rank": self.rank,
            "alpha": self.resolved_alpha,
            "scaling": self.scaling,
            "modules": sorted({name.rsplit(".", 1)[-1] for name in names}),
            "adapted_layers": len(names),
            "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        }

    def deltas(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (plain name, scaling·B·A) for every adapted weight; ``base`` is not read."""
        for name, layer in layers(model):
            yield f"{name}.weight", layer.get_delta_weight(ADAPTER)

    def squared_change(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of scaling²·‖B·A‖² without B·A; ``base`` is not read.

        ‖B·A‖² is the sum of the products of the elements of BᵀB and A·Aᵀ, both rank × rank.
        """
        import torch

        pairs = [(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight) for _, layer in layers(model)]
        return self.scaling**2 * torch.stack([((b.T @ b) * (a @ a.T)).sum() for a, b in pairs]).sum()

    def _targets(self, model: PreTrainedModel) -> str | list[str]:
        if self.layers == "all":
            return "all-linear" if self.modules is None else list(self.modules)
        from harness.models import anatomy

        paths = [path for path in anatomy.linear_layers(model) if anatomy.part_of(path) == self.layers]
        if not paths:
            got, allowed = f"'{self.layers}', of which {type(model).__name__} has no linear layer", "all, or a part that the model has"
            raise ConfigError(explain("tuning.layers", got=got, allowed=allowed, fix="name layers in tuning.modules"))
        return paths

    def _reject_embeddings(self, model: PreTrainedModel) -> None:
        """Reject adapters on embeddings: a tied one would move two weights under one name."""
        plain: Any = model
        ends = [plain.get_input_embeddings(), plain.get_output_embeddings()]
        for name, module in model.named_modules():
            if module in ends and name.rsplit(".", 1)[-1] in (self.modules or ()):
                raise ConfigError(explain("tuning.modules", got=f"{name}, an embedding", allowed="linear layers between the embeddings"))


def added(model: PreTrainedModel, config: PeftConfig, seed: int) -> PreTrainedModel:
    """Return a model with adapters, added in place and drawn from ``seed``, and the rest frozen.

    Global streams are restored. Raises what PEFT raises, ValueError for names of no layer.
    """
    from peft import get_peft_model

    with seeds.untouched_global_streams(), warnings.catch_warnings():
        # PEFT 0.21 asks the model for an attribute that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        seeds.seed_torch(seed)
        return cast("PreTrainedModel", get_peft_model(model, config))


def layers(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """Yield (name in the plain model, PEFT's layer) for every adapted layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in cast("PeftModel", model).get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module
