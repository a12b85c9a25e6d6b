"""Two sides to rows with intervals and verdicts, joined item by item by the analysis of sweeps: the same numbers in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.findings import findings
from harness.analysis.statistics import two_level
from harness.analysis.statistics.stats import LEVEL
from harness.analysis.statistics.two_level import Estimate
from harness.analysis.table import forgetting, measure
from harness.analysis.table.columns import COLUMNS, SUITE_TASK
from harness.analysis.table.forgetting import Samples
from harness.analysis.table.items import changed_items
from harness.analysis.table.measure import Measurement, Row, Task
from harness.core.errors import RecordError
from harness.external.sides import Measured, Side
from harness.records.schema import Declared

ROLE = "probe"

NAMES = """
role suite task metric filter higher_is_better chance n before value delta stderr df delta_low delta_high lost gained agreement p_value
p_mid delta_relative near_chance samplewise_forgetting backward_transfer samplewise_forgetting_true samplewise_forgetting_true_low
samplewise_forgetting_true_high backward_transfer_true backward_transfer_true_low backward_transfer_true_high forgetting_ceiling
progress_lost numeric_spread
""".split()
"""Columns of the tidy table that a comparison has; here ``stderr`` is that of the change, and
``df`` its degrees of freedom."""

MISSING = "missing_tasks"
"""Column beside them: tasks of a suite that are not there on both sides, so that its mean is
over the others; empty where all are."""

DTYPES = {name: COLUMNS.get(name, "Float64") for name in NAMES} | {MISSING: "string"}


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What is judged as one: a suite, or a task of no suite.

    Attributes:
        changes: of each task, what its items changed by, in the metric's own sign.
        is_binary: whether items are 0 or 1.
    """

    name: str
    higher_is_better: bool
    changes: tuple[measure.TaskChange, ...]
    is_binary: bool

    def estimate(self, level: float) -> Estimate:
        """Return the mean change over its tasks with equal weight, and its interval over items."""
        clusters = [change.clusters for change in self.changes]
        return two_level.estimate([change.values[None] for change in self.changes], clusters, level, binary=self.is_binary)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What AFTER lost and gained beside BEFORE.

    Attributes:
        rows: suites (task ``*``) and tasks, each with the metric it is judged by: columns of the
            tidy table, with ``stderr`` and ``df`` of the change, ``p_holm`` over the tasks,
            ``margin`` and ``verdict``. A task of several groups is in the smallest.
        others: other metrics and filters of the tasks, without a verdict.
        wholes: what a gate looks at.
        items: the items whose outcome changed, as ``harness.analysis.table.items`` gives them.
        notes: what a reader must know.
    """

    before: Side
    after: Side
    margin: float
    rows: pd.DataFrame
    others: pd.DataFrame
    wholes: tuple[Whole, ...]
    items: pd.DataFrame
    notes: tuple[str, ...]


def compare(before: Side, after: Side, margin: float, notes: Sequence[str] = ()) -> Comparison:
    """Join both sides item by item and judge every task and suite.

    Args:
        before: one side.
        after: the other, with the same suites.
        margin: a change within ±margin, in the metric's own unit, is none that matters.
        notes: what is known of the sides already.

    Raises:
        RecordError: where items, prompts, gold answers or weights differ.
    """
    found = {name: _tasks(name, before.suites[name], after.suites[name]) for name in before.suites}
    home = _homes(found)
    rows: list[Row] = []
    others: list[Row] = []
    wholes = []
    for name, tasks in found.items():
        primary = [task for task in tasks if task.row["primary"]]
        whole, *each = measure.rows_of(tasks, at_zero=False)
        judged = _whole(name, primary)
        wholes.append(judged)
        if before.suites[name].whole:
            rows.append(whole | _error(judged) | {MISSING: ", ".join(before.suites[name].missing) or None})
        mine = [(task, row) for task, row in zip(tasks, each, strict=True) if home[row["task"]] == name]
        rows += [row | _error(_whole(row["task"], [task])) for task, row in mine if row["primary"]]
        others += [row for _, row in mine if not row["primary"]]
    return Comparison(
        before=before,
        after=after,
        margin=margin,
        rows=findings.judge(_frame(rows), Declared(margin=margin)),
        others=_frame(others),
        wholes=tuple(wholes),
        items=_changed(before, after, home),
        notes=tuple(notes),
    )


def _tasks(name: str, before: Measured, after: Measured) -> list[Task]:
    """Return the scores of a suite on both sides, joined.

    Raises RecordError where they cannot be.
    """
    sides = [Measurement(measure.by_key(one.scores), Samples(one.samples)) for one in (after, before)]
    tasks = measure.suite_tasks(name, sides[0], sides[1])
    for task in tasks:
        if task.row["primary"] and task.pair is None:
            raise RecordError(str(task.row["reason"]))
    return [task for task in tasks if task.pair is not None]


def _homes(found: Mapping[str, Sequence[Task]]) -> dict[str, str]:
    """Return the suite in which each task is shown: the smallest that it is in."""
    sizes = {name: len({task.row["task"] for task in tasks}) for name, tasks in found.items()}
    home: dict[str, str] = {}
    for name in sorted(found, key=lambda name: sizes[name]):
        for task in found[name]:
            home.setdefault(task.row["task"], name)
    return home


def _whole(name: str, tasks: Sequence[Task]) -> Whole:
    pairs = [task.pair for task in tasks if task.pair is not None]
    binary = forgetting.is_binary([side for joined in pairs for side in (joined.before, joined.after)])
    better = bool(tasks[0].row["higher_is_better"])
    return Whole(name=name, higher_is_better=better, changes=tuple(measure.task_changes(tasks).values()), is_binary=binary)


def _error(whole: Whole) -> Row:
    """Return the standard error of a change and its degrees of freedom.

    Empty where the data cannot say.
    """
    found = whole.estimate(LEVEL)
    return {"stderr": None if np.isnan(found.stderr) else found.stderr, "df": None if np.isnan(found.df) else found.df}


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows with the dtypes of the tidy table."""
    return pd.DataFrame({name: [(row | {"role": ROLE}).get(name) for row in rows] for name in DTYPES}, dtype=object).astype(DTYPES)


def _changed(before: Side, after: Side, home: Mapping[str, str]) -> pd.DataFrame:
    parts = []
    for name, measured in before.suites.items():
        primary = {score.task: score for score in measured.scores if score.primary and home.get(score.task) == name}
        metric_of = {task: score.metric for task, score in primary.items()}
        filter_of = {task: score.filter for task, score in primary.items()}
        if primary:
            parts.append(changed_items(measured.samples, after.suites[name].samples, metric_of, filter_of))
    found = pd.concat(parts, ignore_index=True)
    return found.sort_values("confidence_lost", ascending=False, kind="stable", na_position="last", ignore_index=True)


def dicts(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def suite_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole suites."""
    return rows[rows["task"] == SUITE_TASK]


def task_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tasks."""
    return rows[rows["task"] != SUITE_TASK]
