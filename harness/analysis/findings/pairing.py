"""Two cells over the same items: which of their seeds go together, and the interval of their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.findings.findings import ItemChanges
from harness.analysis.statistics import two_level
from harness.analysis.statistics.stats import LEVEL, Floats
from harness.analysis.table.measure import TaskChange

Tasks = Sequence[Floats]
"""One array a task, of shape (k, n_t): seeds × items."""


@dataclass(frozen=True)
class Stacked:
    """The changes of some tasks, by seed and item.

    Attributes:
        values: one array a task, shape (k, n_t), in the metric's own sign.
        items: one hash a task, of its items; only equal ones may be paired.
        clusters: one a task, as ``TaskChange`` has them.
    """

    values: Tasks
    items: tuple[str, ...]
    clusters: tuple[Any, ...]


def stacked(changes: ItemChanges, run_ids: Sequence[str], volume: int, tasks: Sequence[tuple[str, str]]) -> Stacked | str:
    """Return the changes of runs at a volume, or why they cannot be put together.

    Args:
        changes: of the experiment.
        run_ids: one a seed.
        volume: of the point.
        tasks: (suite, leaf task).
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
    """Return the seeds of two cells that are paired.

    None where the seeds of the two count as independent.

    Seeds are paired where both have at least MIN_SEEDS in common, or the same ones: that holds
    whatever the runs of one seed share (the order of their rows, say), at the price of fewer
    degrees of freedom where they share nothing.
    """
    common = sorted(set(first) & set(second))
    return common if len(common) >= two_level.MIN_SEEDS or (common and set(first) == set(second)) else None


def difference(
    first: Tasks, second: Tasks, clusters: Sequence[Any], level: float = LEVEL, *, paired: bool, binary: bool | None = None
) -> two_level.Estimate:
    """Return the first's mean minus the second's over the same items.

    Args:
        first: one array a task, shape (k, n_t).
        second: as first; with the same seeds in the same order if ``paired``.
        clusters: one a task, or None.
        level: of confidence.
        paired: whether row s of both is the same seed.
        binary: whether items are 0 or 1 before and after; None: if the values look so.
    """
    if paired:
        return two_level.estimate([a - b for a, b in zip(first, second, strict=True)], clusters, level, binary=binary)
    return two_level.contrast(first, second, clusters, level, binary=binary)
