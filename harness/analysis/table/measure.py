"""Rows and item changes of a suite, from one measurement and volume 0."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.analysis.statistics import clustered, metrics, stats
from harness.analysis.statistics.stats import Floats
from harness.analysis.table.columns import SUITE_TASK
from harness.analysis.table.forgetting import Items, Pair, Samples, agreement, change, is_binary, pair, value_interval
from harness.core.errors import RecordError, explain
from harness.records.schema import GENERATED, Score

Row = dict[str, Any]
Key = tuple[str, str, str, str]

MEASURED = ["value", "stderr", "chance", "unparsed", "prompt_truncated", "answer_truncated"]
"""Numbers of a score that are empty where the measurement failed."""


@dataclass(frozen=True)
class Scored:
    """Scores and items of a measurement, and the seconds that it took."""

    scores: Mapping[Key, Score]
    samples: Samples
    seconds: float = 0.0

    def items(self, score: Score) -> Items:
        """Return the items of a score. Raises RecordError where they do not give its value."""
        items = self.samples.items(score.suite, score.task, score.filter, score.metric)
        value = stats.mean([items.stratum]) if len(items.values) else float("nan")
        if len(items.values) != score.n or not abs(value - (score.value or 0.0)) <= 1e-9 * max(1.0, abs(value)):
            got = f"{len(items.values)} items with mean {value:.6g}"
            raise RecordError(explain(items.where, got=got, allowed=f"the recorded {score.n} with {score.value}", fix="evaluate again"))
        return items


@dataclass(frozen=True)
class TaskChange:
    """Change of every item of a task, in the primary metric.

    Attributes:
        items: hash of the ordered doc hashes; only equal ones may be joined across runs.
        values: after minus before in the metric's unit and sign, shape (n,); their mean is the
            row's delta. For a ratio metric with weights w, differences d and mean change D they are
            D + n·w_i·(d_i − D) / Σw, so that their variance is the ratio's linearised one (Cochran
            1977, Sampling Techniques, section 6.3).
        clusters: number of each item's cluster, shape (n,); None where items are not clustered.
    """

    items: str
    values: Floats
    clusters: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Task:
    """A row of one score, with its items, joined items and outcomes where they exist."""

    row: Row
    items: Items | None = None
    pair: Pair | None = None
    outcomes: metrics.Outcomes | None = None


def by_key(scores: Sequence[Score]) -> dict[Key, Score]:
    """Return scores by suite, task, metric and filter."""
    return {(score.suite, score.task, score.metric, score.filter): score for score in scores}


def suite_rows(suite: str, after: Scored, before: Scored | None) -> list[Row]:
    """Return the suite's own row and one row for each of its scores.

    They have the columns that follow from the two measurements.

    Args:
        suite: name of the suite.
        after: measurement at a volume.
        before: measurement at volume 0, with the same items; ``after`` itself at volume 0; None
            where it is unknown.
    """
    return rows_of(suite_tasks(suite, after, before), at_zero=after is before)


def suite_tasks(suite: str, after: Scored, before: Scored | None) -> list[Task]:
    """Return every score of a suite with its row and items.

    A score that exists at volume 0 only is included as failed.
    """
    scores = [score for score in after.scores.values() if score.suite == suite]
    expected = before.scores.items() if before else ()
    scores += [_absent(score) for key, score in expected if score.suite == suite and score.primary and key not in after.scores]
    tasks = []
    for score in scores:
        at_zero = before.scores.get((score.suite, score.task, score.metric, score.filter)) if before else None
        found = _task(score, after, before)
        moved = {"numeric_move": at_zero.numeric_move, "numeric_spread_nats": at_zero.numeric_spread_nats} if at_zero else {}
        tasks.append(dataclasses.replace(found, row=found.row | dict.fromkeys(["numeric_move", "numeric_spread_nats"]) | moved))
    return _with_protocols(tasks)


def rows_of(tasks: Sequence[Task], *, at_zero: bool) -> list[Row]:
    """Return the rows of a suite's scores, after the suite's own row.

    The suite's own row is the mean of its tasks' primary metric; without a primary score there is
    none.
    """
    primary = [task for task in tasks if task.row["primary"]]
    rows = [task.row | _spread([task.row]) for task in tasks]
    return [_suite_row(primary, at_zero=at_zero) | _spread([task.row for task in primary]), *rows] if primary else rows


def task_changes(tasks: Sequence[Task]) -> dict[str, TaskChange]:
    """Return the item changes of each task in the primary metric, if it has any."""
    return {task.row["task"]: _item_changes(task.pair) for task in tasks if task.row["primary"] and task.pair is not None}


def over_volumes(rows: Sequence[Row]) -> None:
    """Fill ``fg_over_volumes`` into the rows of one run, over the volumes up to each.

    It is empty from the first missing volume on.

    Args:
        rows: in ascending order of volume.
    """
    seen: dict[Key, list[float | None]] = {}
    of_suite: dict[tuple[int, str], list[float | None]] = {}
    measured = [row for row in rows if row.get("suite") is not None and row.get("volume")]
    for row in measured:
        if row["task"] == SUITE_TASK:
            continue
        values = seen.setdefault((row["suite"], row["task"], row["metric"], row["filter"]), [])
        before = row.get("before")
        values.append(None if before is None else row["value"])
        known = [value for value in values if value is not None]
        row["fg_over_volumes"] = None
        if before is not None and len(known) == len(values):
            better, near = row["higher_is_better"], bool(row.get("near_chance"))
            row["fg_over_volumes"] = metrics.fg_over_volumes(before, known, higher_is_better=better, near=near)
        if row["primary"]:
            of_suite.setdefault((row["volume"], row["suite"]), []).append(row["fg_over_volumes"])
    for row in measured:
        if row["task"] == SUITE_TASK:
            row["fg_over_volumes"] = _mean_or_none(of_suite.get((row["volume"], row["suite"]), [None]))


def _spread(at_zero: Sequence[Row]) -> Row:
    """Return the change of a score at volume 0 that is due to rounding.

    Of several scores it is that of their mean. It is empty unless each score was measured twice.
    """
    move = _mean_or_none([row["numeric_move"] for row in at_zero])
    known = [row["numeric_spread_nats"] for row in at_zero if row["numeric_spread_nats"] is not None]
    return {
        "numeric_spread": None if move is None else abs(move),
        "numeric_spread_nats": max(known) if known and len(known) == len(at_zero) else None,
    }


def _absent(score: Score) -> Score:
    empty = dict.fromkeys(MEASURED)
    return dataclasses.replace(score, n=0, status="failed", reason="measured before, but not at this volume", **empty)  # type: ignore[arg-type]


def _task(score: Score, after: Scored, before: Scored | None) -> Task:
    row: Row = dict(vars(score))
    if score.status == "failed":
        return Task(row)
    try:
        items = after.items(score)
        joined = None if before is after else _joined(score, items, before)
    except RecordError as error:
        return Task(_failed(row, str(error)))
    row |= dict(zip(["value_low", "value_high"], _ends(value_interval([items])), strict=True))
    if before is after:
        row |= _no_change(score.value, [items])
        return Task(row | _of_before(row, score.stderr) | _of_task(row), items)
    if isinstance(joined, str):
        return Task(row | {"reason": joined}, items)
    if joined is None or before is None:
        return Task(row, items)
    recorded = before.scores[score.suite, score.task, score.metric, score.filter]
    row |= _change([joined]) | {"before": recorded.value}
    outcomes = _outcomes(joined) if score.chance is not None else None
    row |= _of_before(row, recorded.stderr) | _of_task(row) | _beyond_chance([outcomes])
    return Task(row, items, joined, outcomes)


def _joined(score: Score, items: Items, before: Scored | None) -> Pair | str:
    """Return the items before and after, or the reason why there is no before.

    Raises RecordError where they cannot be joined.
    """
    if before is None:
        return "no change: the run is not recorded, so its volume 0 is not known"
    old = before.scores.get((score.suite, score.task, score.metric, score.filter))
    if old is None or old.status == "failed":
        return f"no change: before failed: {old.reason}" if old else "no change: not measured before"
    return pair(before.items(old), items)


def _failed(row: Row, reason: str) -> Row:
    return row | dict.fromkeys(MEASURED) | {"n": 0, "status": "failed", "reason": reason}


def _no_change(value: float | None, tasks: Sequence[Items]) -> Row:
    counts = dict.fromkeys(["lost", "gained"], 0 if is_binary(tasks) else None)
    same = {"agreement": agreement([Pair(items, items) for items in tasks])}
    return {"before": value, "delta": 0.0, "delta_low": 0.0, "delta_high": 0.0} | counts | same


def _change(pairs: Sequence[Pair]) -> Row:
    found = change(pairs)
    low, high = _ends(found.interval)
    return {
        "delta": found.delta,
        "lost": found.lost,
        "gained": found.gained,
        "agreement": found.agreement,
        "p_value": found.p_value,
        "p_mid": found.p_mid,
        "delta_low": low,
        "delta_high": high,
    }


def _of_before(row: Row, stderr: float | None) -> Row:
    """Return the columns that relate a change to its before; ``stderr`` is that of before."""
    before, chance, better = row["before"], row["chance"], row["higher_is_better"]
    near = None if chance is None else metrics.near_chance(before, stderr, chance, higher_is_better=better)
    relative = None if near else metrics.relative_change(before, row["value"])
    return {"near_chance": near, "delta_relative": relative}


def _of_task(row: Row) -> Row:
    """Return the columns that follow from a task's counts and its level of guessing."""
    found: Row = {}
    before, chance, n = row["before"], row["chance"], row["n"]
    if row["lost"] is not None:
        found["samplewise_forgetting"] = metrics.samplewise_forgetting(row["lost"], n)
        found["backward_transfer"] = metrics.backward_transfer(row["gained"], n)
        if chance is not None and chance < 1:
            found["forgetting_ceiling"] = metrics.forgetting_ceiling(before, chance)
    elif chance is not None and not row["higher_is_better"]:
        found["progress_lost"] = metrics.progress_lost(before, row["value"], chance)
    return found


def _outcomes(joined: Pair) -> metrics.Outcomes | None:
    """Return the outcomes of a task's items.

    None where the metric is not 0 or 1 or guessing has no level.
    """
    before, after, chances = joined.before.values, joined.after.values, joined.after.chances
    guessing = metrics.guessing(chances) if is_binary([joined.before, joined.after]) and chances is not None else None
    if guessing is None:
        return None
    lost, gained = int(np.sum(after < before)), int(np.sum(after > before))
    kept = int(np.sum((after == 1) & (before == 1)))
    found = metrics.Outcomes(lost, gained, kept, len(before) - lost - gained - kept, guessing)
    return found._replace(inflation=_inflation(joined, found)) if joined.after.clusters is not None else found


def _inflation(joined: Pair, found: metrics.Outcomes) -> float:
    """Return the factor by which clusters raise the variance of F_true or BT_true.

    It is the larger of the two, and at least 1.
    """
    before, after, n, ratios = joined.before.values, joined.after.values, len(joined.before.values), [1.0]
    wrong_before, wrong_after = (found.gained + found.neither) / n, (found.lost + found.neither) / n
    common = found.guessing * ((1 - before) * wrong_after + (1 - after) * wrong_before)
    for counted in (after < before, after > before):
        influence = [stats.Stratum(counted - common, np.ones(n))]
        alone = stats.standard_error(influence)
        if alone > 0:
            ratios.append((clustered.standard_error(influence, [joined.after.clusters]) / alone) ** 2)
    return float(np.max(ratios))


def _beyond_chance(tasks: Sequence[metrics.Outcomes | None]) -> Row:
    known = [task for task in tasks if task is not None]
    if len(known) < len(tasks):
        return {}
    forgotten, transferred = metrics.forgetting_true(known), metrics.transfer_true(known)
    row: Row = {}
    for name, found in {"samplewise_forgetting_true": forgotten, "backward_transfer_true": transferred}.items():
        low, high = _ends(stats.Interval(found.low, found.high))
        row |= {name: found.value, f"{name}_low": low, f"{name}_high": high}
    return row


def _item_changes(joined: Pair) -> TaskChange:
    digest = hashlib.sha256("\n".join(joined.after.doc_hashes).encode()).hexdigest()[:16]
    return TaskChange(digest, clustered.linearised(joined.differences), joined.after.clusters)


def _with_protocols(tasks: Sequence[Task]) -> list[Task]:
    """Add ``protocol_agreement`` to the tasks with generated answers.

    It is the share of items judged alike when the answer is generated and when it is chosen.
    """
    chosen = {task.row["task"]: task.items for task in tasks if task.row["primary"] and task.items is not None}
    found = []
    for task in tasks:
        other = chosen.get(task.row["task"].removesuffix(GENERATED)) if task.row["task"].endswith(GENERATED) else None
        if other is not None and task.items is not None and np.array_equal(other.doc_hashes, task.items.doc_hashes):
            share = float(np.mean(other.values == task.items.values))
            task = dataclasses.replace(task, row=task.row | {"protocol_agreement": share})
        found.append(task)
    return found


def _ends(interval: stats.Interval) -> list[float | None]:
    return [None if end != end else end for end in interval]


def _suite_row(tasks: Sequence[Task], *, at_zero: bool) -> Row:
    """Return the row of a suite: the mean over its tasks, or a failure."""
    same = ["suite", "metric", "filter", "primary", "higher_is_better"]
    row = {name: tasks[0].row[name] for name in same} | {"task": SUITE_TASK}
    items = [task.items for task in tasks if task.items is not None]
    if failed := [task.row for task in tasks if task.row["status"] == "failed"]:
        first = f"{failed[0]['task']}: {failed[0]['reason']}"
        return _failed(row, f"{len(failed)} of {len(tasks)} tasks failed, first {first}")
    row |= {name: _mean_or_none([task.row[name] for task in tasks]) for name in MEASURED if name != "stderr"}
    repeated = [task.row["repeated_items"] for task in tasks]
    row["repeated_items"] = None if None in repeated else sum(repeated)
    low, high = _ends(value_interval(items))
    error = _error(items)
    row |= {"n": sum(task.row["n"] for task in tasks), "stderr": error, "value_low": low, "value_high": high}
    pairs = [task.pair for task in tasks if task.pair is not None]
    if at_zero:
        row |= _no_change(row["value"], items)
        return row | _of_before(row, error) | _means(tasks)
    if len(pairs) < len(tasks):
        return row | {"reason": next(task.row["reason"] for task in tasks if task.pair is None)}
    row |= _change(pairs) | {"before": _mean_or_none([task.row["before"] for task in tasks])}
    row |= _of_before(row, _error([joined.before for joined in pairs]))
    return row | _means(tasks) | _beyond_chance([task.outcomes for task in tasks])


def _means(tasks: Sequence[Task]) -> Row:
    """Return the columns that are means over tasks with equal weight."""
    names = ["samplewise_forgetting", "backward_transfer", "forgetting_ceiling", "progress_lost"]
    return {name: _mean_or_none([task.row.get(name) for task in tasks]) for name in names}


def _error(items: Sequence[Items]) -> float | None:
    error = stats.standard_error([item.stratum for item in items])
    return None if error != error else error


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
