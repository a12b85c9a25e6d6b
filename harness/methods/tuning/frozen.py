"""Full fine-tuning without the bottom: embeddings and the first blocks are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.config.strict import check
from harness.core.errors import ConfigError, explain
from harness.methods.tuning.full import Full

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.core.sources import ModelFacts


@dataclass(frozen=True, kw_only=True)
class Frozen(Full):
    """Every weight moves, in float32, except embeddings and the bottom ``layers`` blocks.

    Embeddings are those of tokens and of learned positions. An output head that is tied to them is
    the same weight, so it is frozen too; a separate one moves, and so does the norm before it.

    Paper: Zheng et al. 2025, Spurious Forgetting in Continual Learning of Language Models, arXiv
    2501.13453 (Freeze). Differs from the paper: a third of the blocks unless given, while the paper
    chooses their number for each model and task. Checked against: parameters counted by hand, and
    weights after training.

    Attributes:
        layers: frozen blocks, from the bottom; null is a third of them, rounded. 0 freezes the
            embeddings alone.
    """

    layers: int | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        check("tuning.layers", self.layers, "null (a third of them) or 0 or greater", lambda value: value is None or value >= 0)

    def resolved_settings(self, facts: ModelFacts) -> Mapping[str, Any]:
        """Return the number of frozen blocks."""
        return {"layers": self.resolved(len(facts.blocks))}

    def resolved(self, blocks: int) -> int:
        """Return the number of frozen blocks. Raises ConfigError if no block would move."""
        count = round(blocks / 3) if self.layers is None else self.layers
        if count >= blocks:
            raise ConfigError(explain("tuning.layers", got=count, allowed=f"0 to {blocks - 1}: the model has {blocks} blocks"))
        return count

    def trainable(self, facts: ModelFacts) -> int:
        """Return all parameters except those of embeddings and frozen blocks."""
        return facts.params_total - facts.embeddings - sum(facts.blocks[: self.resolved(len(facts.blocks))])

    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Mark the trainable parameters in place. Draws no random numbers.

        Raises:
            ConfigError: if no block would move.
            ModelError: for a model whose blocks are not in a list.
        """
        from harness.models import anatomy

        blocks = anatomy.blocks(model)
        bottom = blocks[: self.resolved(len(blocks))]
        model.requires_grad_(True)
        for parameter in [*anatomy.embeddings(model), *(parameter for block in bottom for parameter in block.parameters())]:
            parameter.requires_grad_(False)
        return model

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return the numbers of frozen blocks, blocks and trainable parameters."""
        from harness.models import anatomy

        count = len(anatomy.blocks(model))
        return {"frozen_layers": self.resolved(count), "layers": count, **super().facts(model)}
