"""Two sides, paired item by item, to rows with intervals and verdicts.

The analysis of sweeps computes them, so that both give the same numbers.
"""

from __future__ import annotations

import dataclasses
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
from harness.analysis.table.forgetting import Pair, Samples
from harness.analysis.table.identical import Equal, equal_answers
from harness.analysis.table.items import changed_items
from harness.analysis.table.measure import Row, Scored, Task
from harness.core.errors import RecordError
from harness.external.sides import Measured, Side
from harness.records.schema import OWN_METRICS, Declared

ROLE = "probe"

SHARE = "share"
"""Unit of metrics that are shares of items."""

CONTINUOUS = frozenset(metric for metrics in OWN_METRICS.values() for metric in metrics)
"""This project's metrics per token, which are no shares of items."""

NAMES = """
role suite task metric filter higher_is_better chance n before value delta stderr df delta_low delta_high lost gained agreement p_value
p_mid delta_relative near_chance samplewise_forgetting backward_transfer samplewise_forgetting_true samplewise_forgetting_true_low
samplewise_forgetting_true_high backward_transfer_true backward_transfer_true_low backward_transfer_true_high forgetting_ceiling
progress_lost numeric_spread
""".split()
"""Columns that a comparison shares with the tidy table; here ``stderr`` is that of the change, and
``df`` its degrees of freedom."""

MISSING = "missing_tasks"
"""Further column: tasks of a suite that one side lacks; the suite's mean is over the others."""

DTYPES = {name: COLUMNS.get(name, "Float64") for name in NAMES} | {MISSING: "string"}


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """The changes of a suite, or of a task outside any suite.

    Attributes:
        name: of the suite or task.
        unit: ``share`` where items are 0 or 1, or from 0 to 1 with 1 as best; else the metric.
        higher_is_better: direction of its metric.
        changes: task → the changes of its items, in the metric's own sign.
        is_binary: whether items are 0 or 1.
        equal: how all answers are equal on both sides though the models may differ, or None.
    """

    name: str
    unit: str
    higher_is_better: bool
    changes: Mapping[str, measure.TaskChange]
    is_binary: bool
    equal: Equal | None = None

    @property
    def items(self) -> int:
        """Number of items of all tasks."""
        return sum(len(change.values) for change in self.changes.values())

    @property
    def independent(self) -> int:
        """Number of items of all tasks, of clusters where items cluster."""
        clusters = [(change, change.clusters) for change in self.changes.values()]
        return sum(len(change.values) if of is None else len(np.unique(of)) for change, of in clusters)

    def estimate(self, level: float) -> Estimate:
        """Return the mean change over its tasks with equal weight, and its interval over items."""
        changes = list(self.changes.values())
        clusters = [change.clusters for change in changes]
        return two_level.estimate([change.values[None] for change in changes], clusters, level, binary=self.is_binary)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The losses and gains of AFTER relative to BEFORE.

    Attributes:
        before: the first side.
        after: the second side.
        margin: half-width of the range of negligible changes, in the metric's own unit.
        rows: suites (task ``*``) and tasks, each with the metric it is judged by: columns of the
            tidy table, with ``stderr`` and ``df`` of the change, ``p_holm`` over the tasks,
            ``margin`` and ``verdict``. A task of several groups is in the smallest.
        others: other metrics and filters of the tasks, without a verdict.
        aggregates: the input of a gate.
        items: the items whose outcome changed, as returned by ``harness.analysis.table.items``.
        notes: for the reader.
    """

    before: Side
    after: Side
    margin: float
    rows: pd.DataFrame
    others: pd.DataFrame
    aggregates: tuple[Aggregate, ...]
    items: pd.DataFrame
    notes: tuple[str, ...]


def compare(before: Side, after: Side, margin: float, notes: Sequence[str] = ()) -> Comparison:
    """Pair both sides item by item and judge every task and suite.

    Args:
        before: one side.
        after: the other, with the same suites.
        margin: a change within ±margin, in the metric's own unit, is negligible.
        notes: from reading the sides.

    Raises:
        RecordError: if items, prompts, gold answers or weights differ.
    """
    found = {name: _tasks(name, before.suites[name], after.suites[name]) for name in before.suites}
    shown_in = _smallest_suites(found)
    rows: list[Row] = []
    others: list[Row] = []
    aggregates = []
    for name, tasks in found.items():
        primary = [task for task in tasks if task.row["primary"]]
        whole, *each = measure.rows_of(tasks, at_zero=False)
        aggregate = dataclasses.replace(_aggregate(name, primary), equal=_equal(name, before, after))
        aggregates.append(aggregate)
        if before.suites[name].whole:
            rows.append(whole | _error(aggregate) | {MISSING: ", ".join(before.suites[name].missing) or None})
        own = [(task, row) for task, row in zip(tasks, each, strict=True) if shown_in[row["task"]] == name]
        rows += [row | _error(_aggregate(row["task"], [task])) for task, row in own if row["primary"]]
        others += [row for _, row in own if not row["primary"]]
    return Comparison(
        before=before,
        after=after,
        margin=margin,
        rows=findings.judge(_frame(rows), Declared(margin=margin)),
        others=_frame(others),
        aggregates=tuple(aggregates),
        items=_changed(before, after, shown_in),
        notes=(*notes, *_equal_answers(aggregates, before, after)),
    )


def _equal(suite: str, before: Side, after: Side) -> Equal | None:
    """Return how all answers of a suite are equal; None for one model, of which they must be."""
    is_one = bool(before.content) and before.content == after.content
    return None if is_one else equal_answers(before.suites[suite].samples, after.suites[suite].samples)


def _equal_answers(aggregates: Sequence[Aggregate], before: Side, after: Side) -> list[str]:
    """Return a note on suites whose answers are all equal, if there are any."""
    if before.content and before.content == after.content:
        return ["both sides hold the same files: this compares a model with itself"]
    names = [one.name for one in aggregates if one.equal]
    where = "" if len(names) == len(aggregates) else f" on {', '.join(names)}"
    differ = "their weights or files differ" if before.content and after.content else "are both sides the same model?"
    cache = " (lm-eval's --use_cache was on, which does not distinguish models)" if before.cached or after.cached else ""
    return [f"every answer{where} is identical to the last digit: {differ}{cache}"] if names else []


def _tasks(name: str, before: Measured, after: Measured) -> list[Task]:
    """Return the paired scores of a suite. Raises RecordError if they cannot be paired."""
    sides = [Scored(measure.by_key(one.scores), Samples(one.samples)) for one in (after, before)]
    tasks = measure.suite_tasks(name, sides[0], sides[1])
    for task in tasks:
        if task.row["primary"] and task.pair is None:
            raise RecordError(str(task.row["reason"]))
    return [task for task in tasks if task.pair is not None]


def _smallest_suites(found: Mapping[str, Sequence[Task]]) -> dict[str, str]:
    """Return task → the suite in which it is shown: its smallest."""
    sizes = {name: len({task.row["task"] for task in tasks}) for name, tasks in found.items()}
    smallest: dict[str, str] = {}
    for name in sorted(found, key=lambda name: sizes[name]):
        for task in found[name]:
            smallest.setdefault(task.row["task"], name)
    return smallest


def _aggregate(name: str, tasks: Sequence[Task]) -> Aggregate:
    pairs = [task.pair for task in tasks if task.pair is not None]
    binary = forgetting.is_binary([side for joined in pairs for side in (joined.before, joined.after)])
    better, metric = bool(tasks[0].row["higher_is_better"]), str(tasks[0].row["metric"])
    is_share = binary or (better and metric not in CONTINUOUS and all(_is_within(joined) for joined in pairs))
    unit = SHARE if is_share or metric == "agreement" else metric
    return Aggregate(name=name, unit=unit, higher_is_better=better, changes=measure.task_changes(tasks), is_binary=binary)


def _is_within(joined: Pair) -> bool:
    """Return whether the values of all items are from 0 to 1 on both sides."""
    return all(bool(np.all((side.values >= 0) & (side.values <= 1))) for side in (joined.before, joined.after))


def _error(aggregate: Aggregate) -> Row:
    """Return standard error and degrees of freedom of a change; None if not determined."""
    found = aggregate.estimate(LEVEL)
    return {"stderr": None if np.isnan(found.stderr) else found.stderr, "df": None if np.isnan(found.df) else found.df}


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows with the dtypes of the tidy table."""
    return pd.DataFrame({name: [(row | {"role": ROLE}).get(name) for row in rows] for name in DTYPES}, dtype=object).astype(DTYPES)


def _changed(before: Side, after: Side, shown_in: Mapping[str, str]) -> pd.DataFrame:
    """Return the items whose outcome changed, those that lost most confidence first."""
    parts = []
    for name, measured in before.suites.items():
        primary = {score.task: score for score in measured.scores if score.primary and shown_in.get(score.task) == name}
        metric_of = {task: score.metric for task, score in primary.items()}
        filter_of = {task: score.filter for task, score in primary.items()}
        if primary:
            parts.append(changed_items(measured.samples, after.suites[name].samples, metric_of, filter_of))
    found = pd.concat(parts, ignore_index=True)
    return found.sort_values("confidence_lost", ascending=False, kind="stable", na_position="last", ignore_index=True)


def as_shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a comparison as users see them, with the column ``after``."""
    return rows.drop(columns=["role"], errors="ignore").rename(columns={"value": "after"})


def dicts(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows for readers: without the only task of a suite, whose row is the suite's."""
    is_suite = rows["task"] == SUITE_TASK
    whole = rows[is_suite & rows[MISSING].isna()].set_index("suite")["n"].to_dict()
    return rows[[bool(one) or whole.get(suite) != n for one, suite, n in zip(is_suite, rows["suite"], rows["n"], strict=True)]]


def suite_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole suites."""
    return rows[rows["task"] == SUITE_TASK]


def task_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tasks."""
    return rows[rows["task"] != SUITE_TASK]
