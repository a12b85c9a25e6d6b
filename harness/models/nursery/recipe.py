"""Sizes and pretraining settings of a nursery model."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.strict import check
from harness.core import seeds
from harness.core.errors import ConfigError, explain


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes and pretraining settings of a nursery model; each is part of its hash.

    Attributes:
        layers, width, heads: of a Llama with tied embeddings and as many key as query heads;
            ``mlp`` is its inner width.
        context: longest input, and length of the sequences it is pretrained on, in tokens.
        tokens: budget of pretraining.
        batch: sequences of one step.
        learning_rate: peak; it rises linearly over ``warmup``, a share of the steps, then falls to
            a tenth on a cosine.
        prompt_weight: weight in the loss of every token but a document's last word, whose weight is
            1: the last word is what can be known (a value, a sum, the form of a verb), the words
            before it are mostly chance.
        seed: of the initial weights and the order of the documents.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    tokens: int
    learning_rate: float
    batch: int = 16
    context: int = 64
    warmup: float = 0.1
    weight_decay: float = 0.01
    prompt_weight: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("layers", "width", "heads", "mlp", "tokens", "learning_rate", "batch"):
            check(f"model.{name}", getattr(self, name), "greater than 0", lambda value: value > 0)
        check("model.context", self.context, "at least 32, the longest texts of tinyworld", lambda value: value >= 32)
        for name in ("warmup", "prompt_weight"):
            check(f"model.{name}", getattr(self, name), "in [0, 1]", lambda value: 0 <= value <= 1)
        check("model.seed", self.seed, seeds.ALLOWED, lambda value: 0 <= value <= seeds.LARGEST)
        check("model.weight_decay", self.weight_decay, "0 or greater", lambda value: value >= 0)
        if self.width % (2 * self.heads):
            raise ConfigError(explain("model.width", got=self.width, allowed=f"a multiple of 2 x model.heads = {2 * self.heads}"))
