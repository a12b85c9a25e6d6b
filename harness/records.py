"""The only module that reads or writes runs: typed, strict, atomic, versioned.

    results/<name>/
      manifest.json                    the run ids that the last command asked for; others are stale
      baselines/<baseline id>/         volume 0, once per model and suite
        baseline.json  samples.parquet
      runs/<run id>/
        config.json                    the resolved configuration
        points/<volume>/point.json  samples.parquet
        weights/<volume>/
        record.json                    written last: its presence means every volume it names is done
        failure.json                   instead of it: the reason and traceback of the last try

Every file is written beside its place and renamed into it; of a folder's files the json comes last and marks it complete.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd

from harness import PROTOCOL_VERSION
from harness.config import build
from harness.errors import ConfigError, RecordError, explain

SCHEMA_VERSION = 1
Status = Literal["ok", "failed"]
Role = Literal["target", "probe"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one task at one point. A failed measurement has status ``failed``, a reason and no value.

    Attributes:
        filter: lm-eval's answer filter, ``none`` where there is none.
        primary: whether this is the metric its suite is judged by.
        n: items with a value.
        value: weighted mean over items, in the metric's unit (accuracy in 0..1, nats per token, …).
        stderr: standard error over items.
        chance: mean over items of the level of uniform guessing, where the metric has one.
        unparsed, truncated: share of items, in 0..1, whose generated answer could not be parsed / whose prompt or answer was cut.
    """

    suite: str
    task: str
    metric: str
    filter: str
    primary: bool
    n: int
    value: float | None
    stderr: float | None
    chance: float | None
    higher_is_better: bool
    status: Status = "ok"
    reason: str | None = None
    unparsed: float | None = None
    truncated: float | None = None


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Volume 0 of one suite for one model, shared by every run that starts from it.

    Attributes:
        identity: everything that can change its numbers; its hash is ``baseline_id``.
        weights_sha256: bytes of the weights that were measured.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    baseline_id: str
    suite: str
    identity: Mapping[str, Any]
    weights_sha256: str
    scores: tuple[Score, ...]
    wall_seconds: float
    provenance: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run's state after a volume, evaluated. Token counts are cumulative from the start of the run.

    Attributes:
        target_rows, anchor_rows: rows trained on, each time they were seen.
        train_tokens: target and anchor tokens; ``supervised_tokens``: those with a loss; ``anchor_tokens``: the anchor's share.
        train_loss: mean nats per supervised token over the steps since the previous volume.
        weight_change: Euclidean norm of the change of all weights; 0 would mean that the run did nothing.
        flops: floating-point operations of training so far, as transformers estimates them.
        wall_seconds: training since the previous volume; ``evaluation_seconds``: this point's evaluation.
        weights: folder of the saved weights, relative to the run's folder.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    volume: int
    steps: int
    target_rows: int
    anchor_rows: int
    train_tokens: int
    supervised_tokens: int
    anchor_tokens: int
    truncated_rows: int
    train_loss: float | None
    weight_change: float
    flops: float
    wall_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int
    scores: tuple[Score, ...]
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        identity: everything that can change its numbers and is known before starting; its hash is ``run_id``.
        labels: what the table calls model, tuning, objective, mitigation, data, anchor.
        config: the resolved configuration, plain values.
        volumes: every volume with a point, ascending.
        baselines: suite → baseline id; ``roles``: suite → target or probe.
        tuning_facts: rank, modules, … as resolved.
        data_facts: of the target rows as tokenised, largest volume: rows, repeated rows, tokens, supervised tokens, truncated rows.
        overlap: suite → shares of its items found in the training rows (exact, 13-gram), or ``expected``.
        start_weights_sha256: bytes of the weights that training started from.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    experiment: str
    identity: Mapping[str, Any]
    labels: Mapping[str, Any]
    config: Mapping[str, Any]
    volumes: tuple[int, ...]
    baselines: Mapping[str, str]
    roles: Mapping[str, Role]
    params_total: int
    params_trainable: int
    learning_rate: float
    lr_tuned: bool
    seed: int
    trajectory: Literal["shared", "independent"]
    dtype: str
    threads: int
    tuning_facts: Mapping[str, Any]
    overlap: Mapping[str, Any]
    start_weights_sha256: str
    provenance: Mapping[str, Any]
    data_facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The last try of a run that did not finish."""

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    experiment: str
    labels: Mapping[str, Any]
    config: Mapping[str, Any]
    reason: str
    traceback: str


@dataclass(frozen=True)
class Manifest:
    """The runs that the last sweep, and any run since, asked for."""

    experiment: str
    run_ids: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION


AnyRecord = TypeVar("AnyRecord", Baseline, Point, Record, Failure, Manifest)

SAMPLE_COLUMNS = {
    "suite": "str",
    "task": "str",
    "filter": "str",
    "doc_id": "int64",
    "doc_hash": "str",
    "prompt_hash": "str",
    "target_hash": "str",
    "prompt": "str",
    "target": "str",
    "choices": "object",
    "log_likelihoods": "object",
    "text": "object",
    "chance": "float64",
}
"""Columns of samples.parquet, one row an (item, filter). Beside them, for each metric M of any task in the file, ``metric.M`` (the
item's value, missing where the metric is not the task's) and, for a ratio metric such as nats per token, ``weight.M`` (the item's
weight in the mean; missing means 1). ``choices`` and ``log_likelihoods`` are lists for multiple choice; ``text`` is what a
generation task's model wrote; ``chance`` is the level of uniform guessing of this item."""


@dataclass(frozen=True)
class Experiment:
    """The results folder of one name."""

    folder: Path

    @property
    def name(self) -> str:
        """The experiment's name, which is its folder's."""
        return self.folder.name

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / run_id

    def point_folder(self, run_id: str, volume: int) -> Path:
        """Return the folder of a point."""
        return self.run_folder(run_id) / "points" / str(volume)

    def baseline_folder(self, baseline_id: str) -> Path:
        """Return the folder of a baseline."""
        return self.folder / "baselines" / baseline_id

    def require_writable(self) -> None:
        """Raise ConfigError unless files can be written here; leaves nothing behind, not even the folder."""
        parent = self.folder
        while not parent.exists():
            parent = parent.parent
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            message = explain(
                "results", got=f"'{self.folder}', not writable ({error.strerror})", fix="set results=FOLDER to one you can write to"
            )
            raise ConfigError(message) from error

    def require_readable(self) -> None:
        """Raise RecordError unless there is something here, naming the experiments that exist."""
        if not self.folder.is_dir():
            known = sorted(p.name for p in self.folder.parent.glob("*") if (p / "runs").is_dir()) if self.folder.parent.is_dir() else []
            allowed = ", ".join(known) or f"nothing yet in {self.folder.parent}"
            raise RecordError(
                explain(f"results of '{self.name}'", got="none", allowed=allowed, fix="run `harness run` or `harness sweep` first")
            )

    def baseline(self, baseline_id: str) -> Baseline | None:
        """Return a baseline, or None where there is none."""
        return _read(self.baseline_folder(baseline_id) / "baseline.json", Baseline)

    def baseline_samples(self, baseline_id: str) -> pd.DataFrame:
        """Return the items of a baseline, columns as in SAMPLE_COLUMNS."""
        return _read_samples(self.baseline_folder(baseline_id))

    def point(self, run_id: str, volume: int) -> Point | None:
        """Return a point, or None where it is not done."""
        return _read(self.point_folder(run_id, volume) / "point.json", Point)

    def point_samples(self, run_id: str, volume: int) -> pd.DataFrame:
        """Return the items of a point, columns as in SAMPLE_COLUMNS."""
        return _read_samples(self.point_folder(run_id, volume))

    def record(self, run_id: str) -> Record | None:
        """Return the record of a run, or None where it is not done."""
        return _read(self.run_folder(run_id) / "record.json", Record)

    def failure(self, run_id: str) -> Failure | None:
        """Return why the last try of a run failed, or None."""
        return _read(self.run_folder(run_id) / "failure.json", Failure)

    def config(self, run_id: str) -> Mapping[str, Any]:
        """Return the resolved configuration of a run that began, as plain values; empty where it did not."""
        path = self.run_folder(run_id) / "config.json"
        config: Mapping[str, Any] = _load(path) if path.exists() else {}
        return config

    def volumes(self, run_id: str) -> list[int]:
        """Return the volumes with a complete point, ascending, whether the run is done or not."""
        folders = (self.run_folder(run_id) / "points").glob("*")
        return sorted(int(path.name) for path in folders if path.name.isdigit() and (path / "point.json").exists())

    def run_ids(self) -> list[str]:
        """Return every run with a folder, done or not."""
        return sorted(path.name for path in (self.folder / "runs").glob("*") if path.is_dir())

    def current(self) -> set[str]:
        """Return the runs the last command asked for; every run where there is no manifest."""
        manifest = _read(self.folder / "manifest.json", Manifest)
        return set(manifest.run_ids) if manifest else set(self.run_ids())

    def write_manifest(self, run_ids: Iterable[str], *, keep: bool) -> None:
        """Say which runs are current; ``keep`` adds to those that already are."""
        ids = sorted(set(run_ids) | (self.current() if keep else set()))
        _write_json(self.folder / "manifest.json", Manifest(experiment=self.name, run_ids=tuple(ids)))

    def write_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration of a run."""
        _write_text(self.run_folder(run_id) / "config.json", json.dumps(config, indent=2, ensure_ascii=False))

    def write_baseline(self, baseline: Baseline, samples: pd.DataFrame) -> None:
        """Write a baseline: samples first, then the json that marks it complete."""
        _write_samples(self.baseline_folder(baseline.baseline_id), samples)
        _write_json(self.baseline_folder(baseline.baseline_id) / "baseline.json", baseline)

    def write_point(self, point: Point, samples: pd.DataFrame) -> None:
        """Write a point: samples first, then the json that marks it complete."""
        _write_samples(self.point_folder(point.run_id, point.volume), samples)
        _write_json(self.point_folder(point.run_id, point.volume) / "point.json", point)

    def write_record(self, record: Record) -> None:
        """Write the record that marks a run done, and drop an earlier failure."""
        _write_json(self.run_folder(record.run_id) / "record.json", record)
        (self.run_folder(record.run_id) / "failure.json").unlink(missing_ok=True)

    def write_failure(self, failure: Failure) -> None:
        """Write why a run did not finish."""
        _write_json(self.run_folder(failure.run_id) / "failure.json", failure)

    def write_folder(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write a folder beside its place, then rename it into place, replacing an earlier one."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            fill(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def forget(self, run_id: str) -> None:
        """Remove a run whose inputs changed under its id (the weight bytes of a rebuilt nursery model)."""
        shutil.rmtree(self.run_folder(run_id), ignore_errors=True)


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(explain(str(path), got=f"a file that cannot be read ({error})", fix="delete its folder and run again")) from error
    if not isinstance(values, dict):
        raise RecordError(explain(str(path), got=type(values).__name__, allowed="a JSON object", fix="delete its folder and run again"))
    return values


def _read(path: Path, cls: type[AnyRecord]) -> AnyRecord | None:
    if not path.exists():
        return None
    values = _load(path)
    for key, ours in {"schema_version": SCHEMA_VERSION, "protocol_version": PROTOCOL_VERSION}.items():
        if key in {f.name for f in dataclasses.fields(cls)} and values.get(key) != ours:
            fix = "read it with the version that wrote it, or move its folder away and run again"
            raise RecordError(explain(f"{path}: {key}", got=repr(values.get(key)), allowed=str(ours), fix=fix))
    try:
        record: AnyRecord = build(cls, values, "")
    except ConfigError as error:
        raise RecordError(f"{path}: {error}") from error
    return record


def _read_samples(folder: Path) -> pd.DataFrame:
    path = folder / "samples.parquet"
    try:
        samples = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RecordError(explain(str(path), got=f"a file that cannot be read ({error})", fix="delete its folder and run again")) from error
    if missing := set(SAMPLE_COLUMNS) - set(samples.columns):
        raise RecordError(explain(str(path), got=f"no column {', '.join(sorted(missing))}", fix="delete its folder and run again"))
    return samples


def _write_json(path: Path, record: AnyRecord) -> None:
    _write_text(path, json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False, allow_nan=False))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_samples(folder: Path, samples: pd.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".samples.{os.getpid()}"
    try:
        samples.to_parquet(temporary, index=False, compression="zstd")
        temporary.replace(folder / "samples.parquet")
    finally:
        temporary.unlink(missing_ok=True)
