"""Supervised fine-tuning: cross-entropy on answers, one row a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.core.methods import Objective
from harness.core.rows import NO_LOSS, Example, Origin, PromptFormat, Row, RowKind
from harness.data import tokens
from harness.models.batches import padded_batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True, kw_only=True)
class Sft(Objective):
    """Cross-entropy on the supervised tokens of each row (see harness/data/tokens.py).

    Text rows are accepted, with all of their tokens supervised, so that plain text can be the
    anchor of an instruction-tuned run.

    Attributes:
        prompt_format: ``plain`` joins prompt and completion unchanged; ``chat`` uses the model's
            chat template.
    """

    needs: ClassVar[frozenset[RowKind]] = frozenset({"completion", "chat", "text"})

    prompt_format: PromptFormat = "plain"

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Return a row as tokens with its mask, cut at ``max_length`` tokens."""
        return tokens.encode(row, tokenizer, self.prompt_format, max_length, origin)

    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Return one sequence for each row, (S, T), padded on the right, T ≤ ``max_length``.

        A row's first token has no context to be predicted from, so it has no loss.
        """
        labels = [[NO_LOSS, *supervised_ids(example)[1:]] for example in examples]
        return padded_batch([example.input_ids for example in examples], labels, pad_id)

    def trainer(self) -> type[Trainer]:
        """Return the plain Trainer."""
        from transformers import Trainer

        return Trainer


def supervised_ids(example: Example) -> list[int]:
    """Return the label of each token: its id, or NO_LOSS."""
    return [token if taught else NO_LOSS for token, taught in zip(example.input_ids, example.supervised, strict=True)]
