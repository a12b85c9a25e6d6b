"""Summary of one run: rows of the tidy table and item changes, kept as files.

They are computed from the run's samples when the run is recorded (``summarise``), or on first use.
The files stay valid while the bytes of the record, points and measurements and ANALYSIS_VERSION
stay the same. A run that is running or failed is computed each time, and so is every run in a
read-only folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import PROTOCOL_VERSION
from harness.analysis.table import measure, packing
from harness.analysis.table.columns import ACTED, COLUMNS, LATE
from harness.analysis.table.forgetting import Samples
from harness.analysis.table.measure import Row, Scored, TaskChange, by_key
from harness.analysis.table.packing import ChangeKey, RunChanges
from harness.core.display import OUTPUT
from harness.core.errors import DamagedError, RecordError, explain
from harness.records import summary_files
from harness.records.schema import BEFORE, EVALUATIONS, REACH, SCHEMA_VERSION, WRITERS, Failure, Point, Record
from harness.records.store import Experiment
from harness.records.summary_files import Summary

ANALYSIS_VERSION = 1
"""Version of the analysis, to be raised whenever the same samples give other rows or changes than
before, so that kept files are computed again."""

VERSION = hashlib.sha256(json.dumps([ANALYSIS_VERSION, SCHEMA_VERSION, PROTOCOL_VERSION, COLUMNS]).encode()).hexdigest()

LARGEST = 2**63 - 1
"""Largest whole number of a column."""

_PLAIN: Mapping[str, Callable[[Any], Any]] = {"Float64": float, "Int64": int, "boolean": bool, "string": str}


@dataclass(frozen=True)
class _Before:
    """Measurement of a suite at volume 0, and its rows."""

    measurement: Scored
    rows: list[Row]


@dataclass(frozen=True)
class _Computed:
    """Rows and changes of a run, computed from its samples, and its measurements."""

    rows: list[Row]
    changes: dict[ChangeKey, TaskChange]
    measurements: tuple[str, ...]


def _tell(error: DamagedError) -> None:
    """Show a damaged file that needs no advice, since it is computed again."""
    OUTPUT.error(f"harness: {str(error).partition('; fix: ')[0]}; computed again, from the samples")


class RunReader:
    """Reader of an experiment's runs; reads each volume 0 once."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._before: dict[tuple[str, str], _Before] = {}
        self._digests: dict[Path, bytes] = {}
        self._found: dict[str, Summary] = {}
        """Run id → its summary, without rows."""

    def rows(self, run_id: str) -> Summary:
        """Return the rows of one run: volume 0, its points, and its failure.

        Columns are those of COLUMNS without LATE. A run whose last attempt failed, or that
        has no record yet, has one more row with that status.

        Raises:
            RecordError: if a record is damaged, of another version, or names a point or measurement
                that does not exist.
        """
        folder = self.experiment.run_folder(run_id)
        recorded, failed = (folder / "record.json").exists(), (folder / "failure.json").exists()
        if recorded and not failed:
            return self.kept(run_id) or self._summary(self.keep(run_id))
        record, failure = self.experiment.record(run_id), self.experiment.failure(run_id)
        return self._summary([*self._compute(run_id, record).rows, *self._ending(run_id, record, failure)])

    def changes(self, run_id: str) -> RunChanges:
        """Return the item changes of one run, by volume, suite and leaf task.

        Raises RecordError as ``rows`` does.
        """
        summary = self._found.get(run_id) or self.kept(run_id)
        if summary is not None and (found := self._kept_changes(run_id, summary)) is not None:
            return found
        record = self.experiment.record(run_id)
        computed = self._compute(run_id, record)
        if record is not None:
            self._write(run_id, computed)
        return computed.changes

    def kept(self, run_id: str) -> Summary | None:
        """Return the kept rows of a run.

        None unless they were made from its record, points and measurements as they are now. A
        damaged file is reported, and computed again by the caller.
        """
        try:
            found = summary_files.read(self.experiment.run_folder(run_id))
        except DamagedError as error:
            _tell(error)
            return None
        holds = found is not None and found.digest and found.digest == self.digest(run_id, found.measurements)
        if found is None or not holds:
            return None
        self._found[run_id] = dataclasses.replace(found, rows=0, same={}, columns={})  # thousands of runs: the table has the rows
        return found

    def _kept_changes(self, run_id: str, summary: Summary) -> RunChanges | None:
        """Return the kept changes of a run, as they were written with its summary.

        None if a worker has written them anew since the summary was read.
        """
        folder = self.experiment.run_folder(run_id)
        try:
            kept = summary_files.read_arrays(folder, summary.changes_sha256)
        except DamagedError as error:
            now = self.kept(run_id)
            if now is not None and now.changes_sha256 == summary.changes_sha256:
                _tell(error)
            return None
        found = None if kept is None else packing.unpack(kept)
        return found.changes if found is not None and found.digest == summary.digest else None

    def keep(self, run_id: str) -> list[Row]:
        """Compute, write and return the rows of a recorded run; write its changes too."""
        computed = self._compute(run_id, self.experiment.record(run_id))
        self._write(run_id, computed)
        return computed.rows

    def computed(self, run_id: str) -> tuple[Summary, RunChanges, bool]:
        """Compute the rows and changes of a run anew; return also whether it has a record."""
        record = self.experiment.record(run_id)
        found = self._compute(run_id, record)
        return self._summary(found.rows), found.changes, record is not None

    def _write(self, run_id: str, computed: _Computed) -> None:
        """Write rows and changes; an unwritable folder is not an error."""
        folder, digest = self.experiment.run_folder(run_id), self.digest(run_id, computed.measurements)
        if digest is not None:
            summary = self._summary(computed.rows, digest, computed.measurements)
            with contextlib.suppress(OSError):
                changes = summary_files.write_arrays(folder, packing.pack(computed.changes, digest, computed.measurements))
                summary_files.write(folder, dataclasses.replace(summary, changes_sha256=changes))

    def digest(self, run_id: str, measurements: Sequence[str]) -> str | None:
        """Return the digest of the inputs of a run's rows, as in ``summary_files.digest``.

        None where a file is missing.
        """
        folders = (self.experiment.folder / "measurements" / name for name in measurements)
        version = f"{VERSION} {self.experiment.name} {run_id}"
        return summary_files.digest(version, self.experiment.run_folder(run_id), folders, self._digests)

    def unreadable(self, run_id: str, error: RecordError) -> Summary:
        """Return the one row of a run whose records cannot be read: its names, and the reason."""
        labels: Mapping[str, Any] = {}
        with contextlib.suppress(RecordError):
            labels = self.experiment.config(run_id).get("labels", {})
        named = {name: value for name, value in _chosen(labels, {}).items() if isinstance(value, str)}
        own = {"experiment": self.experiment.name, "run_id": run_id, "protocol_version": PROTOCOL_VERSION}
        return self._summary([{**named, **own, "status": "failed", "reason": str(error)}])

    def _summary(self, rows: Sequence[Row], digest: str = "", measurements: Sequence[str] = ()) -> Summary:
        """Return rows by column. Raises RecordError for a number that no column can hold."""
        columns = {name: [_plain(row.get(name), dtype) for row in rows] for name, dtype in COLUMNS.items() if name not in LATE}
        for name, values in columns.items():
            if large := [value for value in values if COLUMNS[name] == "Int64" and value is not None and abs(value) > LARGEST]:
                files = (self.experiment.run_folder(rows[0]["run_id"]) / file for file in ("record.json", "config.json"))
                where, fix = next((file for file in files if file.exists()), "config.json"), "move its folder away"
                raise RecordError(explain(f"{where}: {name}", got=large[0], allowed=f"at most {LARGEST}", fix=fix))
        return Summary.of(columns, len(rows), digest, measurements)

    def _compute(self, run_id: str, record: Record | None) -> _Computed:
        """Compute the rows and changes of a run from its samples.

        A run without a record has those of the points written so far.
        """
        common = self._common(run_id, record)
        config = record.config if record else self._config(run_id)
        roles: Mapping[str, str] = record.roles if record else _roles(config)
        ids, zero = self._evaluations(run_id, record)
        befores = {suite: self._volume_0(evaluation_id, zero) for suite, evaluation_id in ids.items()}
        found = {suite: before for suite, before in befores.items() if before is not None}
        for suite in befores.keys() - found.keys():
            self._check_missing(run_id, record, 0, suite)
        rows = [
            common | {"role": roles[suite], "evaluation_id": ids[suite]} | row for suite, before in found.items() for row in before.rows
        ]
        keys = [self._key(found, zero) for found in ids.values()]
        changes: dict[ChangeKey, TaskChange] = {}
        for volume in sorted({*self.experiment.volumes(run_id), *(record.volumes if record else ())}):
            point = self._point(run_id, volume)
            made = {suite: self._measured(ids.get(suite), point.weights_sha256) for suite in roles}
            here = common | _progress(point) | {"evaluation_seconds": sum(one.seconds for one in made.values() if one is not None)}
            keys += [self._key(found, point.weights_sha256) for found in ids.values()]
            for suite, after in made.items():
                if after is None:
                    self._check_missing(run_id, record, volume, suite)
                    continue
                tasks = measure.suite_tasks(suite, after, found[suite].measurement if suite in found else None)
                told = here | {"role": roles[suite], "evaluation_id": ids[suite]}
                rows += [told | row for row in measure.rows_of(tasks, at_zero=False)]
                changes |= {(volume, suite, task): change for task, change in measure.task_changes(tasks).items()}
        measure.over_volumes(rows)
        rows += [common | row for row in (_not_reached(record) if record else [])]
        return _Computed(rows, changes, tuple(dict.fromkeys(keys)))

    def _check_missing(self, run_id: str, record: Record | None, volume: int, suite: str) -> None:
        """Raise RecordError for a missing measurement that the record names."""
        if record is not None and volume in (0, *record.volumes) and volume not in record.incomplete:
            raise RecordError(explain(f"run {run_id}: suite {suite} at volume {volume}", got="none", fix="rerun its sweep or run"))

    def _evaluations(self, run_id: str, record: Record | None) -> tuple[Mapping[str, str], str]:
        """Return suite → evaluation id, and the hash of the weights of volume 0."""
        if record is not None:
            return record.evaluations, record.before_sha256
        config = self.experiment.config(run_id)
        return config.get(EVALUATIONS, {}), config.get(BEFORE, "")

    @staticmethod
    def _key(evaluation_id: str, weights_sha256: str) -> str:
        return f"{evaluation_id}/{weights_sha256[:16]}"

    def _measured(self, evaluation_id: str | None, weights_sha256: str) -> Scored | None:
        """Return a measurement with its items; None if it is not made."""
        found = self.experiment.measurement(evaluation_id, weights_sha256) if evaluation_id else None
        if found is None:
            return None
        samples = self.experiment.measurement_samples(found.evaluation_id, weights_sha256)
        return Scored(by_key(found.scores), Samples(samples), found.wall_seconds)

    def _common(self, run_id: str, record: Record | None) -> Row:
        """Return the columns that all rows of a run share."""
        config = record.config if record else self._config(run_id)
        labels = record.labels if record else config.get("labels", {})
        common = {"experiment": self.experiment.name, "run_id": run_id, "protocol_version": PROTOCOL_VERSION, "status": "ok"}
        return common | _chosen(labels, config) | (_resolved(record) if record else {})

    def _config(self, run_id: str) -> Mapping[str, Any]:
        failure = self.experiment.failure(run_id)
        return failure.config if failure else self.experiment.config(run_id)

    def _ending(self, run_id: str, record: Record | None, failure: Failure | None) -> list[Row]:
        """Return the row of a run whose last attempt failed, or that is unfinished."""
        if failure:
            return [self._common(run_id, record) | {"status": "failed", "reason": failure.reason}]
        if record is None:
            reason = "no record yet: under way, or killed; rerun its sweep or run"
            return [self._common(run_id, None) | {"status": "unfinished", "reason": reason}]
        return []

    def _volume_0(self, evaluation_id: str, weights_sha256: str) -> _Before | None:
        """Return volume 0 of a suite; None if it is not measured."""
        key = (evaluation_id, weights_sha256)
        if key not in self._before:
            measured = self._measured(*key)
            if measured is None:
                return None
            suite = next(iter(measured.scores.values())).suite
            self._before[key] = _Before(measured, [_AT_ZERO | row for row in measure.suite_rows(suite, measured, measured)])
        return self._before[key]

    def _point(self, run_id: str, volume: int) -> Point:
        point = self.experiment.point(run_id, volume)
        if point is None:
            raise RecordError(explain(f"run {run_id}: point {volume}", got="none", fix="rerun its sweep or run, which trains for it"))
        return point


def summarise(experiment: Experiment, run_id: str) -> str:
    """Write the rows and changes of a recorded run, unless they are up to date.

    Best effort: the run is recorded even if its analysis fails. The next reader of its rows
    computes them again and gets the same error.

    Returns:
        Reason why they could not be computed, in one line; empty on success.
    """
    reader = RunReader(experiment)
    try:
        if reader.kept(run_id) is None:
            reader.keep(run_id)
    except Exception as error:  # noqa: BLE001 - returned, and raised again for the next reader of the rows
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _not_reached(record: Record) -> list[Row]:
    """Return a row for each volume that all accepted rows of a run are too few for."""
    if REACH not in record.writing:
        return []
    accepted, rows = record.writing[REACH]
    volumes = sorted(volume for volume in record.config["data"]["volumes"] if volume > accepted and volume not in record.volumes)
    reasons = {volume: f"{accepted:,} of {volume:,} accepted, from {rows:,} rows" for volume in volumes}
    return [{"volume": volume, "status": "not reached", "reason": reason} for volume, reason in reasons.items()]


_NONE_YET = "volume steps target_rows anchor_rows truncated_rows train_tokens supervised_tokens anchor_tokens generated_tokens"
_NONE_YET += " anchor_supervised_tokens extra_tokens"
_AT_ZERO: Row = dict.fromkeys(_NONE_YET.split(), 0) | dict.fromkeys(["weight_change", "flops", "wall_seconds"], 0.0)


def _chosen(labels: Mapping[str, Any], config: Mapping[str, Any]) -> Row:
    """Return the columns that follow from a run's configuration alone."""
    names = ["model", "tuning", "objective", "mitigation", "data", "anchor", "reference"]
    training = config.get("training", {})
    known = {"trajectory": config.get("trajectory"), "seed": config.get("seed"), "epochs": training.get("epochs")}
    return {name: labels.get(name) for name in names} | known | {"learning_rate": training.get("learning_rate"), "axis": "rows"}


def _resolved(record: Record) -> Row:
    return {
        "params_total": record.params_total,
        "params_trainable": record.params_trainable,
        "trajectory": record.trajectory,
        "learning_rate": record.learning_rate,
        "lr_tuned": record.lr_tuned,
        "seed": record.seed,
        "dtype": record.dtype,
        "protocol_version": record.protocol_version,
        "axis": record.axis,
        "left_out_rows": record.data_facts.get("left_out_rows"),
        "repeated_rows": record.data_facts.get("repeated_rows"),
    } | _written(record.writing)


def _written(writing: Mapping[str, Any]) -> Row:
    """Return the columns of generated rows, and whether the method acted.

    An objective is trained only on accepted generated rows, so it acts if there are any. If a
    mitigation generates rows as well, the acceptance is that of its anchor rows.
    """
    known, by = {name: writing.get(name) for name in ["acceptance", "edit_rate", "target_nats"]}, writing.get(WRITERS, ())
    if "anchor" in by:
        known["acceptance"] = writing.get("anchor_acceptance" if "objective" in by else "acceptance", 0.0)
    elif "objective" in by:
        return known | {"acted": True if writing.get("rows") else None}
    accepted = known["acceptance"]
    return known | {"acted": None if accepted is None else bool(accepted >= ACTED)}


def _roles(config: Mapping[str, Any]) -> dict[str, str]:
    return dict.fromkeys(config.get("target_suites", []), "target") | dict.fromkeys(config.get("probe_suites", []), "probe")


def _progress(point: Point) -> Row:
    """Return the columns of a point: its own fields, and its running totals."""
    counts = point.counts
    totals: Row = {
        "steps": counts.step,
        "train_tokens": counts.trained_tokens,
        "supervised_tokens": counts.supervised_tokens,
        "train_loss": counts.train_loss,
        "train_penalty": counts.train_penalty,
        "flops": counts.flops,
        "wall_seconds": counts.seconds,
        "generated_tokens": counts.generated_tokens,
        "extra_tokens": counts.read_tokens,
    }
    if point.source:  # a training elsewhere: what its files say nothing of is unknown
        stated = {name: totals[name] or None for name in ("steps", "train_tokens", "train_loss")}
        return stated | {"target_rows": point.target_rows or None, "volume": point.volume, "peak_memory_bytes": point.peak_memory_bytes}
    return totals | {name: value for name, value in vars(point).items() if name in COLUMNS and name != "run_id"}


def _plain(value: Any, dtype: str) -> Any:
    """Return a value in the Python type of its column; NaN becomes None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return _PLAIN[dtype](value)
