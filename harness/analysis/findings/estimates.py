"""Estimates of changes over seeds and items, from the item changes of runs.

The variance between seeds is pooled over the cells of an experiment, for each suite and each task
(``harness.analysis.statistics.pooled``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from harness.analysis.statistics import task_sums, two_level
from harness.analysis.statistics.pooled import SeedMeans, Spread, pooled
from harness.analysis.statistics.task_sums import TaskSums
from harness.analysis.statistics.two_level import Estimate
from harness.analysis.table.columns import SUITE_TASK
from harness.analysis.table.measure import TaskChange

ROW = ["cell", "volume", "suite", "task"]
"""Columns that identify a finding."""


class ItemChanges(Protocol):
    """Source of item changes, such as ``harness.analysis.table.changes.Changes``."""

    def get(self, run_id: str, volume: int, suite: str, task: str) -> TaskChange | None:
        """Return the changes of a leaf task's items; None where there is no change."""


class Estimated(NamedTuple):
    """The estimate of a finding, and the variance between seeds that it takes.

    ``spread`` is None where the estimate is over items alone.
    """

    estimate: Estimate
    spread: Spread | None


def estimates(frame: pd.DataFrame, changes: ItemChanges, seed_of: Mapping[str, int]) -> dict[int, Estimated]:
    """Return the estimate of each row whose seeds have changes of the same items.

    Args:
        frame: one row per cell, volume, suite and task, with ``run_ids``, ``seeds`` and ``lost``;
            the rows of a cell are consecutive.
        changes: item changes of the experiment.
        seed_of: run id → seed.

    Returns:
        Position of the row → estimate.
    """
    found, sums = dict[int, Estimated](), dict[int, list[TaskSums]]()
    for at, parts in _sums(frame, changes).items():
        if len(parts[0].seeds[0]) == 1:
            found[at] = Estimated(two_level.over_items(parts), None)
        else:
            sums[at] = parts
    spreads = _spreads(frame, sums, seed_of)
    for at, parts in sums.items():
        spread = spreads.get(at)
        estimate = two_level.combined(parts, spreads=[spread])
        found[at] = Estimated(estimate, spread if estimate.varies == two_level.SEEDS_AND_ITEMS else None)
    return found


def _spreads(frame: pd.DataFrame, sums: Mapping[int, list[TaskSums]], seed_of: Mapping[str, int]) -> dict[int, Spread]:
    """Return the variance between seeds of each row, pooled over the cells of its suite or task.

    Cells that were asked other numbers of items are a pool of their own: means of fewer items vary
    more.
    """
    rows = frame.iloc[list(sums)].assign(_at=list(sums), _items=[",".join(str(one.n) for one in of) for of in sums.values()])
    found: dict[int, Spread] = {}
    for _, of_task in rows.groupby(["suite", "task", "_items"], sort=False):
        places = [group["_at"].tolist() for _, group in of_task.groupby("cell", sort=False)]
        cells = [_seed_means([sums[at] for at in of], [str(frame["run_ids"].iat[at]) for at in of], seed_of) for of in places]
        first = sums[places[0][0]]
        if not all(one.binary for one in first):
            cells = _without_unit(cells)
        for of, spreads in zip(places, pooled(cells, sum(one.groups for one in first)), strict=True):
            found |= dict(zip(of, spreads, strict=True))
    return found


def _seed_means(volumes: Sequence[Sequence[TaskSums]], run_ids: Sequence[str], seed_of: Mapping[str, int]) -> SeedMeans:
    """Return the means of a cell's seeds at its volumes, tasks with equal weight."""
    seeds = [[seed_of[run_id] for run_id in runs.split(",")] for runs in run_ids]
    every = sorted({seed for of in seeds for seed in of})
    means = np.full((len(volumes), len(every)), np.nan)
    for row, (tasks, of) in enumerate(zip(volumes, seeds, strict=True)):
        means[row, [every.index(seed) for seed in of]] = np.mean([one.seeds[0] for one in tasks], axis=0)
    return SeedMeans(means, np.array([np.mean([one.changed / one.n for one in tasks]) for tasks in volumes]))


def _without_unit(cells: Sequence[SeedMeans]) -> list[SeedMeans]:
    """Return mean square changes as shares of their mean, since the trend's offset is a share."""
    mean = float(np.mean(np.concatenate([cell.changed for cell in cells])))
    return [SeedMeans(cell.means, cell.changed / mean if mean > 0 else cell.changed) for cell in cells]


def _sums(frame: pd.DataFrame, changes: ItemChanges) -> dict[int, list[TaskSums]]:
    """Return the sums of the tasks of each row whose seeds have changes of the same items."""
    reader = _Tasks(changes)
    columns = [frame[name].tolist() for name in [*ROW, "run_ids", "seeds"]]
    binary = frame["lost"].notna().tolist()
    leaves: dict[tuple[Any, ...], list[str]] = {}
    for cell, volume, suite, name in zip(*columns[:4], strict=True):
        if name != SUITE_TASK:
            leaves.setdefault((cell, volume, suite), []).append(name)
    found = {}
    for at, (cell, volume, suite, name, run_ids, seeds) in enumerate(zip(*columns, strict=True)):
        names = [name] if name != SUITE_TASK else leaves.get((cell, volume, suite), [])
        parts = reader.parts(run_ids.split(","), int(volume), suite, names, binary=binary[at]) if seeds else []
        if parts:
            found[at] = parts
    return found


class _Tasks:
    """Sums of tasks for ``two_level``, kept for the latest suite.

    A suite's own row comes before its tasks, which then reuse the sums.
    """

    def __init__(self, changes: ItemChanges) -> None:
        self._changes = changes
        self._place: tuple[Any, ...] = ()
        self._known: dict[tuple[Any, ...], TaskSums | None] = {}

    def parts(self, runs: Sequence[str], volume: int, suite: str, names: Sequence[str], *, binary: bool) -> list[TaskSums]:
        """Return the sums of the tasks over these runs.

        Empty where a change is missing, or the runs were measured on different items.
        """
        if self._place != (runs[0], volume, suite):
            self._place, self._known = (runs[0], volume, suite), {}
        found = []
        for name in names:
            key = (*runs, name, binary)
            if key not in self._known:
                self._known[key] = self._task([self._changes.get(run, volume, suite, name) for run in runs], binary=binary)
            part = self._known[key]
            if part is None:
                return []
            found.append(part)
        return found

    @staticmethod
    def _task(of_runs: Sequence[TaskChange | None], *, binary: bool) -> TaskSums | None:
        known = [change for change in of_runs if change is not None]
        if len(known) < len(of_runs) or len({change.items for change in known}) > 1:
            return None
        return task_sums.task(np.stack([change.values for change in known]), None, known[0].clusters, binary)
