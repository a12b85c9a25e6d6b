"""Mean forgetting over a range of gains, of a method with one path or several.

A method that was run at several learning rates or for several epochs has several paths. Its
forgetting at a gain is then that of the path that forgets least there (the lower envelope), so that
no setting is held against it. The path is chosen for each of BINS equal parts of the range.

The smallest of several noisy numbers is too small: chosen by the numbers that are then read, the
least forgetting is too little in the mean. Chosen by other numbers (for a seed and half of the
items, by the other seeds and the other half), it is never too little, but too much where the worse
of two paths is chosen. So the truth is between the two, and an interval has one end from each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.analysis.findings.paths import Path, average, linearised, mean
from harness.analysis.statistics.clustered import Ints
from harness.analysis.statistics.stats import Floats

LOW = 0.1
"""Lower end of the range of gains, as a share of its upper end: below, nothing was learned yet."""

BINS = 9
"""Parts of the range for each of which a path is chosen: tenths of the common reach."""


class Over(NamedTuple):
    """A method over the range of gains from LOW times a reach to that reach.

    Attributes:
        value: mean forgetting.
        numbers: for each task, numbers of seeds and items whose mean varies like ``value``, shape
            (k, n_t); the headline's tasks first.
        by_reach: derivative of ``value`` by the reach.
        changed: share of the headline's items that changed, mean over the range.
    """

    value: float
    numbers: list[Floats]
    by_reach: float
    changed: float


def over(paths: Sequence[Path], clusters: Sequence[Ints | None], reach: float, *, by_others: bool = True) -> Over:
    """Return mean forgetting over a range of gains, at each gain on the path that forgets least.

    Args:
        paths: paths over the same items; one of them at least gets to ``reach``.
        clusters: clusters of each task, the headline's tasks first.
        reach: upper end of the range, above 0.
        by_others: whether a path is chosen by other seeds and items than are read; of a single path
            there is no choice.
    """
    if len(paths) == 1:
        return _part(paths[0], LOW * reach, reach)
    edges = reach * np.linspace(LOW, 1.0, BINS + 1)
    edges[-1] = reach
    bins = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    parts = [[_part(path, low, high, reach) if path.reach >= high else None for low, high in bins] for path in paths]
    seeds = min(len(path.gain[0][0]) for path in paths)
    known = next(part for of in parts for part in of if part is not None)
    halves = [_halves(values.shape[1], of) for values, of in zip(known.numbers, clusters, strict=True)]
    chosen = _chosen(_means(parts, halves, seeds), by_others=by_others)
    numbers = [np.zeros((seeds, len(half))) for half in halves]
    picked: list[Over] = []
    for (seed, side, place), which in np.ndenumerate(chosen):
        part = parts[which][place]
        assert part is not None
        picked.append(part)
        for task, half in enumerate(halves):
            numbers[task][seed, half == side] += (part.numbers[task][seed, half == side] + _rest(part)) / BINS
    return Over(mean(numbers), numbers, float(np.mean([one.by_reach for one in picked])), float(np.mean([one.changed for one in picked])))


def _part(path: Path, low: float, high: float, reach: float | None = None) -> Over:
    """Return a path from one gain to another; both are proportional to the reach."""
    found = average(path, low, high)
    by_reach = ((high * found.at_high - low * found.at_low) / (high - low) - found.value) / (reach or high)
    return Over(found.value, linearised(path, found.by_loss, found.by_gain), by_reach, float(found.by_loss @ path.changed))


def _rest(part: Over) -> float:
    """Return the part of the value that does not vary, which the numbers' mean lacks."""
    return part.value - mean(part.numbers)


def _halves(n: int, clusters: Ints | None) -> npt.NDArray[np.int64]:
    """Return 0 or 1 for each item; a cluster is in one half."""
    return np.arange(n) % 2 if clusters is None else np.unique(clusters, return_inverse=True)[1] % 2


def _means(parts: Sequence[Sequence[Over | None]], halves: Sequence[npt.NDArray[np.int64]], seeds: int) -> Floats:
    """Return the forgetting of each path, part of the range, seed and half of the items.

    Shape (paths, BINS, k, 2); infinite where a path does not get to that part of the range.
    """
    found = np.full((len(parts), BINS, seeds, 2), np.inf)
    for path, of_path in enumerate(parts):
        for place, part in enumerate(of_path):
            for side in (0, 1) if part else ():
                assert part is not None
                of_tasks = [values[:seeds, half == side].mean(axis=1) for values, half in zip(part.numbers, halves, strict=True)]
                found[path, place, :, side] = np.mean(of_tasks, axis=0) + _rest(part)
    return found


def _chosen(means: Floats, *, by_others: bool) -> npt.NDArray[np.int64]:
    """Return the path for each seed, half of the items and part of the range, shape (k, 2, BINS).

    It is the one that forgets least in all, or in the other seeds and the other half; of a single
    seed, in the other half.
    """
    if not by_others:
        return np.broadcast_to(np.argmin(means.mean(axis=(2, 3)), axis=0), (*means.shape[2:], means.shape[1]))
    known = np.where(np.isinf(means), 0.0, means)
    others = known.sum(axis=2, keepdims=True) - known if means.shape[2] > 1 else known
    return np.moveaxis(np.argmin(np.where(np.isinf(means), np.inf, others)[..., ::-1], axis=0), 0, -1)
