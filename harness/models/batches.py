"""Rows to batches of similar length, padded on the right.

Batches become smaller where memory runs out.
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


def batches(lengths: Sequence[int], tokens: int, alone_above: int | None = None) -> Iterator[list[int]]:
    """Yield batches of row numbers, longest rows first.

    Args:
        lengths: of the rows, in tokens.
        tokens: most padded tokens of a batch; a longer row is a batch of its own.
        alone_above: a row longer than this is a batch of its own (``rotary.limit``).
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        alone = alone_above is not None and longest > alone_above
        batch = order[start : start + (1 if alone else max(1, tokens // longest))]
        yield batch
        start += len(batch)


def run(
    lengths: Sequence[int], tokens: int, measure: Callable[[list[int]], Found], alone_above: int | None = None
) -> Iterator[tuple[list[int], Found]]:
    """Measure rows in batches, halving a batch that runs out of memory.

    Args:
        lengths: of the rows, in tokens.
        tokens: most padded tokens of a batch.
        measure: takes the row numbers of a batch.
        alone_above: see ``batches``.

    Yields:
        The row numbers of a batch, and its measurement.
    """
    waiting = list(batches(lengths, tokens, alone_above))[::-1]
    while waiting:
        batch, found = waiting.pop(), None
        try:
            found = measure(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
        if found is None:
            logger.warning("out of memory with %d rows; continuing with half as many", len(batch))
            middle = len(batch) // 2
            waiting += [batch[middle:], batch[:middle]]
        else:
            yield batch, found


def stack(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, int64 of shape (B, T), padded on the right."""
    ids = [example.input_ids for example in examples]
    return padded(ids), padded([[1] * len(row) for row in ids])


def padded(rows: Sequence[Sequence[int]], width: int | None = None, *, pad: int = 0) -> torch.Tensor:
    """Return integer rows padded on the right, int64 of shape (B, T).

    Args:
        rows: ids, labels, or masks of 0 and 1.
        width: T; the longest row by default.
        pad: value of the padding.
    """
    import torch

    width = max(map(len, rows)) if width is None else width
    found = torch.full((len(rows), width), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return found


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
    mask = padded([[1] * len(row) for row in ids])
    return {"input_ids": padded(ids, pad=pad_id), "attention_mask": mask, "labels": padded(labels, pad=NO_LOSS)}
