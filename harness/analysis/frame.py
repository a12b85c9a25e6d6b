"""The tidy table: one row a point × task × metric (× filter), made from the records of an experiment. Nothing is written.

What the table does with what is missing:

- volume 0 is stored once for a model and suite and repeated here for every run, with delta 0, so that a run_id is a whole curve;
- a suite is a row with task ``*``: the mean of its tasks' primary metric with equal weight, failed if any of its tasks is;
- a measurement that failed, or whose items cannot be joined to those before, is a row with status ``failed``, a reason and no number;
- a run whose last try failed has one row with status ``failed``; one with no record and no failure (under way, or killed) one with
  ``unfinished``. Points that such a run wrote stand beside it with status ``ok``; only a record names the baselines, so without one
  their change is empty and the reason says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness import PROTOCOL_VERSION
from harness.analysis import stats
from harness.analysis.columns import COLUMNS, DESCRIPTIONS, SUITE_TASK
from harness.analysis.forgetting import Items, Pair, Samples, agreement, change, is_binary, pair, value_interval
from harness.analysis.variants import variants
from harness.errors import RecordError, explain
from harness.records import Experiment
from harness.schema import BASELINES, Point, Record, Score

__all__ = ["COLUMNS", "DESCRIPTIONS", "SUITE_TASK", "table"]

Row = dict[str, Any]
Key = tuple[str, str, str, str]


def table(experiment: Experiment, *, stale: bool = False) -> pd.DataFrame:
    """Return the tidy table of an experiment.

    Args:
        experiment: its results folder.
        stale: whether runs that the last command did not ask for are in it.

    Returns:
        Columns as in COLUMNS; rows by run, then volume, then suite, each suite's own row before its tasks.

    Raises:
        RecordError: if a record is damaged, of another version, or names a point or baseline that is not there.
    """
    current = experiment.current()
    reader = _Reader(experiment)
    rows = [row for run_id in experiment.run_ids() if stale or run_id in current for row in reader.run_rows(run_id)]
    told_apart = variants({row["run_id"]: row for row in rows}, reader.identities)
    for row in rows:
        row["variant"] = told_apart.get(row["run_id"]) or None
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}, dtype=object).astype(COLUMNS)


@dataclass(frozen=True)
class _Measurement:
    """Scores and items of a point or baseline."""

    scores: Mapping[Key, Score]
    samples: Samples

    def items(self, score: Score) -> Items:
        """Return the items behind a score. Raises RecordError where they do not give its value."""
        items = self.samples.items(score.suite, score.task, score.filter, score.metric)
        value = stats.mean([items.stratum]) if len(items.values) else float("nan")
        if len(items.values) != score.n or not abs(value - (score.value or 0.0)) <= 1e-9 * max(1.0, abs(value)):
            got = f"{len(items.values)} items with mean {value:.6g}"
            raise RecordError(explain(items.where, got=got, allowed=f"the recorded {score.n} with {score.value}", fix="evaluate again"))
        return items


@dataclass(frozen=True)
class _Task:
    """A row of one score, and the items behind it where it has them."""

    row: Row
    items: Items | None = None
    pair: Pair | None = None


class _Reader:
    """Reads the runs of an experiment, each baseline once."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.baselines: dict[str, tuple[_Measurement, list[Row]]] = {}
        self.identities: dict[str, Mapping[str, Any]] = {}

    def run_rows(self, run_id: str) -> list[Row]:
        """Return the rows of one run: volume 0, its points, and one more if its last try did not end well."""
        record, failure = self.experiment.record(run_id), self.experiment.failure(run_id)
        common = {"experiment": self.experiment.name, "run_id": run_id, "protocol_version": PROTOCOL_VERSION, "status": "ok"}
        config = record.config if record else failure.config if failure else self.experiment.config(run_id)
        common |= _chosen(record.labels if record else config.get("labels", {}), config) | (_resolved(record) if record else {})
        self.identities |= {run_id: record.identity} if record else {}
        roles: Mapping[str, str] = record.roles if record else _roles(config)
        measured = record.baselines if record else self.experiment.config(run_id).get(BASELINES, {})
        befores = {suite: self._baseline(run_id, baseline_id) for suite, baseline_id in measured.items()}
        rows = [common | {"role": roles[suite]} | row for suite, (_, zero) in befores.items() for row in zero]
        for volume in self._volumes(run_id, record):
            point = self._point(run_id, volume)
            after = _Measurement(_by_key(point.scores), Samples(self.experiment.point_samples(run_id, volume)))
            here = common | _progress(point)
            for suite, role in roles.items():
                before = befores[suite][0] if suite in befores else None
                rows += [here | {"role": role} | row for row in _suite_rows(suite, after, before)]
        if failure:
            rows.append(common | {"status": "failed", "reason": failure.reason})
        elif record is None:
            rows.append(common | {"status": "unfinished", "reason": "no record yet: under way, or killed; run the same command again"})
        return rows

    def _baseline(self, run_id: str, baseline_id: str) -> tuple[_Measurement, list[Row]]:
        if baseline_id not in self.baselines:
            baseline = self.experiment.baseline(baseline_id)
            if baseline is None:
                raise RecordError(explain(f"run {run_id}: baseline {baseline_id}", got="none", fix="run the same command again"))
            measured = _Measurement(_by_key(baseline.scores), Samples(self.experiment.baseline_samples(baseline_id)))
            self.baselines[baseline_id] = measured, [_AT_ZERO | row for row in _suite_rows(baseline.suite, measured, measured)]
        return self.baselines[baseline_id]

    def _point(self, run_id: str, volume: int) -> Point:
        point = self.experiment.point(run_id, volume)
        if point is None:
            raise RecordError(explain(f"run {run_id}: point {volume}", got="none", fix="delete the run's folder and run again"))
        return point

    def _volumes(self, run_id: str, record: Record | None) -> list[int]:
        """Return the volumes that the record names and those written since (by a try that failed or is under way)."""
        return sorted({*self.experiment.volumes(run_id), *(record.volumes if record else ())})


_AT_ZERO: Row = dict.fromkeys(
    ["volume", "steps", "target_rows", "anchor_rows", "train_tokens", "supervised_tokens", "anchor_tokens"], 0
) | dict.fromkeys(["weight_change", "flops", "wall_seconds"], 0.0)


def _by_key(scores: Sequence[Score]) -> dict[Key, Score]:
    return {(score.suite, score.task, score.metric, score.filter): score for score in scores}


def _chosen(labels: Mapping[str, Any], config: Mapping[str, Any]) -> Row:
    """Return what is known of a run from its configuration alone."""
    names = ["model", "tuning", "objective", "mitigation", "data", "anchor"]
    training = config.get("training", {})
    known = {"trajectory": config.get("trajectory"), "seed": config.get("seed"), "epochs": training.get("epochs")}
    return {name: labels.get(name) for name in names} | known | {"learning_rate": training.get("learning_rate")}


def _resolved(record: Record) -> Row:
    names = ["params_total", "params_trainable", "trajectory", "learning_rate", "lr_tuned", "seed", "dtype", "protocol_version"]
    return {name: getattr(record, name) for name in names}


def _roles(config: Mapping[str, Any]) -> dict[str, str]:
    return dict.fromkeys(config.get("target_suites", []), "target") | dict.fromkeys(config.get("probe_suites", []), "probe")


def _progress(point: Point) -> Row:
    return {name: getattr(point, name) for name in COLUMNS if name in _POINT_FIELDS}


_POINT_FIELDS = {field.name for field in dataclasses.fields(Point)} - {"run_id"}


def _suite_rows(suite: str, after: _Measurement, before: _Measurement | None) -> list[Row]:
    """Return the suite's own row and one for each of its scores; at volume 0, ``before`` is ``after`` itself."""
    scores = [score for score in after.scores.values() if score.suite == suite]
    expected = before.scores.items() if before else ()
    scores += [_absent(score) for key, score in expected if score.suite == suite and score.primary and key not in after.scores]
    tasks = [_task(score, after, before) for score in scores]
    at_zero = [before.scores.get((score.suite, score.task, score.metric, score.filter)) if before else None for score in scores]
    rows = [task.row | _spread([old]) for task, old in zip(tasks, at_zero, strict=True)]
    if not any(score.primary for score in scores):
        return rows
    primary = [task for task in tasks if task.row["primary"]]
    whole = _suite_row(primary, at_zero=after is before)
    return [whole | _spread([old for score, old in zip(scores, at_zero, strict=True) if score.primary]), *rows]


def _spread(at_zero: Sequence[Score | None]) -> Row:
    """Return how far rounding moves a score, or the mean of several, at volume 0; empty unless each of them was measured twice."""
    move = _mean_or_none([score.numeric_move if score else None for score in at_zero])
    nats = [score.numeric_spread_nats if score else None for score in at_zero]
    known = [largest for largest in nats if largest is not None]
    return {
        "numeric_spread": None if move is None else abs(move),
        "numeric_spread_nats": max(known) if known and len(known) == len(nats) else None,
    }


def _absent(score: Score) -> Score:
    empty = dict.fromkeys(_MEASURED)
    return dataclasses.replace(score, n=0, status="failed", reason="measured before, but not at this volume", **empty)  # type: ignore[arg-type]


def _task(score: Score, after: _Measurement, before: _Measurement | None) -> _Task:
    row = {name: getattr(score, name) for name in _SCORE_FIELDS}
    if score.status == "failed":
        return _Task(row)
    try:
        items = after.items(score)
        joined = None if before is after else _joined(score, items, before)
    except RecordError as error:
        return _Task(_failed(row, str(error)))
    row |= dict(zip(["value_low", "value_high"], _ends(value_interval([items])), strict=True))
    if before is after:
        return _Task(row | _no_change(score.value, [items]), items)
    if isinstance(joined, str):
        return _Task(row | {"reason": joined}, items)
    if joined is None or before is None:
        return _Task(row, items)
    recorded = before.scores[score.suite, score.task, score.metric, score.filter].value
    return _Task(row | _change([joined]) | {"before": recorded}, items, joined)


_MEASURED = ["value", "stderr", "chance", "unparsed", "prompt_truncated", "answer_truncated"]
"""What a score has only where it was measured."""

_SCORE_FIELDS = [field.name for field in dataclasses.fields(Score)]


def _joined(score: Score, items: Items, before: _Measurement | None) -> Pair | str:
    """Return the items before and after, or why there is no before. Raises RecordError where they do not fit together."""
    if before is None:
        return "no change: the run is not recorded, so its volume 0 is not known"
    old = before.scores.get((score.suite, score.task, score.metric, score.filter))
    if old is None or old.status == "failed":
        return f"no change: before failed: {old.reason}" if old else "no change: not measured before"
    return pair(before.items(old), items)


def _failed(row: Row, reason: str) -> Row:
    return row | dict.fromkeys(_MEASURED) | {"n": 0, "status": "failed", "reason": reason}


def _no_change(value: float | None, tasks: Sequence[Items]) -> Row:
    counts = dict.fromkeys(["lost", "gained"], 0 if is_binary(tasks) else None)
    same = {"agreement": agreement([Pair(items, items) for items in tasks])}
    return {"before": value, "delta": 0.0, "delta_low": 0.0, "delta_high": 0.0} | counts | same


def _change(pairs: Sequence[Pair]) -> Row:
    found = change(pairs)
    low, high = _ends(found.interval)
    row = {name: getattr(found, name) for name in ["delta", "lost", "gained", "agreement", "p_value"]}
    return row | {"delta_low": low, "delta_high": high}


def _ends(interval: stats.Interval) -> list[float | None]:
    return [None if end != end else end for end in interval]


def _suite_row(tasks: Sequence[_Task], *, at_zero: bool) -> Row:
    """Return the row of a suite: the mean over its tasks' primary metric, or failed if any of them is."""
    same = ["suite", "metric", "filter", "primary", "higher_is_better"]
    row = {name: tasks[0].row[name] for name in same} | {"task": SUITE_TASK}
    items = [task.items for task in tasks if task.items is not None]
    if failed := [task.row for task in tasks if task.row["status"] == "failed"]:
        first = f"{failed[0]['task']}: {failed[0]['reason']}"
        return _failed(row, f"{len(failed)} of {len(tasks)} tasks failed, first {first}")
    row |= {name: _mean_or_none([task.row[name] for task in tasks]) for name in _MEASURED if name != "stderr"}
    low, high = _ends(value_interval(items))
    error = stats.standard_error([item.stratum for item in items])
    row |= {"n": sum(task.row["n"] for task in tasks), "stderr": None if error != error else error, "value_low": low, "value_high": high}
    pairs = [task.pair for task in tasks if task.pair is not None]
    if at_zero:
        return row | _no_change(row["value"], items)
    if len(pairs) < len(tasks):
        return row | {"reason": next(task.row["reason"] for task in tasks if task.pair is None)}
    return row | _change(pairs) | {"before": _mean_or_none([task.row["before"] for task in tasks])}


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
