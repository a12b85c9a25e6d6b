"""Rows to batches of similar length, padded on the right.

Batches become smaller where memory runs out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from harness.core.memory import out_of_memory
from harness.core.rows import Example

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield batches of row numbers, longest rows first.

    Args:
        lengths: of the rows, in tokens.
        tokens: most padded tokens of a batch; a longer row is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(order):
        batch = order[start : start + max(1, tokens // lengths[order[start]])]
        yield batch
        start += len(batch)


def run(lengths: Sequence[int], tokens: int, measure: Callable[[list[int]], Found]) -> Iterator[tuple[list[int], Found]]:
    """Measure rows in batches, halving a batch that runs out of memory.

    Args:
        lengths: of the rows, in tokens.
        tokens: most padded tokens of a batch.
        measure: takes the row numbers of a batch.

    Yields:
        The row numbers of a batch, and its measurement.
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
