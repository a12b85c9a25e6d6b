"""Likelihoods of rows under a model, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.core.progress import Progress
from harness.core.rows import Example
from harness.models import batches, rotary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


Mask = Sequence[bool]


def answer_nats(model: PreTrainedModel, examples: Sequence[Example], tokens: int, progress: Progress) -> list[float]:
    """Return the negative log-likelihood of each example's supervised tokens, in nats.

    Args:
        model: in evaluation mode.
        examples: rows as tokens; ``supervised`` marks the answer.
        tokens: padded tokens of one forward pass.
        progress: advanced by rows.

    Returns:
        One non-negative number per example, in their order: −Σ_t log p(x_t | x_<t) over supervised
        t ≥ 1.
    """
    return [total for (total,) in masked_nats(model, examples, [[example.supervised] for example in examples], tokens, progress)]


def masked_nats(
    model: PreTrainedModel, examples: Sequence[Example], masks: Sequence[Sequence[Mask]], tokens: int, progress: Progress
) -> list[list[float]]:
    """Return the nats of the tokens under each of K masks of each example.

    Rows are batched by length and padded on the right; the softmax is float32, sums are float64.
    """
    import torch

    nats: list[list[float]] = [[] for _ in examples]

    def measure(batch: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return _batch_nats(model, [examples[i] for i in batch], [masks[i] for i in batch])

    lengths = [len(example.input_ids) for example in examples]
    for batch, values in batches.run(lengths, tokens, measure, rotary.limit(model.config)):
        for index, value in zip(batch, values.tolist(), strict=True):
            nats[index] = value
        progress.advance(len(batch))
    return nats


def _batch_nats(model: PreTrainedModel, examples: Sequence[Example], masks: Sequence[Sequence[Mask]]) -> torch.Tensor:
    """Return the nats of each row under each mask, shape (B, K)."""
    import torch

    ids, attention = batches.stack(examples)  # (B, T)
    wanted = [batches.padded(of_rows, ids.shape[1]).bool() for of_rows in zip(*masks, strict=True)]  # K masks of shape (B, T)
    device = model.device
    rotary.fresh(model)
    logits = model(input_ids=ids.to(device), attention_mask=attention.to(device)).logits[:, :-1].float()  # (B, T-1, V)
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None].to(device)).squeeze(-1)  # (B, T-1)
    return torch.stack([-log_probs.masked_fill(~marked[:, 1:].to(device), 0.0).double().sum(dim=1).cpu() for marked in wanted], dim=1)
