"""Check of a model: random sequences, shared in every way, against its plain forward pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.functional import log_softmax

from harness.core import memory
from harness.core.seeds import stream
from harness.evaluation.prefix import budget
from harness.evaluation.prefix.attention import NotShared
from harness.evaluation.prefix.engine import Engine
from harness.evaluation.prefix.tree import Ints, Plan, Tree

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest valid difference of a log-probability from the plain forward pass, in nats."""

NOISE = 4.0
"""In half precision, where rounding alone moves log-probabilities by more: the largest valid
difference as a multiple of that between a plain batch and single rows."""

SHALLOW = 16
"""Tokens of the check's shared part; a model with a window is also checked beyond the window, once
sequences are longer."""

TAILS = (2, 3, 4)
"""Number of last tokens compared in each of the check's three sequences."""


def refusal(engine: Engine, depth: int) -> str | None:
    """Return why sequences of up to ``depth`` tokens are not shared, or None.

    A reason is logged once per model.
    """
    needed = max([SHALLOW, *[window + SHALLOW for window in budget.windows(engine.model) if depth > window]])
    verdict = engine.verdict
    if verdict.refusal is not None or needed <= verdict.depth:
        return verdict.refusal
    try:
        reason, lasting = _reason(engine, needed), True
    except FloatingPointError as error:  # due to these weights, not to the architecture
        reason, lasting = str(error), False
    except RuntimeError as error:
        reason, lasting = f"{type(error).__name__}: {' '.join(str(error).split())}", not memory.out_of_memory(error)
    if lasting:
        verdict.refusal, verdict.depth = reason, needed
    if reason is not None:
        logger.warning("prefix: requests are not shared, %s runs on the plain path: %s", engine.model.config.model_type, reason)
    return reason


def _reason(engine: Engine, length: int) -> str | None:
    """Return why sharing is invalid, or None.

    Raises FloatingPointError for weights whose outputs are NaN or infinite.
    """
    if engine.head is None:
        return "it has no output head that can be read"
    if odd := budget.odd_positions(engine.model):
        return odd
    try:
        sequences = _sequences(engine, length)
        engine.verdict.head_is_last = _head_is_last(engine, sequences[0][:SHALLOW])
        expected = _plain(engine, sequences)
        allowed = TOLERANCE
        if engine.model.dtype != torch.float32:
            allowed = max(allowed, NOISE * _largest(_plain_batch(engine, sequences), expected))
        worst = max(_largest(found, expected) for found in _shared(engine, sequences, length))
    except (NotShared, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None if worst <= allowed else f"log-probabilities differ by {worst:.2g} nats from its plain forward pass"


def _largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference; infinite if a value is NaN or infinite."""
    return float((found - expected).abs().max()) if bool(torch.isfinite(found).all()) else float("inf")


def _sequences(engine: Engine, length: int) -> list[Ints]:
    """Return three sequences of random tokens with a common prefix of ``length``.

    Two of them share five tokens more.
    """
    draw = stream(0, "prefix-check")
    words = int(engine.model.config.get_text_config().vocab_size)

    def ids(size: int) -> Ints:
        return draw.integers(0, words, size, dtype=np.int64)

    stem, branch = ids(length), ids(5)
    return [np.concatenate([stem, *part]) for part in ([branch, ids(2)], [branch, ids(3)], [ids(4)])]


def _shared(engine: Engine, sequences: Sequence[Ints], length: int) -> Iterator[torch.Tensor]:
    """Yield log-probabilities at the sequences' tails, (9, V), in two ways.

    First after a kept prefix, then from trees without one.
    """
    first, second, third = sequences
    trees = (
        _chain(first[:length], 0, None),
        _fork(first, second, length, length + 5, prefix=0),
        _chain(third[length:], length, 0),
        _fork(first, second, 0, length + 5, prefix=None),
        _chain(third, 0, None),
    )
    after = [(1, 5), (1, 6), (1, 7), (1, 8), (1, 9), (2, 0), (2, 1), (2, 2), (2, 3)]
    whole = [(3 if tree == 1 else 4, length + token) for tree, token in after]
    for places in (after, whole):
        rows: dict[int, torch.Tensor] = {}
        for numbers, log_probs in engine.visit(Plan(trees, ()), np.asarray(places), _log_probs, exact=True):
            rows |= dict(zip(numbers.tolist(), log_probs, strict=True))
            _require_windows(engine)
        yield torch.stack([rows[number] for number in range(len(places))])


def _log_probs(logits: torch.Tensor) -> torch.Tensor:
    return log_softmax(logits.float(), dim=-1)


def _require_windows(engine: Engine) -> None:
    """Raise NotShared if a layer with a window does not pass it to the attention.

    Short sequences would not show it.
    """
    sizes = budget.windows(engine.model)
    kinds = getattr(engine.model.config.get_text_config(), "layer_types", None)
    sliding = 0 if not sizes else len(engine.windows) if kinds is None else list(kinds).count("sliding_attention")
    passed = [window for window in engine.windows if window is not None]
    if len(passed) != sliding or not set(passed) <= set(sizes):
        raise NotShared(f"{sliding} of its layers have a window of {sizes} tokens, {len(passed)} of them pass it on")


def _chain(tokens: Ints, start: int, prefix: int | None) -> Tree:
    return Tree(tokens, np.arange(start, start + len(tokens)), ((0, len(tokens), -1),), prefix)


def _fork(first: Ints, second: Ints, start: int, fork: int, prefix: int | None) -> Tree:
    """Return the tree, from depth ``start``, of two sequences that differ from ``fork`` on."""
    stem, one, other = first[start:fork], first[fork:], second[fork:]
    depths = np.concatenate([np.arange(start, len(first)), np.arange(fork, len(second))])
    cut, size = len(stem), len(stem) + len(one)
    runs = ((0, size, -1), (size, size + len(other), cut - 1))
    return Tree(np.concatenate([stem, one, other]), depths, runs, prefix)


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _head_is_last(engine: Engine, tokens: Ints) -> bool:
    """Return whether the model returns the output of its head unchanged.

    A hook replaces the head's output: comparing values would not be enough, since a cap or scale of
    the logits may be invisible at these weights and matter at others.
    """
    put: list[torch.Tensor] = []

    def replace(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        put.append(torch.linspace(-50, 50, output.numel(), device=output.device).view_as(output).to(output.dtype))
        return put[-1]

    with torch.inference_mode(), _hook(engine.head.register_forward_hook(replace)):
        logits = engine.model(input_ids=torch.from_numpy(tokens)[None].to(engine.model.device), use_cache=False).logits
    return len(put) == 1 and logits.shape == put[0].shape and torch.equal(logits.float(), put[0].float())


def _plain(engine: Engine, sequences: Sequence[Ints]) -> torch.Tensor:
    """Return log-probabilities at the tails of the sequences, (9, V), each run alone."""
    found = []
    for sequence, size in zip(sequences, TAILS, strict=True):
        last = engine.head.register_forward_pre_hook(lambda _, given, size=size: (given[0][:, -size:], *given[1:]))
        with torch.inference_mode(), _hook(last):
            logits = engine.model(input_ids=torch.from_numpy(sequence)[None].to(engine.model.device), use_cache=False).logits[0]
        found.append(_log_probs(logits))
    together = torch.cat(found)
    if not bool(torch.isfinite(together).all()):
        raise FloatingPointError("its plain forward pass gives log-probabilities that are NaN or infinite")
    return together


def _plain_batch(engine: Engine, sequences: Sequence[Ints]) -> torch.Tensor:
    """Return the same from one batch, padded on the right: the effect of rounding."""
    longest = max(map(len, sequences))
    rows = np.stack([np.pad(sequence, (0, longest - len(sequence))) for sequence in sequences])
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.from_numpy(rows).to(engine.model.device), use_cache=False).logits
    tails = [logits[row, len(sequence) - size : len(sequence)] for row, (sequence, size) in enumerate(zip(sequences, TAILS, strict=True))]
    return _log_probs(torch.cat(tails))
