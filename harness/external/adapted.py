"""PEFT adapters merged into their base: a model source like any other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import paths
from harness.core.errors import ConfigError, ModelError, explain
from harness.core.sources import ModelFacts, ModelSource
from harness.external.sides import is_adapter
from harness.models.weights import file_sha256, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class AdaptedModel:
    """A base with an adapter merged into it, in float32; implements ``ModelSource``.

    Attributes:
        base: the model that the adapter was trained on; its tokenizer is used.
        adapter: folder with adapter_config.json and adapter_model.safetensors.
    """

    base: ModelSource
    adapter: str

    def facts(self) -> ModelFacts:
        """Return the facts of the base, with the adapter's files in ``content``.

        Raises ModelError.
        """
        facts = self.base.facts()
        files = {file.name: file_sha256(file) for file in self._files()}
        return dataclasses.replace(facts, content={**facts.content, **files})

    def longest_input(self) -> int:
        """Return the base's context length in tokens."""
        return self.base.longest_input()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the base's tokenizer."""
        return self.base.tokenizer()

    def load(self) -> PreTrainedModel:
        """Return the base with the adapter merged, in float32, in evaluation mode, on the CPU.

        Raises ModelError.
        """
        self._files()
        base = self.base.load()
        from peft import PeftModel

        where = f"adapter {self.adapter}"
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                adapted: Any = PeftModel.from_pretrained(base, self.adapter)
                merged: PreTrainedModel = adapted.merge_and_unload().eval()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            allowed = "an adapter of this base that can be merged into its weights, such as LoRA"
            raise ModelError(explain(where, got=first_line(error), allowed=allowed, fix="check base_model_name_or_path")) from error
        if lost := [str(one.message) for one in caught if "adapter keys" in str(one.message)]:
            got = " ".join(lost[0].split())[:200]
            raise ModelError(explain(where, got=got, allowed="an adapter whose weights all belong to its base", fix="check its base"))
        return merged

    def weights_sha256(self) -> str:
        """Return the hash of the base's weight bytes and the adapter's files."""
        lines = [self.base.weights_sha256(), *(f"{file.name} {file_sha256(file)}" for file in self._files())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _files(self) -> list[Path]:
        """Return the adapter's files. Raises ModelError."""
        folder = Path(self.adapter).expanduser()
        if not (folder / WEIGHTS).is_file():
            where, allowed = f"adapter {self.adapter}", f"{WEIGHTS} (loading a pickled .bin can run any code)"
            raise ModelError(
                explain(where, got=f"a directory without {WEIGHTS}", allowed=allowed, fix="save it again with save_pretrained")
            )
        return [folder / CONFIG, folder / WEIGHTS]


def adapter_of(source: str) -> str | None:
    """Return the folder of an adapter, downloaded from the hub if needed.

    None if the source is a whole model, or unknown: loading it as a model gives the reason.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder) if is_adapter(folder) else None
    if source in paths.members("conf/model"):
        return None
    import huggingface_hub
    from huggingface_hub import constants

    try:
        fetched = huggingface_hub.snapshot_download(source, allow_patterns=["adapter_*"], local_files_only=constants.HF_HUB_OFFLINE)
    except (OSError, ValueError):
        return None
    return fetched if is_adapter(Path(fetched)) and not (Path(fetched) / "config.json").is_file() else None


def base_of(adapter: str) -> str:
    """Return the base that an adapter names; empty if it names none. Raises ModelError."""
    file = Path(adapter).expanduser() / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(explain(str(file), got=first_line(error), allowed="the settings of a PEFT adapter")) from error
    return str(values.get("base_model_name_or_path") or "") if isinstance(values, dict) else ""


def base_for(source: str, adapter: str, fallback: str | None) -> tuple[str, list[str]]:
    """Return the model that an adapter is loaded onto, and notes for the reader.

    It is the base that the adapter names, or else ``fallback``.

    Args:
        source: of the adapter, as the user typed it.
        adapter: its folder.
        fallback: the model before it, if there is one.

    Raises:
        ConfigError: if the named base does not exist and the fallback is not a whole model.
    """
    named = base_of(adapter)
    is_path = named.startswith((".", "/", "~")) or named.count("/") > 1
    if named and (Path(named).expanduser().is_dir() or not is_path):
        is_other = fallback is not None and not _is_same(named, fallback)
        return named, [f"{source} is loaded onto its own base, {named}"] if is_other else []
    if fallback is None or is_adapter(Path(fallback).expanduser()):
        got, fix = f"base_model_name_or_path {named!r}", f"set it in {CONFIG} to a folder or a hub name"
        raise ConfigError(explain(f"adapter {source}", got=got, allowed="a base that exists", fix=fix))
    return fallback, [f"{source} names a base that does not exist ({named or 'none'}): loaded onto BEFORE, {fallback}"]


def _is_same(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
