"""Pretrained models of the hub or a local folder, loaded in float32 from safetensors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.config.strict import check
from harness.core.errors import ModelError, explain
from harness.core.sources import ModelFacts
from harness.models import rotary
from harness.models.weights import INDEX, check_safetensors, file_sha256, first_line, sizes, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SETTINGS = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""At least one of these makes a tokenizer."""


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A causal language model of the hub or a local folder; no network once cached.

    Attributes:
        name: such as ``EleutherAI/pythia-160m``, or a folder.
        revision: branch, tag or commit of the hub, null for the default branch.
        trust_remote_code: run Python code that comes with the model. Off: a model that needs it is
            rejected.
        context_length: longest input in tokens; null takes it from the model's config.
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    context_length: int | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        check("model.name", self.name, "a hub name such as EleutherAI/pythia-160m, or a folder", lambda v: bool(v.strip()))
        check("model.context_length", self.context_length, "null or greater than 0", lambda v: v is None or v > 0)

    def facts(self) -> ModelFacts:
        """Return size, context length and content hashes, without building the model.

        Raises ModelError where it cannot be loaded.
        """
        folder = self._folder()
        config = self._config(folder)
        weights = weight_files(folder)
        for file in weights:
            check_safetensors(file)
        self._check_tokenizer(folder, int(config.get_text_config().vocab_size))
        small = {file.name: file_sha256(file) for file in self._small_files(folder)}
        return ModelFacts(
            context_length=self._context_length(config),
            content=small | {file.name: file_sha256(file) for file in weights},
            dropout=_dropout(config),
            vocabulary=int(config.get_text_config().vocab_size),
            batch_limit=rotary.limit(config),
            **sizes(small, lambda: self._without_weights(config)),
        )

    def longest_input(self) -> int:
        """Return its context length in tokens, from its config. Raises ModelError."""
        return self._context_length(self._config(self._folder(weights=False)))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a fresh tokenizer. Raises ModelError."""
        folder = self._folder(weights=False)
        with quiet():
            from transformers import AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
                raise ModelError(self._explain("tokenizer", error)) from error
        return cast("PreTrainedTokenizerBase", tokenizer)

    def load(self) -> PreTrainedModel:
        """Return the model in float32, in evaluation mode, on the CPU.

        Raises ModelError, also if a weight is missing.
        """
        folder = self._folder()
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
                )
            except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
                raise ModelError(self._explain("weights", error)) from error
        model, loading = loaded
        for problem in ("missing_keys", "mismatched_keys"):
            if names := sorted(map(str, loading[problem])):
                got = f"{len(names)} {problem.replace('_', ' ')}, the first is {names[0]}"
                fix = "they would be random; use a checkpoint that holds every weight"
                raise ModelError(explain(f"model {self.name}", got=got, allowed="none", fix=fix))
        return cast("PreTrainedModel", model.eval())

    def weights_sha256(self) -> str:
        """Return a SHA-256 over the names and hashes of the weight files, by name."""
        lines = [f"{file.name} {file_sha256(file)}" for file in weight_files(self._folder())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _folder(self, *, weights: bool = True) -> Path:
        """Return the folder with the model's files, fetched from the hub if need be.

        Without ``weights``, all files but the weights. Raises ModelError.
        """
        local = Path(self.name).expanduser()
        if local.is_dir():
            if not (local / "config.json").is_file():
                got = f"'{self.name}', a directory without config.json"
                raise ModelError(explain("model.name", got=got, allowed="a folder as save_pretrained writes it"))
            return local
        if self.name.startswith((".", "/", "~")) or self.name.count("/") > 1:
            fix = "check the path; a relative one starts from the current directory"
            raise ModelError(explain("model.name", got=f"'{self.name}', not a directory", allowed="a folder or a hub name", fix=fix))
        return self._snapshot(weights=weights)

    def _snapshot(self, *, weights: bool) -> Path:
        with quiet():
            import huggingface_hub
            from huggingface_hub import constants

            patterns = [*SETTINGS, *TOKENIZER, *([INDEX, "model*.safetensors"] if weights else [])]
            patterns += ["*.py"] if self.trust_remote_code else []
            offline = constants.HF_HUB_OFFLINE
            try:
                folder = huggingface_hub.snapshot_download(
                    self.name, revision=self.revision, allow_patterns=patterns, local_files_only=offline
                )
            except (OSError, ValueError) as error:
                fix = "check model.name and model.revision"
                fix += ", or fetch it first: HF_HUB_OFFLINE is set" if offline else ", the network, and `hf auth login` for gated models"
                allowed = "a folder, or a hub model that is cached or can be fetched"
                got = f"'{self.name}'{f' at {self.revision}' if self.revision else ''} ({first_line(error)})"
                raise ModelError(explain("model.name", got=got, allowed=allowed, fix=fix)) from error
        if not (Path(folder) / "config.json").is_file():
            raise ModelError(explain("model.name", got=f"'{self.name}' without config.json", allowed="a transformers model"))
        return Path(folder)

    def _config(self, folder: Path) -> PreTrainedConfig:
        """Return the config.

        Raises ModelError for a model that is not a causal language model, or that needs code of its
        own without ``trust_remote_code``.
        """
        with quiet():
            from transformers import AutoConfig
            from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

            try:
                values = json.loads((folder / "config.json").read_text())
                if "auto_map" in values and values.get("model_type") not in CAUSAL and not self.trust_remote_code:
                    fix = "model.trust_remote_code=true, if you trust it"
                    raise ModelError(
                        explain(f"model {self.name}", got="a model with Python code of its own", allowed="none by default", fix=fix)
                    )
                config = AutoConfig.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
                raise ModelError(self._explain("config.json", error)) from error
        architectures = [str(name) for name in config.architectures or []]
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
            raise ModelError(explain(f"model {self.name}", got=f"no tokenizer in {folder}", allowed=f"one of {', '.join(VOCABULARIES)}"))
        tokenizer = self.tokenizer()
        # Unused added tokens may be beyond the rows (an image token in a text model), tokens of
        # any text may not.
        used = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        highest = max(tokenizer.vocab_size - 1, *(int(token) for token in used if token is not None), 0)
        if highest >= rows:
            got, allowed = f"a tokenizer with token {highest}", f"at most {rows - 1}: the model has {rows} rows"
            raise ModelError(explain(f"model {self.name}", got=got, allowed=allowed, fix="use the model's own tokenizer"))

    def _without_weights(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Return the model on the meta device, where nothing is allocated: to count parameters."""
        import torch
        from transformers import AutoModelForCausalLM

        with quiet(), torch.device("meta"):
            try:
                model: PreTrainedModel = cast(Any, AutoModelForCausalLM).from_config(config, trust_remote_code=self.trust_remote_code)
            except (ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
                raise ModelError(self._explain("config.json", error)) from error
        return model

    def _context_length(self, config: PreTrainedConfig) -> int:
        if self.context_length:
            return self.context_length
        length = getattr(config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(length, int) or length < 1:
            where, fix = f"model {self.name}: context length", "set model.context_length"
            raise ModelError(explain(where, got="none in config.json", allowed="max_position_embeddings", fix=fix))
        return length

    def _small_files(self, folder: Path) -> list[Path]:
        """Return the files other than weights that decide its outputs."""
        code = sorted(folder.glob("*.py")) if self.trust_remote_code else []
        return [folder / name for name in [*SETTINGS, *TOKENIZER] if (folder / name).is_file()] + code

    def _explain(self, part: str, error: Exception) -> str:
        return explain(f"model {self.name}: {part}", got=first_line(error), allowed="files that transformers can read")


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


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off the libraries' progress bars and notices for a while: they disturb our display."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    noise: Any = logging
    level, bars, hub_bars = noise.get_verbosity(), noise.is_progress_bar_enabled(), not are_progress_bars_disabled()
    noise.set_verbosity_error()
    noise.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
