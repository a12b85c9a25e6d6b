"""A PEFT adapter on its base, merged: a model source like any other, so that it is checked, identified and measured in the same way."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.core.errors import ModelError, explain
from harness.core.sources import ModelFacts, ModelSource
from harness.models.weights import file_sha256, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class AdaptedModel:
    """A base with an adapter merged into it, in float32.

    Attributes:
        base: the model that the adapter was trained on; its tokenizer is used.
        adapter: folder with adapter_config.json and adapter_model.safetensors.
    """

    base: ModelSource
    adapter: str

    def facts(self) -> ModelFacts:
        """Inspect without building: those of the base, with the adapter's files.

        Raises ModelError.
        """
        facts = self.base.facts()
        return ModelFacts(
            params_total=facts.params_total,
            context_length=facts.context_length,
            content={**facts.content, **{file.name: file_sha256(file) for file in self._files()}},
            linear=facts.linear,
        )

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
        model = self.base.load()
        from peft import PeftModel

        where = f"adapter {self.adapter}"
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                adapted: Any = PeftModel.from_pretrained(model, self.adapter)
                merged: Any = adapted.merge_and_unload()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            allowed = "an adapter of this base that can be merged into its weights, such as LoRA"
            raise ModelError(explain(where, got=first_line(error), allowed=allowed, fix="check base_model_name_or_path")) from error
        if lost := [str(one.message) for one in said if "adapter keys" in str(one.message)]:
            got = " ".join(lost[0].split())[:200]
            raise ModelError(explain(where, got=got, allowed="every weight of the adapter in its place", fix="check its base"))
        return cast("PreTrainedModel", merged.eval())

    def weights_sha256(self) -> str:
        """Hash of the base's weight bytes and the adapter's files."""
        lines = [self.base.weights_sha256(), *(f"{file.name} {file_sha256(file)}" for file in self._files())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _files(self) -> list[Path]:
        """Return the files that make the adapter. Raises ModelError."""
        folder = Path(self.adapter).expanduser()
        if not (folder / WEIGHTS).is_file():
            where, allowed = f"adapter {self.adapter}", f"{WEIGHTS}: loading a pickled .bin can run any code"
            raise ModelError(explain(where, got=f"no {WEIGHTS}", allowed=allowed, fix="save it again with save_pretrained"))
        return [folder / CONFIG, folder / WEIGHTS]


def base_of(adapter: str) -> str:
    """Return the base that an adapter names; empty where it names none. Raises ModelError."""
    file = Path(adapter).expanduser() / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(explain(str(file), got=first_line(error), allowed="the settings of a PEFT adapter")) from error
    return str(values.get("base_model_name_or_path") or "") if isinstance(values, dict) else ""
