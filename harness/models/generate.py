"""Sampled text: at temperature 1 over the whole vocabulary, or by a ``Sampling``.

The random number of each token is a function of its item's key and its place, so a text depends on
the model and the prompt, not on the batch or a global stream; two equal models write the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.contexts import Sampling
from harness.core.progress import Progress
from harness.core.seeds import stream
from harness.models import halved, rotary
from harness.models.anatomy import unwrapped
from harness.models.batches import batches

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLING_SEED = 0
"""One seed for the texts of all runs, so that runs of every seed share one volume 0."""

Ids = tuple[int, ...]


def draw(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    keys: Sequence[str],
    *,
    max_new_tokens: int,
    max_length: int,
    dtype: str,
    tokens: int,
    progress: Progress,
    sampling: Sampling | None = None,
) -> list[Ids]:
    """Continue prompts up to a limit, or to an end token, which is returned too.

    Args:
        model: plain or PEFT, in evaluation mode.
        tokenizer: its EOS ends a text, as do the end tokens of the model's generation config; no
            other setting of that config is used.
        prompts: token ids, at least one and fewer than ``max_length`` each.
        keys: one per prompt; equal keys give equal random numbers.
        max_new_tokens: of each text.
        max_length: of prompt and text together, in tokens.
        dtype: ``float32`` or ``bfloat16``, of the forward pass; probabilities are always float64.
        tokens: padded tokens, prompts and texts, of one batch.
        progress: advanced by rows.
        sampling: shapes the distribution before a token is drawn (``shaped``); its
            ``max_new_tokens`` is not read. None leaves the distribution as it is.

    Returns:
        At least one new token per prompt, in their order.
    """
    numbers = [stream(SAMPLING_SEED, "sampled text", key).random(max_new_tokens) for key in keys]
    limits = [min(max_new_tokens, max_length - len(prompt)) for prompt in prompts]
    written: list[Ids] = [()] * len(prompts)
    for limit in sorted(set(limits)):  # rows of a batch stop at one length
        of_limit = [i for i, other in enumerate(limits) if other == limit]
        for batch in batches([len(prompts[i]) + limit for i in of_limit], tokens, rotary.limit(model.config)):
            rows = [of_limit[i] for i in batch]
            texts = _batch(model, tokenizer, [prompts[i] for i in rows], np.stack([numbers[i] for i in rows]), limit, dtype, sampling)
            for i, text in zip(rows, texts, strict=True):
                written[i] = text
            progress.advance(len(rows))
    return written


def _batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    numbers: Any,
    limit: int,
    dtype: str,
    sampling: Sampling | None,
) -> list[Ids]:
    """Continue prompts, padded on the left; ``numbers`` are in [0, 1), shape (B, ≥ limit)."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    width = max(map(len, prompts))
    drawn = torch.from_numpy(numbers).to(model.device)

    def valid(input_ids: Tensor) -> Tensor:
        """Return which tokens are not padding, shape (B, T)."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return places >= torch.tensor([[width - len(prompt)] for prompt in prompts], device=input_ids.device)

    class Draw(LogitsProcessor):
        """Keep one token per row: the first whose cumulative probability exceeds its number."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override, unused-ignore]
            logits = scores.double() if sampling is None else shaped(scores.double(), input_ids, valid(input_ids), sampling)
            cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)  # (B, V)
            wanted = drawn[:, input_ids.shape[1] - width, None] * cumulative[:, -1:]
            chosen = torch.searchsorted(cumulative, wanted, right=True).clamp(max=scores.shape[-1] - 1)
            return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)

    rotary.fresh(model)
    ids = torch.tensor([[*[0] * (width - len(prompt)), *prompt] for prompt in prompts])
    attention = torch.tensor([[*[0] * (width - len(prompt)), *[1] * len(prompt)] for prompt in prompts])
    with (
        _neutral(model, tokenizer) as (plain, ends),
        torch.inference_mode(),
        torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"),
        halved.weights(model, dtype == "bfloat16"),
    ):
        found = plain.generate(
            input_ids=ids.to(model.device),
            attention_mask=attention.to(model.device),
            max_new_tokens=limit,
            do_sample=False,
            logits_processor=LogitsProcessorList([Draw()]),
        )
    return [_until_end(row, ends) for row in found[:, width:].tolist()]


def shaped(logits: Tensor, ids: Tensor, valid: Tensor, sampling: Sampling) -> Tensor:
    """Shape next-token distributions: repetition penalty, then temperature, then top_k, then top_p.

    Args:
        logits: float64 of shape (B, V).
        ids: tokens so far, shape (B, T).
        valid: which of them are not padding, shape (B, T).
        sampling: temperature 0 keeps the likeliest token alone, the first of equal ones.

    Returns:
        Logits of shape (B, V), minus infinity where a token cannot be drawn. Equal logits at the
        border of top_k all stay.
    """
    import torch

    if sampling.repetition_penalty != 1.0:
        present = torch.zeros_like(logits).scatter_add_(1, ids, valid.to(logits.dtype)) > 0
        penalised = torch.where(logits < 0, logits * sampling.repetition_penalty, logits / sampling.repetition_penalty)
        logits = torch.where(present, penalised, logits)
    if sampling.temperature == 0:
        likeliest = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, float("-inf")).scatter(1, likeliest, 0.0)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = torch.softmax(ordered, dim=-1)
        beyond = probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p  # the likelier tokens reach top_p without it
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), float("-inf"))
    return logits


def _until_end(ids: Sequence[int], ends: frozenset[int]) -> Ids:
    length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:length])


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a text or turn.

    They are the tokenizer's EOS and those of the model's generation config.
    """
    named = getattr(unwrapped(model).generation_config, "eos_token_id", None)
    named = named if isinstance(named, list) else [named]
    return frozenset(token for token in [tokenizer.eos_token_id, *named] if isinstance(token, int))


@contextmanager
def _neutral(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Any, frozenset[int]]]:
    """Yield the model that generates, adapters included, and its end tokens.

    Its own generation config (penalties, banned tokens, limits) is off meanwhile.
    """
    from transformers import GenerationConfig

    plain = unwrapped(model)
    own, ends = plain.generation_config, end_tokens(model, tokenizer)
    plain.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0))
    try:
        yield plain, ends
    finally:
        plain.generation_config = own
