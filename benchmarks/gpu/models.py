"""Models with random weights, built on the device that they run on, and texts for them."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.config.yaml_files import load_yaml
from harness.core.footprint import dimensions
from harness.core.seeds import seed_torch, untouched_global_streams
from harness.core.sources import ModelFacts
from harness.data.tinyworld import vocabulary
from harness.models.weights import sizes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PUBLISHED = Path(__file__).parents[1] / "dimensions.yaml"

LLAMA = {"model_type": "llama", "tie_word_embeddings": True}
OWN: Mapping[str, Mapping[str, Any]] = {
    "tiny": LLAMA
    | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"intermediate_size": 160, "vocab_size": 1024},
    "small": LLAMA
    | {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}
    | {"intermediate_size": 1408, "vocab_size": 32000},
    "large": LLAMA
    | {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
    | {"intermediate_size": 28672, "vocab_size": 128256, "tie_word_embeddings": False},
}
"""Sizes that are not in ``benchmarks/dimensions.yaml``."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A Llama with random weights, which bfloat16 holds without loss, as it does published ones.

    The tokenizer is that of the nursery.

    Attributes:
        size: a name of OWN, or of ``benchmarks/dimensions.yaml``.
        context: longest input in tokens.
    """

    size: str
    context: int = 4096

    loads: ClassVar[int] = 0
    """Models that were loaded in this process."""

    @property
    def config(self) -> dict[str, Any]:
        """Return the entries of its config.json."""
        return dict(OWN[self.size] if self.size in OWN else load_yaml(PUBLISHED)[self.size]["config"])

    def facts(self) -> ModelFacts:
        """Return sizes counted on the meta device."""
        content = {"built": json.dumps(self.config, sort_keys=True)}
        found = sizes(content, functools.partial(self.build, "meta"))
        return ModelFacts(context_length=self.context, content=content, dimensions=dimensions(self.config), **found)

    def longest_input(self) -> int:
        """Return its context length in tokens."""
        return self.context

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the nursery's tokenizer."""
        made: PreTrainedTokenizerBase = vocabulary.tokenizer()
        made.model_max_length = self.context
        return made

    def load(self) -> PreTrainedModel:
        """Return the model in float32, in evaluation mode, on the GPU if there is one."""
        import torch

        Built.loads += 1
        model = self.build("cuda" if torch.cuda.is_available() else "cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())
        return model

    def weights_sha256(self) -> str:
        """Return its size, which decides the weights on one kind of device."""
        return f"built {self.size}"

    def build(self, device: str | torch.device) -> PreTrainedModel:
        """Return the model on a device, always with the same weights there."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        pad, begin, end = (vocabulary.VOCABULARY.index(word) for word in (vocabulary.PAD, vocabulary.BEGIN, vocabulary.END))
        config = AutoConfig.for_model(
            **self.config, max_position_embeddings=self.context, pad_token_id=pad, bos_token_id=begin, eos_token_id=end
        )
        with untouched_global_streams(), torch.device(device):
            seed_torch(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return model.eval()


def text(words: int, *names: object) -> str:
    """Return a text of so many random words, one token each; ``names`` decide which."""
    known = [word for word in vocabulary.VOCABULARY if word not in vocabulary.SPECIAL]
    return " ".join(random.Random(" ".join(map(str, names))).choices(known, k=words))


def write_rows(file: Path, rows: int, words: int) -> Path:
    """Write text rows, every other an eighth shorter, so that batches need padding and a mask."""
    lines = [json.dumps({"text": text(words - number % 2 * words // 8, "row", number)}) for number in range(rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
