"""Whether a model may be shared: a few random sequences, shared in every way, against its plain forward pass."""

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
"""Largest difference of any log-probability from the plain forward pass, in nats, for sharing to
count as valid."""

NOISE = 4.0
"""In half precision, whose own rounding moves log-probabilities by more: so many times what a
plain batch moves them."""

SHALLOW = 16
"""Tokens of the check's shared part; a model that looks back only so far is checked beyond that
too, once sequences reach there."""

TAILS = (2, 3, 4)
"""How many last tokens of the check's three sequences are compared."""


def refusal(engine: Engine, depth: int) -> str | None:
    """Return why sequences of up to ``depth`` tokens are not shared, or None where they may be.

    Says so once a model.
    """
    needed = max([SHALLOW, *[window + SHALLOW for window in budget.windows(engine.model) if depth > window]])
    verdict = engine.verdict
    if verdict.refusal is not None or needed <= verdict.depth:
        return verdict.refusal
    try:
        reason, lasting = _reason(engine, needed), True
    except FloatingPointError as error:  # of these weights, not of the architecture
        reason, lasting = str(error), False
    except RuntimeError as error:
        reason, lasting = f"{type(error).__name__}: {' '.join(str(error).split())}", not memory.out_of_memory(error)
    if lasting:
        verdict.refusal, verdict.depth = reason, needed
    if reason is not None:
        logger.warning("prefix: requests are not shared, %s runs on the plain path: %s", engine.model.config.model_type, reason)
    return reason


def _reason(engine: Engine, length: int) -> str | None:
    """Return what is wrong with sharing, or None.

    Raises FloatingPointError where the weights give no numbers.
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
    """Return the largest difference; infinite where one is no number."""
    return float((found - expected).abs().max()) if bool(torch.isfinite(found).all()) else float("inf")


def _sequences(engine: Engine, length: int) -> list[Ints]:
    """Return three sequences of random tokens that share their first ``length``, two of them five more."""
    draw = stream(0, "prefix-check")
    words = int(engine.model.config.get_text_config().vocab_size)

    def ids(size: int) -> Ints:
        return draw.integers(0, words, size, dtype=np.int64)

    stem, branch = ids(length), ids(5)
    return [np.concatenate([stem, *part]) for part in ([branch, ids(2)], [branch, ids(3)], [ids(4)])]


def _shared(engine: Engine, sequences: Sequence[Ints], length: int) -> Iterator[torch.Tensor]:
    """Yield log-probabilities at the sequences' tails, (9, V): after a kept prefix, and from trees without one."""
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
    """Refuse a model some of whose layers look back only so far, unless they told the attention: short sequences would not show it."""
    sizes = budget.windows(engine.model)
    kinds = getattr(engine.model.config.get_text_config(), "layer_types", None)
    sliding = 0 if not sizes else len(engine.windows) if kinds is None else list(kinds).count("sliding_attention")
    told = [window for window in engine.windows if window is not None]
    if len(told) != sliding or not set(told) <= set(sizes):
        raise NotShared(f"{sliding} of its layers look back only {sizes} tokens, {len(told)} of them say so")


def _chain(tokens: Ints, start: int, prefix: int | None) -> Tree:
    return Tree(tokens, np.arange(start, start + len(tokens)), ((0, len(tokens), -1),), prefix)


def _fork(first: Ints, second: Ints, start: int, fork: int, prefix: int | None) -> Tree:
    """Return the tree of two sequences that part at ``fork``, from depth ``start``."""
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
    """Whether the model returns what its output head gives as it is: seen by putting other numbers in its place.

    Comparing values would not do: a cap or scale of the logits may be invisible at these weights
    and matter at others.
    """
    put: list[torch.Tensor] = []

    def replace(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        put.append(torch.linspace(-50, 50, output.numel(), device=output.device).view_as(output).to(output.dtype))
        return put[-1]

    with torch.inference_mode(), _hook(engine.head.register_forward_hook(replace)):
        logits = engine.model(input_ids=torch.from_numpy(tokens)[None].to(engine.model.device), use_cache=False).logits
    return len(put) == 1 and logits.shape == put[0].shape and torch.equal(logits.float(), put[0].float())


def _plain(engine: Engine, sequences: Sequence[Ints]) -> torch.Tensor:
    """Return log-probabilities at the tails of the sequences, each run alone, (9, V)."""
    found = []
    for sequence, size in zip(sequences, TAILS, strict=True):
        last = engine.head.register_forward_pre_hook(lambda _, given, size=size: (given[0][:, -size:], *given[1:]))
        with torch.inference_mode(), _hook(last):
            logits = engine.model(input_ids=torch.from_numpy(sequence)[None].to(engine.model.device), use_cache=False).logits[0]
        found.append(_log_probs(logits))
    together = torch.cat(found)
    if not bool(torch.isfinite(together).all()):
        raise FloatingPointError("its plain forward pass gives log-probabilities that are no numbers")
    return together


def _plain_batch(engine: Engine, sequences: Sequence[Ints]) -> torch.Tensor:
    """Return the same from one batch, padded on the right: what rounding does to them."""
    longest = max(map(len, sequences))
    rows = np.stack([np.pad(sequence, (0, longest - len(sequence))) for sequence in sequences])
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.from_numpy(rows).to(engine.model.device), use_cache=False).logits
    tails = [logits[row, len(sequence) - size : len(sequence)] for row, (sequence, size) in enumerate(zip(sequences, TAILS, strict=True))]
    return _log_probs(torch.cat(tails))
