"""Examples to batches: rows of similar length together, padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.interfaces import Example

if TYPE_CHECKING:
    import torch


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of rows that go together, longest first, at most so many padded tokens (a longer row alone)."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(order):
        batch = order[start : start + max(1, tokens // lengths[order[start]])]
        yield batch
        start += len(batch)


def stack(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask of rows, int64 of shape (B, T), padded on the right."""
    import torch

    longest = max(len(example.input_ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for i, example in enumerate(examples):
        ids[i, : len(example.input_ids)] = torch.tensor(example.input_ids)
        attention[i, : len(example.input_ids)] = 1
    return ids, attention
