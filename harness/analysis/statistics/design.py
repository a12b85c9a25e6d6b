"""Smallest loss that a number of items and seeds finds, before anything is trained.

The variance of an item's change has three parts, as in ``two_level``: one that all items of a seed
share, one that all seeds of an item share, and the rest. They come from an earlier sweep
(``variation``) or are assumed (``guess``). From them follow the sums that ``two_level`` would
compute of so many items and seeds, and from these the interval and the loss, by the same functions
as in the findings.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from harness.analysis.statistics import two_level
from harness.analysis.statistics.detectable import ASSURANCE, detectable
from harness.analysis.statistics.pooled import SeedMeans, Spread, pooled
from harness.analysis.statistics.stats import Floats
from harness.analysis.statistics.task_sums import TaskSums
from harness.analysis.statistics.two_level import MIN_SEEDS
from harness.core.seeds import stream

CHANGED = 0.1
"""Assumed share of items that change."""

ALIKE = 0.5
"""Assumed part of an item's variance that all seeds share."""

BETWEEN = 0.004
"""Assumed variance between seeds, as a multiple of the share of items that change: a standard
deviation of 2 points where a tenth of the items change."""

_CELLS, _DRAWS = 30, 9
"""Most cells of a drawn sweep, and the number drawn."""

_PRIOR, _ALIKE = 6.0, math.sqrt(0.5)
"""Degrees of freedom of the ratios of cells to the trend, and correlation of two volumes: the
assumptions of ``pooled``."""


@dataclass(frozen=True)
class Variation:
    """Variance of the changes of a suite's items.

    Attributes:
        changed: mean square of an item's change; for 0/1 items the share that changes.
        common: variance of an item's change that all seeds share.
        own: the rest of it, different in each seed.
        between: variance of the change that all items of a seed share.
        clusters: number of clusters per item; 1 where items are independent.
        binary: whether items are 0 or 1.
        freedom: degrees of freedom of ``between``; None where it is assumed.
    """

    changed: float
    common: float
    own: float
    between: float
    clusters: float = 1.0
    binary: bool = True
    freedom: float | None = None

    def times(self, factor: float) -> Variation:
        """Return the variation where more items change: every variance is in proportion."""
        parts = {name: getattr(self, name) * factor for name in ("changed", "common", "own", "between")}
        return replace(self, **parts)


def guess(changed: float = CHANGED) -> Variation:
    """Return an assumed variation of 0/1 items."""
    return Variation(changed, ALIKE * changed, (1 - ALIKE) * changed, BETWEEN * changed)


def variation(cells: Sequence[Sequence[Sequence[TaskSums]]]) -> Variation:
    """Return the variation at the largest volume of earlier cells.

    Medians over cells; the variance between seeds is pooled over cells and volumes.

    Args:
        cells: for each cell, by volume, the sums of the suite's tasks.
    """
    means = [
        SeedMeans(
            np.stack([np.mean([one.seeds[0] for one in tasks], axis=0) for tasks in volumes]),
            np.array([np.mean([one.changed / one.n for one in tasks]) for tasks in volumes]),
        )
        for volumes in cells
    ]
    spreads = pooled(means, _worth([one.n for one in cells[0][-1]]))
    last = [volumes[-1] for volumes in cells]
    changed, common, own, clusters = (float(np.median(part)) for part in zip(*map(_parts, last), strict=True))
    binary = all(one.binary for tasks in last for one in tasks)
    between, freedom = _between(last, [of[-1] for of in spreads]) or (BETWEEN * changed, None)
    return Variation(changed, common, own, between, clusters, binary, freedom)


def _worth(items: Sequence[int]) -> float:
    """Return the number of items of one task whose mean varies as that of these tasks."""
    return len(items) ** 2 / sum(1 / n for n in items)


def _parts(tasks: Sequence[TaskSums]) -> tuple[float, float, float, float]:
    """Return changed, common, own and clusters of one cell; of one seed, ALIKE is assumed."""
    worth, seeds = _worth([one.n for one in tasks]) / len(tasks) ** 2, len(tasks[0].seeds[0])
    item, rest = worth * sum(one.item for one in tasks), worth * sum(one.rest[0] for one in tasks)
    own = seeds * rest if seeds > 1 else (1 - ALIKE) * item
    common = max(item - own / seeds, 0.0)
    changed = float(np.mean([one.changed / one.n for one in tasks]))
    return changed, common, own, sum(one.groups for one in tasks) / sum(one.n for one in tasks)


def _between(last: Sequence[Sequence[TaskSums]], spreads: Sequence[Spread]) -> tuple[float, float] | None:
    """Return the variance of a seed's mean beyond that of its items, and its degrees of freedom.

    None if no cell has two seeds.

    The variance is a mean over cells: the median of spreads of few seeds is too small.
    """
    known = [(tasks, of) for tasks, of in zip(last, spreads, strict=True) if of.freedom > 0 and not math.isnan(of.variance)]
    if not known:
        return None
    of_items = [len(tasks[0].seeds[0]) * sum(one.rest[0] for one in tasks) / len(tasks) ** 2 for tasks, _ in known]
    freedom = sum(len(tasks[0].seeds[0]) - 1.0 for tasks, _ in known)
    return max(float(np.mean([of.variance for _, of in known]) - np.mean(of_items)), 0.0), freedom


def smallest_loss(items: Sequence[int], seeds: int, assumed: Variation, *, cells: int = 1, volumes: int = 1) -> float:
    """Return the smallest loss that a cell's mean over tasks shows with probability ``POWER``.

    As in ``detectable``, the variance between seeds is the upper limit of confidence of an earlier
    estimate. As many 0/1 items change as a loss needs at least. With fewer than MIN_SEEDS seeds the
    loss is that of these seeds, over items alone. In the metric's unit, above 0; NaN for fewer than
    two items.

    Args:
        items: number of items of each task.
        seeds: number of seeds of the cell.
        assumed: variation of items and seeds.
        cells: cells of the sweep with as many seeds, over which the variance of seeds is pooled.
        volumes: number of volumes of each.
    """
    if assumed.binary and not assumed.changed > 0:
        assumed = guess(1 / (2 * sum(items)))  # no item changed earlier; those of a loss would
    freedom = _freedom(min(cells, _CELLS), volumes, seeds) if seeds >= MIN_SEEDS else math.nan
    factor = 1.0
    while True:
        loss = _loss(items, seeds, assumed.times(factor), freedom)
        if not assumed.binary or not loss > 1.001 * factor * assumed.changed:
            return loss
        factor = loss / assumed.changed


def _loss(items: Sequence[int], seeds: int, assumed: Variation, freedom: float) -> float:
    tasks = [_sums(n, seeds, assumed) for n in items]
    spread = Spread(assumed.between + assumed.own / _worth(items), freedom, pooled=True)
    found = two_level.combined(tasks, spreads=[spread])
    of_seeds = spread.variance / seeds if seeds >= MIN_SEEDS else 0.0
    larger = math.sqrt(1 + (_limit(assumed.freedom) - 1) * of_seeds / found.stderr**2) if of_seeds else 1.0
    return float(detectable(larger * (found.high - found.low) / 2, found.df, estimated=math.inf))


def _limit(freedom: float | None) -> float:
    """Return the upper limit of confidence of an estimated variance, as a multiple of it."""
    return 1.0 if freedom is None else freedom / float(special.chdtri(freedom, ASSURANCE))  # chdtri takes the upper tail


def _sums(n: int, seeds: int, assumed: Variation) -> TaskSums:
    """Return the expected sums of a task without a mean change."""
    groups, half = max(round(n * assumed.clusters), 1), round(n * assumed.changed / 2)
    alone = seeds == 1 and assumed.binary and groups == n
    return TaskSums(
        seeds=(np.zeros(seeds),),
        item=(assumed.common + assumed.own / seeds) / n if groups > 1 else math.nan,
        rest=(assumed.own / (seeds * n) if seeds > 1 else 0.0,),
        n=n,
        groups=groups,
        binary=assumed.binary,
        changed=assumed.changed * n,
        counts=(half, half, n) if alone else None,
        values=None,
    )


@functools.cache
def _freedom(cells: int, volumes: int, seeds: int) -> float:
    """Return the degrees of freedom that ``pooled`` finds in such a sweep, a median over draws."""
    draw, found = stream(0, "design", str(cells), str(volumes), str(seeds)), []
    changed: Floats = np.power(0.5, np.arange(volumes, dtype=np.float64)[::-1])
    for _ in range(_DRAWS):
        ratio = np.sqrt(_PRIOR / draw.chisquare(_PRIOR, (cells, 1, 1)))
        moves = _ALIKE**0.5 * draw.normal(size=(cells, 1, seeds)) + (1 - _ALIKE) ** 0.5 * draw.normal(size=(cells, volumes, seeds))
        means = 0.1 * np.sqrt(changed)[:, None] * ratio * moves
        found += [of[-1].freedom for of in pooled([SeedMeans(one.astype(np.float64), changed) for one in means], 1000)]
    return float(np.median(found))
