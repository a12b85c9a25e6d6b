"""Sums over the items of a task, from which ``two_level`` estimates without reading them again."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.analysis.statistics.stats import Floats

Ints = npt.NDArray[np.int64]


class Arm(NamedTuple):
    """What the sums of a task need of k seeds on n items, computed once for all comparisons.

    Attributes:
        seeds: mean over items of each seed, shape (k,).
        items: mean over seeds of each item, shape (n,).
        rest: V_rest.
        groups: number of clusters, or of items where there are none.
        clusters: number of each item's cluster, shape (n,); None where items are independent.
        binary: whether items are 0 or 1 before and after.
        squares: mean over seeds of the sum of squares.
    """

    seeds: Floats
    items: Floats
    rest: float
    groups: int
    clusters: Ints | None
    binary: bool
    squares: float


class TaskSums(NamedTuple):
    """Sums of one task, from which a suite is estimated without reading its items again.

    Attributes:
        seeds: for each arm, the mean over items of each seed, shape (k,); the second arm is
            subtracted.
        item: V_item of the task.
        rest: V_rest of the task, by arm.
        n: number of items.
        groups: number of clusters, or of items where there are none.
        binary: whether items are 0 or 1 before and after.
        changed: mean over seeds of the sum of squares; for 0/1 items, the number of changed items
            of a seed.
        counts: (lost, gained, n) of one seed of 0/1 items; None for other data.
        values: the changes of a single seed in a metric that is not 0 or 1; else None.
    """

    seeds: tuple[Floats, ...]
    item: float
    rest: tuple[float, ...]
    n: int
    groups: int
    binary: bool
    changed: float
    counts: tuple[int, int, int] | None
    values: Floats | None


def task(values: Floats, other: Floats | None = None, clusters: Ints | None = None, binary: bool | None = None) -> TaskSums:
    """Return the sums of a task, of ``values`` minus ``other`` where that is given.

    Shapes: values (k, n), other (k', n), clusters (n,).
    """
    return sums(arm(values, clusters, binary), None if other is None else arm(other, clusters, binary))


def arm(values: Floats, clusters: Ints | None = None, binary: bool | None = None) -> Arm:
    """Return what the sums of a task need of one arm. Shapes as in ``task``."""
    known = np.asarray(values, dtype=np.float64)
    seeds, items = known.mean(axis=1), known.mean(axis=0)
    n = len(items)
    groups = n if clusters is None else len(np.unique(clusters))
    scale = groups / (groups - 1) / n**2 if groups > 1 else math.nan
    rest = scale * _rest(known, items, seeds, clusters)
    is_binary = _looks_binary(known) if binary is None else binary
    return Arm(seeds, items, rest, groups, clusters, is_binary, float(np.vdot(known, known)) / len(known))


def sums(first: Arm, second: Arm | None = None) -> TaskSums:
    """Return the sums of a task, of the first arm minus the second where that is given.

    Both arms have the same items in the same clusters.
    """
    arms = [first] if second is None else [first, second]
    item = first.items if second is None else first.items - second.items
    n, of, groups = len(item), first.clusters, first.groups
    scale = groups / (groups - 1) / n**2 if groups > 1 else math.nan
    changed = sum(one.squares for one in arms)
    changed -= 0.0 if second is None else 2 * float(np.vdot(first.items, second.items))
    is_binary = all(one.binary for one in arms)
    single = all(len(one.seeds) == 1 for one in arms) and of is None
    counts = (int(np.sum(item < 0)), int(np.sum(item > 0)), n) if single and is_binary and _looks_binary(item) else None
    alone = item if single and not is_binary and second is None else None
    of_items = scale * _squares((item - item.mean())[None], of)
    seeds, rests = tuple(one.seeds for one in arms), tuple(one.rest for one in arms)
    return TaskSums(seeds, of_items, rests, n, groups, is_binary, changed, counts, alone)


def _rest(arm: Floats, over_seeds: Floats, of_seeds: Floats, clusters: Ints | None) -> float:
    """Return the residual sum of squares after seed and item means.

    It is divided by k (k − 1), and 0 for one seed.
    """
    k, n = len(arm), len(over_seeds)
    if k == 1:
        return 0.0
    if clusters is not None:
        return _squares(arm - over_seeds - of_seeds[:, None] + of_seeds.mean(), clusters) / (k * (k - 1))
    squares, mean = [float(np.vdot(part, part)) for part in (arm, over_seeds, of_seeds)], float(of_seeds.mean())
    return max(squares[0] - k * squares[1] - n * squares[2] + k * n * mean * mean, 0.0) / (k * (k - 1))


def _squares(residuals: Floats, clusters: Ints | None) -> float:
    """Return Σ e² over rows and items, or over rows and cluster sums.

    ``residuals`` have shape (k, n).
    """
    if clusters is None:
        return float(np.vdot(residuals, residuals))
    return sum(float(np.sum(np.bincount(clusters, weights=row) ** 2)) for row in residuals)


def _looks_binary(values: Floats) -> bool:
    return bool(np.all(values * values * values == values))
