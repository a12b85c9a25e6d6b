"""Examples to batches: rows of similar length together, padded on the right.

Where memory runs out, in smaller ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from harness.core.memory import out_of_memory
from harness.core.rows import NO_LOSS, Example

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of rows that go together, longest first, at most so many padded tokens (a longer row alone)."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(order):
        batch = order[start : start + max(1, tokens // lengths[order[start]])]
        yield batch
        start += len(batch)


def run(lengths: Sequence[int], tokens: int, measure: Callable[[list[int]], Found]) -> Iterator[tuple[list[int], Found]]:
    """Measure rows in batches; one for which memory does not suffice is cut in halves, and says so.

    Args:
        lengths: of the rows, in tokens.
        tokens: most padded tokens of a batch.
        measure: takes the numbers of a batch's rows.

    Yields:
        The numbers of a batch's rows, and what was measured.
    """
    waiting = list(batches(lengths, tokens))[::-1]
    while waiting:
        batch, found = waiting.pop(), None
        try:
            found = measure(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
        if found is None:
            logger.warning("out of memory with %d rows; going on with half as many", len(batch))
            middle = len(batch) // 2
            waiting += [batch[middle:], batch[:middle]]
        else:
            yield batch, found


def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Return rows of integers as one tensor, int64 of shape (B, T), padded on the right."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.long)


def padded_batch(ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Return sequences as a batch for training, padded on the right.

    Args:
        ids: B sequences of token ids.
        labels: as many sequences of the same lengths.
        pad_id: follows the end of a sequence in ``input_ids``; masked and without a loss, so any id
            will do.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, each int64 of shape (B, T), with T the
        longest length.
    """
    mask = padded([[1] * len(row) for row in ids], 0)
    return {"input_ids": padded(ids, pad_id), "attention_mask": mask, "labels": padded(labels, NO_LOSS)}


def stack(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask of rows, int64 of shape (B, T), padded on the right."""
    ids = [example.input_ids for example in examples]
    return padded(ids, 0), padded([[1] * len(row) for row in ids], 0)
