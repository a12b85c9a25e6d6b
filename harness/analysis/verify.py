"""Verification of an experiment's records: whole, in place, and following from their items.

Scores are derived from the items stored with them, rows and item changes from the records. What
cannot be derived (seconds, memory, counts of training) is covered by each file's seal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.statistics import stats
from harness.analysis.table import packing
from harness.analysis.table.runs import RunReader
from harness.config.identity import derived_id, identify, training_id
from harness.core.errors import DamagedError, RecordError, explain
from harness.records import record_files, seals, summary_files
from harness.records.locate import spelled
from harness.records.partial import PARTIAL
from harness.records.schema import WRITERS, Finished, Measurement, Record, Score
from harness.records.seals import damaged
from harness.records.store import Experiment
from harness.records.summary_files import CHANGES, SUMMARY, Summary

RELATIVE, ABSOLUTE = 1e-9, 1e-12
"""Distance within which a number computed anew is the same: sums differ in their last digits
between machines."""

LAST = "rerun its last sweep or run"

SHARES = ("unparsed", "prompt_truncated", "answer_truncated")

Errors = Iterator[RecordError]


def errors(experiment: Experiment) -> Errors:
    """Yield an error for each file that is missing, altered, elsewhere, or does not follow.

    Files of the user, what no record names, and runs that a process has are not looked at.
    """
    yield from _manifest(experiment)
    for folder in _folders(experiment.folder / "measurements", depth=2):
        yield from _measurement(experiment, folder)
    runs = [run_id for run_id in experiment.run_ids() if not is_under_way(experiment, run_id)]
    for run_id in runs:
        yield from _run(experiment, run_id)
        yield from _partial(experiment.run_folder(run_id) / PARTIAL)
    yield from _partial(experiment.folder / PARTIAL)
    reader = RunReader(experiment)
    for run_id in runs:
        yield from _derived(reader, run_id)


def is_under_way(experiment: Experiment, run_id: str) -> bool:
    """Return whether a process may have a run: its claim, or that of a point, has not expired."""
    for unit in (one for one in experiment.claims.units() if one.partition("@")[0] == training_id(run_id)):
        last = experiment.claims.last(unit)
        if last is not None and not (last.ended or last.died) and (experiment.claims.age(last) or 0.0) <= last.lease:
            return True
    return False


def counts(experiment: Experiment) -> dict[str, int]:
    """Return how many runs, points and measurements there are, and runs that are not verified."""
    runs, manifest = experiment.run_ids(), experiment.manifest()
    measurements = len(_folders(experiment.folder / "measurements", depth=2))
    found = {"runs": len(runs), "points": sum(len(experiment.volumes(one)) for one in runs), "measurements": measurements}
    under_way = sum(is_under_way(experiment, run_id) for run_id in runs)
    without = len({*manifest.run_ids} - {*runs}) if manifest else 0
    return found | ({"runs under way, not verified": under_way} if under_way else {}) | ({"runs not started": without} if without else {})


def _manifest(experiment: Experiment) -> Errors:
    path, runs = experiment.folder / "manifest.json", experiment.run_ids()
    try:
        found = experiment.manifest()
    except RecordError as error:
        yield error
        return
    if found is None:
        if runs:
            yield _missing(path, LAST)
        return
    names = {name for run_id in runs if (name := _name(experiment, run_id))}
    if names and found.experiment not in {*names, experiment.name}:
        yield damaged(path, f"the manifest of '{found.experiment}'", f"that of '{min(names)}', as the runs say")
    for run_id in sorted({*found.run_ids} - {*runs}):
        last = experiment.claims.last(run_id)
        if last is not None and last.ended == "done":
            yield _missing(experiment.run_folder(run_id), LAST)
    sweeps = {path.stem for path in (experiment.folder / "sweeps").glob("*.json")}
    for sweep in sorted({*sweeps, *([found.sweep] if found.sweep else [])}):
        try:
            if experiment.sweep(sweep) is None:
                yield _missing(experiment.folder / "sweeps" / f"{sweep}.json", LAST)
        except RecordError as error:
            yield error


def _name(experiment: Experiment, run_id: str) -> str:
    """Return the name of the experiment in a run's configuration; empty if unknown."""
    try:
        return str(experiment.config(run_id).get("name", ""))
    except RecordError:
        return ""


def _measurement(experiment: Experiment, folder: Path) -> Errors:
    """Check a measurement: its place, its identity, and its scores by its items."""
    path = folder / record_files.MEASUREMENT
    try:
        found = record_files.read(path, Measurement)
        if found is None:
            yield _missing(path, seals.REMAKE.format(folder))
            return
        if (found.evaluation_id, found.place) != (folder.parent.name, folder.name):
            yield damaged(path, f"a copy of the measurement {found.evaluation_id}/{found.place}", fix=seals.REMAKE.format(folder))
        if identify(found.identity) != found.evaluation_id:
            yield damaged(path, "an identity whose hash is not the evaluation id")
        samples = experiment.measurement_samples(found.evaluation_id, found.weights_sha256)
    except RecordError as error:
        yield error
        return
    for what in _scores(found, samples):
        yield damaged(path, what, "scores that follow from samples.parquet")


def _scores(measurement: Measurement, samples: pd.DataFrame) -> Iterator[str]:
    """Yield what differs between the scores of a measurement and those that its items give."""
    recorded = {(score.task, score.filter, score.metric): score for score in measurement.scores if score.status == "ok"}
    metrics, seen = [name for name in samples.columns if name.startswith("metric.")], set()
    for (task, kind), group in samples.groupby(["task", "filter"], sort=False):
        for column in metrics:
            items, key = group[group[column].notna()], (str(task), str(kind), column.removeprefix("metric."))
            if items.empty:
                continue
            seen.add(key)
            if key not in recorded:
                yield f"no score of {_named(key)}"
                continue
            for name, value in _derive(recorded[key], items).items():
                if not _equal(getattr(recorded[key], name), value):
                    yield f"{name} {getattr(recorded[key], name)} of {_named(key)} instead of {value}"
    yield from (f"a score of {_named(key)}, which has no items" for key in recorded.keys() - seen)


def _named(key: tuple[str, str, str]) -> str:
    return f"{key[0]}, {key[2]} (filter {key[1]})"


def _derive(score: Score, items: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of a score that its items give."""
    weight = f"weight.{score.metric}"
    weights = items[weight].fillna(1.0).to_numpy(float) if weight in items else np.ones(len(items))
    stratum = stats.Stratum(items[f"metric.{score.metric}"].to_numpy(float), weights)
    found: dict[str, Any] = {"n": len(items), "value": stats.mean([stratum])}
    found["stderr"] = stats.standard_error([stratum]) if len(items) > 1 else None
    found["chance"] = float(items["chance"].mean()) if score.primary and items["chance"].notna().all() else None
    return found | {name: float(items[name].mean()) for name in SHARES if name in items and getattr(score, name) is not None}


def _run(experiment: Experiment, run_id: str) -> Errors:
    """Check the files of a run, each by its seal and its place."""
    folder = experiment.run_folder(run_id)
    record: Record | None = None
    try:
        record = experiment.record(run_id)
        if record is not None and _id(record) != run_id:
            yield damaged(folder / "record.json", "an identity whose hash is not the run id")
    except RecordError as error:
        yield error
    else:
        if record is None and (folder / SUMMARY).exists():
            yield _missing(folder / "record.json", "rerun its sweep or run, which writes it again")
    for read in (experiment.failure, experiment.config, experiment.written):
        try:
            read(run_id)
        except RecordError as error:
            yield error
    yield from _points(experiment, run_id)
    for state in _folders(folder / "state"):
        yield from _state(state, run_id)
    if record is None:
        return
    expected = [folder / "config.json", *([folder / "written.json"] if WRITERS in record.writing and record.derived_from is None else [])]
    fixes = {"config.json": "rerun its sweep or run, which writes it again", "written.json": seals.REMAKE.format(folder / "record.json")}
    yield from (_missing(path, fixes[path.name]) for path in expected if not path.exists())
    for suite in record.roles if record.derived_from is None else ():
        yield from seals.folder_errors(experiment.prompts_folder(run_id, suite), experiment.place(experiment.prompts_folder(run_id, suite)))


def _id(record: Record) -> str:
    identity = {key: value for key, value in record.identity.items() if key != "coefficient"}
    return derived_id(identify(identity), record.identity["coefficient"]) if "coefficient" in record.identity else identify(identity)


def _points(experiment: Experiment, run_id: str) -> Errors:
    """Check the points of a run, and the weights that are on disk."""
    folder = experiment.run_folder(run_id)
    for place in _folders(folder / "points"):
        try:
            found = experiment.point(run_id, int(place.name)) if place.name.isdigit() else None
        except RecordError as error:
            yield error
            continue
        if found is None:
            yield _missing(place / "point.json", seals.REMAKE.format(place))
        elif found.weights and (folder / found.weights).is_dir():  # they may be removed, to save disk
            fix = f"remove {folder / found.weights}; also {place / 'point.json'}, to train for them again with its sweep or run"
            yield from seals.folder_errors(folder / found.weights, experiment.place(folder / found.weights), fix)
    for place in _folders(folder / "unmeasured"):
        yield from seals.folder_errors(place, experiment.place(place))


def _state(folder: Path, run_id: str) -> Errors:
    """Check a checkpoint by the hash in its header."""
    header, tensors = folder / "state.json", folder / "state.safetensors"
    fix = f"remove {folder}; training then resumes from an earlier point"
    try:
        values = seals.opened(header, header.read_bytes())
        if values.get("run_id") != run_id:
            yield damaged(header, "a checkpoint of another run", fix=fix)
        elif seals.hash_of(tensors) != values.get("tensors_sha256"):
            yield damaged(tensors, "a file that was changed after it was written", fix=fix)
    except OSError as error:
        yield damaged(Path(error.filename or folder), "no such file", fix=fix)
    except DamagedError as error:
        yield error


def _partial(folder: Path) -> Errors:
    """Check the finished tasks of measurements that are under way."""
    for path in sorted(folder.rglob("finished.json")) if folder.is_dir() else []:
        try:
            found = record_files.read(path, Finished)
            if found is not None:
                record_files.read_samples(path.parent, found.samples_sha256)
        except RecordError as error:
            yield error


def _derived(reader: RunReader, run_id: str) -> Errors:
    """Compute the rows and item changes of a run anew, and compare them with the kept ones."""
    experiment, folder = reader.experiment, reader.experiment.run_folder(run_id)
    command = f"{spelled(experiment)}{' --stale' if run_id in experiment.stale() else ''}"
    try:
        rows, changes, is_recorded = reader.computed(run_id)
    except RecordError as error:
        yield error
        return
    if not is_recorded:
        return
    fix = f"remove {{}}; `harness table {command}` computes it again"
    try:
        kept = summary_files.read(folder)
        if kept is None:
            yield _missing(folder / SUMMARY, f"`harness table {command}` writes it again")
            return
        if kept.column("run_id")[:1] not in ([], [run_id]):
            yield damaged(folder / SUMMARY, f"a copy of that of run {kept.column('run_id')[0]}", fix=fix.format(folder / SUMMARY))
        if kept.digest != reader.digest(run_id, kept.measurements):
            return  # of earlier records or another name: the next reader computes it again
        for column in _differing(kept, rows):
            yield damaged(folder / SUMMARY, f"another {column} than the items give", fix=fix.format(folder / SUMMARY))
        arrays = summary_files.read_arrays(folder, kept.changes_sha256)
    except DamagedError as error:
        yield error
        return
    if arrays is None:
        yield _missing(folder / CHANGES, f"`harness table {command}` writes it again, once {folder / SUMMARY} is removed")
    elif (found := packing.unpack(arrays)) is None or not _same_changes(found.changes, changes):
        yield damaged(folder / CHANGES, "other changes than the items give", fix=fix.format(folder / CHANGES))


def _differing(kept: Summary, rows: Summary) -> Iterator[str]:
    if kept.rows != rows.rows:
        yield "number of rows"
        return
    for name in dict.fromkeys((*rows.same, *rows.columns, *kept.same, *kept.columns)):
        if not all(map(_equal, kept.column(name), rows.column(name))):
            yield name


def _same_changes(kept: packing.RunChanges, now: packing.RunChanges) -> bool:
    return kept.keys() == now.keys() and all(
        kept[key].items == change.items
        and np.shape(kept[key].values) == np.shape(change.values)
        and np.allclose(kept[key].values, change.values, RELATIVE, ABSOLUTE)
        for key, change in now.items()
    )


def _equal(known: Any, now: Any) -> bool:
    """Return whether two plain values are the same, numbers up to rounding."""
    if isinstance(known, float | int) and isinstance(now, float | int):
        return math.isclose(known, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (known != known and now != now)
    return bool(known == now)


def _folders(folder: Path, depth: int = 1) -> list[Path]:
    pattern = "/".join(["*"] * depth)
    found = [
        path for path in folder.glob(pattern) if path.is_dir() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found)


def _missing(path: Path, fix: str) -> DamagedError:
    return DamagedError(explain(str(path), got="no such file", fix=fix))
