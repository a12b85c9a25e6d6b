"""Contrasts: the change of a cell minus that of its control, with interval, p-value and verdict.

Both were asked the same items, so their difference varies less than its two sides: intervals that
overlap do not show that a cell changed as its control did, and intervals that do not overlap miss
most of the differences that a test finds. Seeds are unpaired (``two_level.contrast``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.findings import verdicts
from harness.analysis.findings.finding_columns import SUITE_TASK
from harness.analysis.statistics import clustered, stats, task_sums, two_level
from harness.analysis.statistics.pooled import Spread
from harness.analysis.statistics.stats import Floats, Stratum
from harness.analysis.table.measure import TaskChange
from harness.records.schema import Declared

Place = tuple[str, int, str, str]
"""Cell, volume, suite and task of a finding."""

ChangeOf = Callable[[str, int, str, str], TaskChange | None]
"""Changes of a leaf task's items by run, volume, suite and task; None where there is no change."""

_VERDICTS = {
    verdicts.LOST: verdicts.WORSE,
    verdicts.GAINED: verdicts.BETTER,
    verdicts.KEPT: verdicts.ALIKE,
    verdicts.UNKNOWN: verdicts.UNKNOWN,
}

_ROW = ["cell", "volume", "suite", "task"]
_JUDGED = [*_ROW, "role", "metric", "higher_is_better"]


class _Task(NamedTuple):
    """A task of a cell and its control: sums, and where both are one seed, each item's contrast."""

    sums: task_sums.TaskSums
    moved: Floats | None
    clusters: npt.NDArray[np.int64] | None


def with_contrasts(frame: pd.DataFrame, change_of: ChangeOf, declared: Declared, spreads: Mapping[Place, Spread | None]) -> pd.DataFrame:
    """Add the columns of contrasts, which are empty for rows without a control.

    Args:
        frame: findings, the rows of a cell consecutive, with columns ``_control`` (the cell of the
            control) and ``_control_runs`` (its ``run_ids`` at the same volume, suite and task).
        change_of: item changes of the runs, such as ``ItemChanges.get``.
        declared: declarations with the margins.
        spreads: variance between the seeds of a finding; missing or None: its own.
    """
    found = {name: np.full(len(frame), np.nan) for name in ("delta", "stderr", "df", "delta_low", "delta_high", "p_value")}
    varies = np.full(len(frame), None, dtype=object)
    for at, estimate, p_value in _estimates(frame, change_of, spreads):
        values = (estimate.value, estimate.stderr, estimate.df, estimate.low, estimate.high, p_value)
        for name, value in zip(found, values, strict=True):
            found[name][at] = value
        varies[at] = estimate.varies if estimate.low == estimate.low else None
    judged = verdicts.judge(frame[_JUDGED].assign(**found), declared)
    return frame.assign(
        contrast=found["delta"],
        contrast_low=found["delta_low"],
        contrast_high=found["delta_high"],
        contrast_varies=varies,
        contrast_p=found["p_value"],
        contrast_p_holm=judged["p_holm"].to_numpy(),
        contrast_verdict=judged["verdict"].map(_VERDICTS).to_numpy(),
    )


def _estimates(
    frame: pd.DataFrame, change_of: ChangeOf, spreads: Mapping[Place, Spread | None]
) -> Iterator[tuple[int, two_level.Estimate, float]]:
    """Yield (position, contrast, p-value) of every row that was measured as its control was."""
    leaves: dict[tuple[Any, ...], list[str]] = {}
    for *of_suite, name in frame[_ROW].itertuples(index=False, name=None):
        if name != SUITE_TASK:
            leaves.setdefault(tuple(of_suite), []).append(name)
    reader = _Tasks(change_of)
    has = (frame["_control_runs"].notna() & frame["run_ids"].notna()).to_numpy(dtype=bool)
    rows = frame.assign(_at=np.arange(len(frame)), _binary=frame["lost"].notna())[has]
    for at, cell, volume, suite, name, control, *runs, binary in rows[
        ["_at", *_ROW, "_control", "run_ids", "_control_runs", "_binary"]
    ].itertuples(index=False, name=None):
        names = [name] if name != SUITE_TASK else leaves.get((cell, volume, suite), [])
        sides = (tuple(runs[0].split(",")), tuple(runs[1].split(",")))
        if tasks := reader.tasks(sides, (int(volume), suite), names, binary=bool(binary)):
            known = [spreads.get((of, int(volume), suite, name)) for of in (cell, control)]
            estimate = two_level.combined([task.sums for task in tasks], spreads=known)
            yield int(at), estimate, _p_value(tasks, estimate)


class _Tasks:
    """Tasks of a cell and its control, kept for the latest suite.

    A suite's own row comes before its tasks, which then reuse the sums.
    """

    def __init__(self, change_of: ChangeOf) -> None:
        self._change_of = change_of
        self._place: tuple[Any, ...] = ()
        self._known: dict[tuple[Any, ...], _Task | None] = {}

    def tasks(self, sides: tuple[Sequence[str], Sequence[str]], at: tuple[int, str], names: Sequence[str], *, binary: bool) -> list[_Task]:
        """Return the tasks; empty where a change is missing, or items differ."""
        if self._place != (sides[0][0], *at):
            self._place, self._known = (sides[0][0], *at), {}
        found = []
        for name in names:
            key = (*sides, name, binary)
            if key not in self._known:
                of_sides = [[self._change_of(run, *at, name) for run in runs] for runs in sides]
                self._known[key] = _task(of_sides[0], of_sides[1], binary=binary)
            task = self._known[key]
            if task is None:
                return []
            found.append(task)
        return found


def _task(own: Sequence[TaskChange | None], control: Sequence[TaskChange | None], *, binary: bool) -> _Task | None:
    known = [change for change in (*own, *control) if change is not None]
    if len(known) < len(own) + len(control) or len({change.items for change in known}) > 1:
        return None
    first, second = (np.stack([change.values for change in side]) for side in (known[: len(own)], known[len(own) :]))
    alone = len(first) == len(second) == 1
    clusters = known[0].clusters
    return _Task(task_sums.task(first, second, clusters, binary), first[0] - second[0] if alone else None, clusters)


def _p_value(tasks: Sequence[_Task], estimate: two_level.Estimate) -> float:
    """Return the p-value of no contrast: that of one run against another, else Student's t."""
    if any(task.moved is None for task in tasks):
        return estimate.p_value
    moved = [task.moved for task in tasks if task.moved is not None]
    clusters = [task.clusters for task in tasks]
    if all(task.sums.counts is not None for task in tasks) and len({len(values) for values in moved}) == 1:
        return stats.mcnemar_mid(*(sum(int(np.sum(sign * values > 0)) for values in moved) for sign in (-1, 1)))
    return clustered.sign_flip([Stratum(values, np.ones(len(values))) for values in moved], clusters)
