"""Likelihood measures that lm-eval has no metric for: nats per token of held-out gold answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from harness.errors import EvaluationError, explain
from harness.interfaces import Example, Progress, PromptFormat, Row

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS_PER_BATCH = 2048
"""Padded tokens of one forward pass; bounds the logits to about 0.4 GB at a vocabulary of 50k in float32."""


def answer_nats(model: PreTrainedModel, examples: Sequence[Example], progress: Progress) -> list[float]:
    """Return the negative log-likelihood of each example's supervised tokens given all that precedes them, in nats.

    Rows are batched by length and padded on the right; the softmax is taken in float32.

    Args:
        model: in evaluation mode.
        examples: rows of token ids; ``supervised`` marks the answer.
        progress: advanced by rows.

    Returns:
        One non-negative number an example, in their order: −Σ_t log p(x_t | x_<t) over supervised t ≥ 1.
    """
    import torch

    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids), reverse=True)
    nats = [0.0] * len(examples)
    start = 0
    while start < len(order):
        longest = len(examples[order[start]].input_ids)
        batch = order[start : start + max(1, TOKENS_PER_BATCH // longest)]
        with torch.inference_mode():
            values = _batch_nats(model, [examples[i] for i in batch], longest)
        for index, value in zip(batch, values.tolist(), strict=True):
            nats[index] = value
        progress.advance(len(batch))
        start += len(batch)
    return nats


def _batch_nats(model: PreTrainedModel, examples: Sequence[Example], longest: int) -> torch.Tensor:
    """Return the nats of each row, shape (B,)."""
    import torch

    ids = torch.zeros(len(examples), longest, dtype=torch.long)  # (B, T)
    attention = torch.zeros_like(ids)
    wanted = torch.zeros(len(examples), longest, dtype=torch.bool)
    for i, example in enumerate(examples):
        length = len(example.input_ids)
        ids[i, :length] = torch.tensor(example.input_ids)
        attention[i, :length] = 1
        wanted[i, :length] = torch.tensor(example.supervised)
    device = model.device
    logits = model(input_ids=ids.to(device), attention_mask=attention.to(device)).logits[:, :-1].float()  # (B, T-1, V)
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None].to(device)).squeeze(-1)  # (B, T-1)
    return -(log_probs * wanted[:, 1:].to(device)).double().sum(dim=1).cpu()


def samples(
    suite: str,
    task: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    ids: Sequence[int],
    prompt_format: PromptFormat,
    max_length: int,
    progress: Progress,
) -> pd.DataFrame:
    """Score the gold answers of rows, one sample an item.

    The metric is nats per token, Σ nats / Σ tokens over items: an item's value is its own mean, its weight its supervised tokens.

    Returns:
        Columns as in schema.SAMPLE_COLUMNS, with ``metric.nats_per_token`` and ``weight.nats_per_token``, and ``truncated``.
    """
    from harness.data.tokens import encode

    examples = [encode(row, tokenizer, prompt_format, max_length, "target") for row in rows]
    if cut := sum(example.supervised_tokens == 0 for example in examples):
        got = f"{cut} of {len(examples)} answers beyond the model's {max_length} tokens"
        raise EvaluationError(explain(f"suite {suite}", got=got, allowed="answers within the context", fix="a model with a longer context"))
    nats = answer_nats(model, examples, progress)
    if broken := sum(not math.isfinite(value) for value in nats):
        got = f"{broken} of {len(nats)} answers without a finite likelihood"
        raise EvaluationError(explain(f"suite {suite}", got=got, allowed="numbers", fix="look for diverged weights"))
    table = []
    for index, row, example, value in zip(ids, rows, examples, nats, strict=True):
        prompt = "\n".join(turn.content for turn in row.turns[:-1])
        target, tokens = row.turns[-1].content, example.supervised_tokens
        table.append(
            {
                "suite": suite,
                "task": task,
                "filter": "none",
                "doc_id": index,
                "doc_hash": hashlib.sha256(row.id.encode()).hexdigest(),
                "prompt_hash": hashlib.sha256(repr(example.input_ids).encode()).hexdigest(),
                "target_hash": hashlib.sha256(target.encode()).hexdigest(),
                "prompt": prompt,
                "target": target,
                "item": f"{prompt} {target}",
                "choices": None,
                "log_likelihoods": [-value],
                "text": None,
                "chance": float("nan"),
                "truncated": example.truncated,
                "unparsed": False,
                "metric.nats_per_token": value / tokens,
                "weight.nats_per_token": float(tokens),
            }
        )
    return pd.DataFrame(table)
