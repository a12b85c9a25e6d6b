"""Pretrained models of the hub or a local folder, loaded in float32 from safetensors only."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from harness.config.strict import LATER, check
from harness.core import json_text
from harness.core.errors import ConfigError, ModelError, explain
from harness.core.extras import INSTALL
from harness.core.footprint import dimensions
from harness.core.sources import ModelFacts, ModelSource
from harness.models import adapted, folders, loading, rotary, whole
from harness.models.adapted import Adapted
from harness.models.folders import CONFIG, VOCABULARIES
from harness.models.quiet import failures, quiet
from harness.models.vocabulary import read_tokenizer, require_rows
from harness.models.weights import ADAPTER, UNQUANTISED, check_safetensors, file_sha256, first_line, in_python, sizes, weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WHOLE = ("model*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
"""Patterns of the weights of a whole model; FSDP writes an adapter as pytorch_model_fsdp.bin."""


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A causal language model of the hub or a local folder; no network once cached.

    It may be a PEFT adapter: then it is the base with the adapter merged into it.

    Attributes:
        name: such as ``EleutherAI/pythia-160m``, or a folder; ``NAME@REVISION`` also names the
            revision.
        revision: branch, tag or commit of the hub, null for the default branch.
        trust_remote_code: run Python code that comes with the model. Off: a model that needs it is
            rejected.
        context_length: longest input in tokens; null takes it from the model's config.
        base: the model that an adapter is loaded onto, NAME or NAME@REVISION; null is the one that
            its adapter_config.json names, with its revision.
        quantization: ``nf4`` or ``fp4`` loads linear layers with 4 bits a weight, their scales
            quantised too (Dettmers et al. 2023, QLoRA, arXiv 2305.14314), by bitsandbytes; only
            adapters train then. Volume 0 is measured on these weights.
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    context_length: int | None = None
    base: str | None = field(default=None, metadata=LATER)
    quantization: Literal["nf4", "fp4"] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        """Check ranges."""
        check("model.name", self.name, "a hub name such as EleutherAI/pythia-160m, or a folder", lambda v: bool(v.strip()))
        if self.revision is not None and (folders.split(self.name)[1] or self.revision) != self.revision:
            fix = "name the revision once"
            raise ConfigError(explain("model.revision", got=f"{self.revision} for {self.name}", allowed="one revision", fix=fix))
        check("model.context_length", self.context_length, "null or greater than 0", lambda v: v is None or v > 0)

    def facts(self) -> ModelFacts:
        """Return size, context length and content hashes, without building the model.

        Raises ModelError where it cannot be loaded.
        """
        folder = self._folder()
        self._require_quantizer(folder)
        if found := self._adapted(folder):
            facts = found.facts()
            return dataclasses.replace(facts, context_length=self.context_length or facts.context_length)
        config = self._config(folder)
        weights = weight_files(folder)
        self._tensors(weights)
        self._check_tokenizer(folder, int(config.get_text_config().vocab_size))
        content = {file.name: file_sha256(file) for file in folders.small_files(folder, code=self.trust_remote_code) + weights}
        if self.quantization:
            content["quantization"] = self.quantization
        return ModelFacts(
            context_length=self._context_length(config),
            content=content,
            dropout=_dropout(config),
            vocabulary=int(config.get_text_config().vocab_size),
            batch_limit=rotary.limit(config),
            dimensions=dimensions(config.get_text_config().to_dict()),
            **sizes(content, lambda: self._described(folder)),
        )

    def longest_input(self) -> int:
        """Return its context length in tokens, from its config. Raises ModelError."""
        folder = self._folder(weights=False)
        if found := self._adapted(folder):
            return self.context_length or found.base.longest_input()
        return self._context_length(self._config(folder))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a fresh tokenizer. Raises ModelError."""
        folder = self._folder(weights=False)
        if found := self._adapted(folder):
            return found.tokenizer()
        return read_tokenizer(self.name, folder, trust=self.trust_remote_code)

    def load(self) -> PreTrainedModel:
        """Return the model in float32 or quantised, in evaluation mode, on the CPU.

        Raises ModelError, also if a weight is missing.
        """
        return self.load_onto("cpu")

    def load_onto(self, device: str | torch.device) -> PreTrainedModel:
        """Return the same model on a device, its weights read from the files straight onto it.

        An adapter is merged on the CPU first. Weights are quantised there, and buffers of a model's
        own code made there, since another device may round them otherwise.
        """
        folder = self._folder()
        if found := self._adapted(folder):
            return cast(Any, found.load()).to(device)  # type: ignore[no-any-return]
        straight = _loads_onto_devices() and not self.quantization and not self.trust_remote_code
        model: PreTrainedModel = cast(Any, self._whole(folder, device=device if straight else "cpu")).eval().to(device)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):  # else bitsandbytes evaluates in bfloat16, and packs the weights anew
                cast(Any, module).support_avx512bf16_for_cpu = False
        return model

    def _whole(self, folder: Path, *, device: str | torch.device) -> PreTrainedModel:
        """Return the model of a folder on a device; on the meta device no weight is read.

        Raises ModelError unless it is exactly its files.
        """
        files = weight_files(folder)
        shapes = self._tensors(files)
        with quiet():
            import torch
            from transformers import AutoModelForCausalLM

            try:
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=self.trust_remote_code,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are rejected by name
                    **(self._quantized() if str(device) == "cpu" else {"device_map": {"": device}}),
                )
            except failures() as error:
                raise ModelError(self._explain("weights", error)) from error
        model, report = loaded
        whole.require_used(self.name, report, shapes, json_text.loads((folder / CONFIG).read_text()))
        whole.require_tied(self.name, model, files)
        return cast("PreTrainedModel", model)

    def _described(self, folder: Path) -> PreTrainedModel:
        """Return the model on the meta device, once it is known to be its files.

        Raises ModelError.
        """
        if _loads_onto_devices():
            self._whole(folder, device="meta")
        return self.skeleton()

    def weights_sha256(self) -> str:
        """Return a SHA-256 over the names and hashes of the weight files, by name."""
        folder = self._folder()
        if found := self._adapted(folder):
            return found.weights_sha256()
        lines = [f"{file.name} {file_sha256(file)}" for file in weight_files(folder)]
        lines += [f"quantization {self.quantization}"] if self.quantization else []
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _require_quantizer(self, folder: Path) -> None:
        """Raise ModelError where quantised weights are asked for that cannot be made."""
        if self.quantization and importlib.util.find_spec("bitsandbytes") is None:
            fix = INSTALL.format(extra="quantized")
            raise ModelError(explain("model.quantization", got=f"{self.quantization} without bitsandbytes", allowed="null", fix=fix))
        if self.quantization and (folder / ADAPTER).is_file():
            got = f"{self.quantization} for {self.name}, an adapter that is merged into its base"
            raise ModelError(
                explain("model.quantization", got=got, allowed="null for adapters", fix="save the merged model, and load that")
            )

    def _quantized(self) -> dict[str, Any]:
        """Return the argument that quantises a model while it is loaded; empty for none."""
        if not self.quantization:
            return {}
        import torch
        from transformers import BitsAndBytesConfig

        made = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,  # autocast has the last word
        )
        return {"quantization_config": made}

    def _tensors(self, files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors. Raises ModelError, also for one in two files."""
        found: dict[str, tuple[int, ...]] = {}
        for file in files:
            header = check_safetensors(file)
            if twice := sorted(found.keys() & header.keys()):
                got, fix = f"tensor {twice[0]} in two files, one of them {file.name}", "fetch or save the model again"
                raise ModelError(explain(f"model {self.name}", got=got, allowed="each tensor once", fix=fix))
            found |= {name: tuple(entry["shape"]) for name, entry in header.items()}
        return found

    def named_base(self) -> str | None:
        """Return the base that an adapter names, empty without one; None for a whole model.

        Raises ModelError.
        """
        folder = self._folder(weights=False)
        return adapted.named_base(adapted.settings(folder)) if (folder / ADAPTER).is_file() else None

    def base_model(self) -> ModelSource | None:
        """Return the model that an adapter is loaded onto; None for a whole model.

        Raises ModelError.
        """
        folder = self._folder(weights=False)
        found = self._adapted(folder)
        return found.base if found else None

    @property
    def _place(self) -> tuple[str, str | None]:
        """Name and revision."""
        name, revision = folders.split(self.name)
        return name, revision or self.revision

    def _folder(self, *, weights: bool = True) -> Path:
        """Return the folder with its files, see ``folders.find``."""
        name, revision = self._place
        return folders.find(name, revision, weights=weights, code=self.trust_remote_code)

    def _adapted(self, folder: Path) -> Adapted | None:
        """Return the adapter in a folder with its base; None for a whole model.

        Raises ModelError for a folder with both: transformers would add the adapter to weights that
        may have it already.
        """
        if not (folder / ADAPTER).is_file():
            if self.base is not None:
                got = f"'{self.base}' for {self.name}, a whole model"
                fix = f"model={self.name} without model.base"
                raise ModelError(explain("model.base", got=got, allowed="null; only an adapter has a base", fix=fix))
            return None
        if weights := sorted(path.name for pattern in WHOLE for path in folder.glob(pattern)):
            got, fix = f"{weights[0]} and {ADAPTER}", f"delete {weights[0]}, or the adapter if it is merged into these weights"
            raise ModelError(explain(f"model {self.name}", got=got, allowed="a whole model or an adapter", fix=fix))
        settings = adapted.settings(folder)
        wanted = adapted.base_of(self.name, settings, self.base)
        base = loading.named(wanted) or HubModel(name=wanted, trust_remote_code=self.trust_remote_code, context_length=self.context_length)
        return Adapted(name=self.name, folder=folder, base=base, base_name=wanted, named=adapted.named_base(settings))

    def _config(self, folder: Path) -> PreTrainedConfig:
        """Return the config.

        Raises ModelError for a model that is not a causal language model, or that needs code of its
        own without ``trust_remote_code``.
        """
        with quiet():
            from transformers import AutoConfig
            from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

            try:
                values = json_text.loads((folder / "config.json").read_text())
                if "auto_map" in values and values.get("model_type") not in CAUSAL and not self.trust_remote_code:
                    fix = "model.trust_remote_code=true, if you trust it"
                    raise ModelError(
                        explain(f"model {self.name}", got="a model with Python code of its own", allowed="none by default", fix=fix)
                    )
                if quantised := values.get("quantization_config"):
                    kind = quantised.get("quant_method") or "an unknown method" if isinstance(quantised, dict) else "an unknown method"
                    got = f"quantization_config ({kind}) in its config.json"
                    raise ModelError(explain(f"model {self.name}", got=got, allowed="weights as floating point", fix=UNQUANTISED))
                config = AutoConfig.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
                architectures = [str(name) for name in config.architectures or []]
                int(config.get_text_config().vocab_size)
            except failures() as error:
                raise ModelError(self._explain("config.json", error)) from error
        known = config.model_type in CAUSAL or "AutoModelForCausalLM" in (values.get("auto_map") or {})
        endings = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", str(CAUSAL.get(config.model_type, "")) or "ForCausalLM")
        if config.is_encoder_decoder or not known or (architectures and not any(name.endswith(endings) for name in architectures)):
            got = f"{config.model_type} ({', '.join(architectures) or 'no architecture'})"
            fix = "a decoder-only model, such as one of `harness list model`"
            raise ModelError(explain(f"model {self.name}", got=got, allowed="causal language models", fix=fix))
        return cast("PreTrainedConfig", config)

    def _check_tokenizer(self, folder: Path, rows: int) -> None:
        """Raise ModelError without a tokenizer, or for token ids beyond the embedding's rows."""
        if not any((folder / name).is_file() for name in VOCABULARIES):
            fix = in_python("AutoTokenizer", "BASE", str(folder))
            allowed = f"one of {', '.join(VOCABULARIES)}"
            raise ModelError(explain(f"model {self.name}", got=f"no tokenizer in {folder}", allowed=allowed, fix=fix))
        require_rows(self.name, self.tokenizer(), rows)

    def skeleton(self) -> PreTrainedModel:
        """Return the model on the meta device, where nothing is allocated: to count parameters."""
        import torch
        from transformers import AutoModelForCausalLM

        folder = self._folder()
        if found := self._adapted(folder):
            return found.skeleton()
        config = self._config(folder)
        with quiet(), torch.device("meta"):
            try:
                model: PreTrainedModel = cast(Any, AutoModelForCausalLM).from_config(config, trust_remote_code=self.trust_remote_code)
            except failures() as error:
                raise ModelError(self._explain("config.json", error)) from error
        return model

    def _context_length(self, config: PreTrainedConfig) -> int:
        if self.context_length:
            return self.context_length
        length = getattr(config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(length, int) or length < 1:
            where, fix = f"model {self.name}: context length", "set model.context_length"
            got = "none in config.json" if length is None else f"max_position_embeddings {length!r} in config.json"
            raise ModelError(explain(where, got=got, allowed="max_position_embeddings, a number greater than 0", fix=fix))
        return length

    def _explain(self, part: str, error: Exception) -> str:
        return explain(f"model {self.name}: {part}", got=first_line(error), allowed="files that transformers can read")


def _loads_onto_devices() -> bool:
    """Return whether transformers loads onto a device by itself, the meta device included."""
    import transformers

    return int(transformers.__version__.partition(".")[0]) >= 5


def _dropout(config: PreTrainedConfig) -> float:
    """Return the largest rate at which a model drops in training, by its config.

    Heads of other tasks (classification, summaries) are left out. A rate in a key that does not
    name it is not found.
    """
    return max(_rates(config.get_text_config().to_dict()), default=0.0)


def _rates(values: Mapping[str, Any]) -> Iterator[float]:
    """Yield the values of keys that name a rate of dropping, or of noise on a router."""
    for name, value in values.items():
        key = str(name)
        if isinstance(value, Mapping):
            yield from _rates(value)
        elif key.startswith(("classifier", "summary")) or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        elif any(word in key for word in ("drop", "jitter")):
            yield float(value)
