"""Text that a model writes: at temperature 1 from its whole vocabulary, unless a ``Sampling`` says otherwise.

Each token is drawn by a number of its own item and place, so a text depends on the model and on its
prompt, not on the batch or on any global stream; two models that agree write the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.contexts import Sampling
from harness.core.progress import Progress
from harness.core.seeds import stream
from harness.models.batches import batches

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLING_SEED = 0
"""Texts are drawn with one seed for everybody, so that volume 0 serves the runs of every seed."""

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
    """Continue prompts until an end of text or turn, which is part of what is written, or a limit.

    Args:
        model: plain or PEFT, in evaluation mode.
        tokenizer: whose EOS ends a text, as do those of the model's generation configuration;
            nothing else is taken from there.
        prompts: token ids, at least one and fewer than ``max_length`` each.
        keys: what each item's random numbers are drawn by; equal keys, equal numbers.
        max_new_tokens: of each text.
        max_length: of prompt and text together, in tokens.
        dtype: ``float32`` or ``bfloat16``, of the forward pass; probabilities are float64 always.
        tokens: padded tokens, prompts and what follows, of one batch.
        progress: advanced by rows.
        sampling: how the distribution is shaped before a token is drawn (``shaped``); its
            ``max_new_tokens`` is not read. None: not at all.

    Returns:
        At least one new token a prompt, in their order.
    """
    numbers = [stream(SAMPLING_SEED, "sampled text", key).random(max_new_tokens) for key in keys]
    limits = [min(max_new_tokens, max_length - len(prompt)) for prompt in prompts]
    written: list[Ids] = [()] * len(prompts)
    for limit in sorted(set(limits)):  # rows of a batch stop at one length
        of_limit = [i for i, other in enumerate(limits) if other == limit]
        for batch in batches([len(prompts[i]) + limit for i in of_limit], tokens):
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
    """Continue prompts, padded on the left, by ``numbers`` in [0, 1) of shape (B, ≥ limit)."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    width = max(map(len, prompts))
    drawn = torch.from_numpy(numbers).to(model.device)

    def valid(input_ids: Tensor) -> Tensor:
        """Return which tokens are of prompt or text, and not padding before it, shape (B, T)."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return places >= torch.tensor([[width - len(prompt)] for prompt in prompts], device=input_ids.device)

    class Draw(LogitsProcessor):
        """Leaves one token a row: the first at which the cumulative probability exceeds the row's number."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override, unused-ignore]
            logits = scores.double() if sampling is None else shaped(scores.double(), input_ids, valid(input_ids), sampling)
            cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)  # (B, V)
            wanted = drawn[:, input_ids.shape[1] - width, None] * cumulative[:, -1:]
            chosen = torch.searchsorted(cumulative, wanted, right=True).clamp(max=scores.shape[-1] - 1)
            return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)

    ids = torch.tensor([[*[0] * (width - len(prompt)), *prompt] for prompt in prompts])
    attention = torch.tensor([[*[0] * (width - len(prompt)), *[1] * len(prompt)] for prompt in prompts])
    with (
        _neutral(model, tokenizer) as (plain, ends),
        torch.inference_mode(),
        torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"),
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
        ids: what stands before, shape (B, T).
        valid: which of them are no padding, shape (B, T).
        sampling: at temperature 0 the likeliest token alone is left, the first of equal ones.

    Returns:
        Logits of shape (B, V), minus infinity where a token is not to be drawn. Of equal logits at
        the border of top_k, all stay.
    """
    import torch

    if sampling.repetition_penalty != 1.0:
        stands = torch.zeros_like(logits).scatter_add_(1, ids, valid.to(logits.dtype)) > 0
        penalised = torch.where(logits < 0, logits * sampling.repetition_penalty, logits / sampling.repetition_penalty)
        logits = torch.where(stands, penalised, logits)
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
        beyond = probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p  # before it, the likelier ones have enough
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), float("-inf"))
    return logits


def _until_end(ids: Sequence[int], ends: frozenset[int]) -> Ids:
    length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:length])


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end a text or turn: the tokenizer's EOS, and those that the model's generation configuration names."""
    named = getattr(_plain(model).generation_config, "eos_token_id", None)
    named = named if isinstance(named, list) else [named]
    return frozenset(token for token in [tokenizer.eos_token_id, *named] if isinstance(token, int))


def _plain(model: Any) -> Any:
    """Return the model inside a PEFT model; its adapters lie in it and work."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _neutral(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Any, frozenset[int]]]:
    """Yield the model that generates, adapters included, and its end tokens.

    Its own penalties, bans and cuts are off meanwhile.
    """
    from transformers import GenerationConfig

    plain = _plain(model)
    own, ends = plain.generation_config, end_tokens(model, tokenizer)
    plain.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0))
    try:
        yield plain, ends
    finally:
        plain.generation_config = own
