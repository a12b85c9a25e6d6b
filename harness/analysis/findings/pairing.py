"""Two cells on the same items: their paired seeds, and the interval of their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.findings.estimates import ItemChanges
from harness.analysis.statistics import two_level
from harness.analysis.statistics.clustered import Ints
from harness.analysis.statistics.stats import LEVEL, Floats
from harness.analysis.table.measure import TaskChange

Tasks = Sequence[Floats]
"""One array per task, of shape (k, n_t): seeds × items."""


@dataclass(frozen=True)
class Stacked:
    """Changes of several tasks, by seed and item.

    Attributes:
        values: one array per task, shape (k, n_t), in the metric's own sign.
        items: hash of the items of each task; only equal ones may be paired.
        clusters: clusters of each task, as in ``TaskChange``.
    """

    values: Tasks
    items: tuple[str, ...]
    clusters: tuple[Ints | None, ...]


def stacked(changes: ItemChanges, run_ids: Sequence[str], volume: int, tasks: Sequence[tuple[str, str]]) -> Stacked | str:
    """Return the changes of runs at a volume, or why they cannot be stacked.

    Args:
        changes: item changes of the experiment.
        run_ids: one run per seed.
        volume: volume of the points.
        tasks: (suite, leaf task) of each task.
    """
    values, items, clusters = [], [], []
    for suite, task in tasks:
        found = [changes.get(run_id, volume, suite, task) for run_id in run_ids]
        known: list[TaskChange] = [change for change in found if change is not None]
        if len(known) < len(found) or not known:
            return f"no change of {task} at volume {volume}"
        if len({change.items for change in known}) > 1:
            return f"{task} was measured on different items"
        values.append(np.stack([change.values for change in known]))
        items.append(known[0].items)
        clusters.append(known[0].clusters)
    return Stacked(values, tuple(items), tuple(clusters))


def together(first: Sequence[int], second: Sequence[int]) -> list[int] | None:
    """Return the paired seeds of two cells; None where their seeds count as independent.

    Seeds are paired where both have at least MIN_SEEDS in common, or exactly the same ones. This is
    valid even if runs of equal seed have something in common, such as the order of rows. If they
    have nothing in common, it costs degrees of freedom.
    """
    common = sorted(set(first) & set(second))
    return common if len(common) >= two_level.MIN_SEEDS or (common and set(first) == set(second)) else None


def difference(
    first: Tasks, second: Tasks, clusters: Sequence[Ints | None], level: float = LEVEL, *, paired: bool, binary: bool | None = None
) -> two_level.Estimate:
    """Return the mean of ``first`` minus that of ``second`` over the same items.

    Args:
        first: one array per task, shape (k, n_t).
        second: as first; with the same seeds in the same order if ``paired``.
        clusters: clusters of each task, or None.
        level: confidence level.
        paired: whether row s of both is the same seed.
        binary: whether items are 0 or 1 before and after; None: decided by the values.
    """
    if paired:
        return two_level.estimate([a - b for a, b in zip(first, second, strict=True)], clusters, level, binary=binary)
    return two_level.contrast(first, second, clusters, level, binary=binary)
