"""Supervised fine-tuning: learn the answers, one row a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.core.methods import Objective
from harness.core.rows import Example, Origin, PromptFormat, Row, RowKind
from harness.data import tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer

NO_LOSS = -100
"""The label that cross-entropy leaves out."""


@dataclass(frozen=True, kw_only=True)
class Sft(Objective):
    """Cross-entropy on the supervised tokens of each row.

    See harness/data/tokens.py for which those are.

    Text rows are taken too, all of their tokens supervised, so that plain text can stand as the
    anchor of an instruction-tuned run.

    Attributes:
        prompt_format: ``plain`` joins prompt and completion as they are; ``chat`` uses the model's
            chat template.
    """

    needs: ClassVar[frozenset[RowKind]] = frozenset({"completion", "chat", "text"})

    prompt_format: PromptFormat = "plain"

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Turn a row into tokens with its mask, cut at ``max_length`` tokens."""
        return tokens.encode(row, tokenizer, self.prompt_format, max_length, origin)

    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Make one sequence of each row, padded on the right to the longest: (S, T) with S rows and T ≤ ``max_length``.

        A row's first token has nothing before it to be predicted from, so its label is -100.
        """
        labels = [[NO_LOSS, *supervised_ids(example)[1:]] for example in examples]
        return padded([example.input_ids for example in examples], labels, pad_id)

    def trainer(self) -> type[Trainer]:
        """Return the plain Trainer."""
        from transformers import Trainer

        return Trainer


def supervised_ids(example: Example) -> list[int]:
    """Return the label of each token: its id, or -100 where it has no loss."""
    return [token if taught else NO_LOSS for token, taught in zip(example.input_ids, example.supervised, strict=True)]


def padded(ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Stack sequences of any lengths, padded on the right.

    Args:
        ids: S sequences of token ids.
        labels: as many sequences of the same lengths.
        pad_id: stands in ``input_ids`` where a sequence has ended; masked and without a loss, so
            any id will do.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, each int64 of shape (S, T), T the longest
        length.
    """
    import torch

    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in ids]),
        "attention_mask": torch.tensor([[*[1] * len(row), *[0] * (width - len(row))] for row in ids]),
        "labels": torch.tensor([[*row, *[NO_LOSS] * (width - len(row))] for row in labels]),
    }
