"""The only module that reads or writes runs: typed, strict, atomic, versioned.

    results/<name>/
      manifest.json                    the run ids that the last command asked for; others are stale
      sweeps/<sweep id>.json           the units of a sweep
      claims/<unit id>/<n>.json        who has a unit, or had it (harness.sweep.claims)
      baselines/<baseline id>/         volume 0, once per model and suite
        baseline.json  samples.parquet
      partial/<baseline id>/           tasks of its measurement under way, gone when it is written: first/ and, of the second one, again/
      runs/<run id>/                     of a derived run <run id of the training>-<coefficient>
        config.json                    the resolved configuration
        written.json                   of a run whose rows models write: volume → hash of the rows up to it
        prompts/<suite>/<task>.txt     one item of each task as the model sees it
        points/<volume>/               point.json  samples.parquet
        partial/<volume>/<suite>/<task>/  finished.json  samples.parquet: of a point's evaluation under way
        state/<step>/                  training, to go on from
        weights/<volume>/
        record.json                    written last: its presence means every volume it names is done
        failure.json                   the reason and traceback of the last try, where it did not finish

Every file is written beside its place and renamed into it, points and baselines as whole folders:
nothing is ever half there, and of two that write the same one the first wins. What a killed process
left behind begins with a dot.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from harness import PROTOCOL_VERSION
from harness.config.identity import identify, training_id
from harness.config.strict import build
from harness.core import files
from harness.core.errors import ConfigError, RecordError, explain
from harness.records import record_files, schema
from harness.records.claim_log import ClaimLog
from harness.records.schema import SCHEMA_VERSION, Baseline, Declared, Failure, Finished, Manifest, Point, Record, Score, Sweep

PARTIAL = "partial"


@dataclass(frozen=True)
class Partial:
    """The tasks of an evaluation under way that are finished: what an interrupted one need not do again.

    Attributes:
        folder: where they are kept until the whole is written.
        key: hash of the weights that are measured and of how; what lies there under another key is
            dropped.
    """

    folder: Path
    key: str

    def get(self, suite: str, task: str) -> tuple[tuple[Score, ...], pd.DataFrame] | None:
        """Return the scores and items of a task, or None where it is not finished."""
        place = self._place(suite, task)
        try:
            found = record_files.read(place / "finished.json", Finished)
            if found is not None and found.key == self.key:
                return found.scores, record_files.read_samples(place)
        except RecordError:  # damaged, or of another version: work to do
            pass
        shutil.rmtree(place, ignore_errors=True)
        return None

    def put(self, suite: str, task: str, scores: Sequence[Score], samples: pd.DataFrame) -> None:
        """Keep a task: items first, then the json that marks it finished."""
        place = self._place(suite, task)
        record_files.write_samples(place, samples)
        record_files.write_json(place / "finished.json", Finished(key=self.key, scores=tuple(scores)))

    def _place(self, suite: str, task: str) -> Path:
        return self.folder / suite / quote(task, safe="")


@dataclass(frozen=True)
class Experiment:
    """The results folder of one name."""

    folder: Path

    @property
    def name(self) -> str:
        """The experiment's name, which is its folder's."""
        return self.folder.name

    @property
    def claims(self) -> ClaimLog:
        """Who has its units, or had them."""
        return ClaimLog(self.folder)

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
        """Raise ConfigError unless files can be written here.

        Leaves nothing behind, not even the folder.
        """
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
            allowed, fix = ", ".join(known) or f"nothing yet in {self.folder.parent}", "run `harness run` or `harness sweep` first"
            raise RecordError(explain(f"results of '{self.name}'", got="none", allowed=allowed, fix=fix))

    def baseline(self, baseline_id: str) -> Baseline | None:
        """Return a baseline, or None where there is none."""
        return record_files.read(self.baseline_folder(baseline_id) / "baseline.json", Baseline)

    def baseline_samples(self, baseline_id: str) -> pd.DataFrame:
        """Return the items of a baseline, columns as in SAMPLE_COLUMNS."""
        return record_files.read_samples(self.baseline_folder(baseline_id))

    def point(self, run_id: str, volume: int) -> Point | None:
        """Return a point, or None where it is not done."""
        return record_files.read(self.point_folder(run_id, volume) / "point.json", Point)

    def point_samples(self, run_id: str, volume: int) -> pd.DataFrame:
        """Return the items of a point, columns as in SAMPLE_COLUMNS."""
        return record_files.read_samples(self.point_folder(run_id, volume))

    def record(self, run_id: str) -> Record | None:
        """Return the record of a run, or None where it is not done."""
        return record_files.read(self.run_folder(run_id) / "record.json", Record)

    def failure(self, run_id: str) -> Failure | None:
        """Return why the last try of a run failed, or None."""
        return record_files.read(self.run_folder(run_id) / "failure.json", Failure)

    def config(self, run_id: str) -> Mapping[str, Any]:
        """Return the resolved configuration of a run that began, as plain values.

        Empty where it did not.
        """
        path = self.run_folder(run_id) / "config.json"
        config: Mapping[str, Any] = record_files.load(path) if path.exists() else {}
        return config

    def volumes(self, run_id: str) -> list[int]:
        """Return the volumes with a complete point, ascending, whether the run is done or not."""
        folders = (self.run_folder(run_id) / "points").glob("*")
        return sorted(int(path.name) for path in folders if path.name.isdigit() and (path / "point.json").exists())

    def run_ids(self) -> list[str]:
        """Return every run with a folder, done or not."""
        return _names(self.folder / "runs")

    def baseline_ids(self) -> list[str]:
        """Return every baseline with a folder."""
        return _names(self.folder / "baselines")

    def baseline_keys(self) -> dict[str, bool]:
        """Return the keys of the baselines on disk (as in ``Unit.baseline_keys``), each with whether all its scores are there."""
        found: dict[str, bool] = {}
        for baseline in filter(None, map(self.baseline, self.baseline_ids())):
            key = identify({name: value for name, value in baseline.identity.items() if name != "tasks"})
            found[key] = found.get(key, False) or schema.complete(baseline)
        return found

    def current(self) -> set[str]:
        """Return the runs the last command asked for, with those derived from them.

        Every run where there is no manifest.
        """
        existing, manifest = self.run_ids(), self._manifest()
        asked = set(manifest.run_ids) if manifest else set(existing)
        return asked | {run_id for run_id in existing if training_id(run_id) in asked}

    def asked(self) -> set[str]:
        """Return the runs the last command asked for, without those derived from them: these come and go with the run that trained."""
        return {training_id(run_id) for run_id in self.current()}

    def stale(self) -> set[str]:
        """Return the runs on disk that the last command did not ask for, without those derived from them."""
        return {training_id(run_id) for run_id in self.run_ids()} - self.asked()

    def derived(self, run_id: str) -> list[str]:
        """Return the runs on disk that are derived from a run."""
        return [path.name for path in (self.folder / "runs").glob(f"{run_id}-*") if training_id(path.name) == run_id != path.name]

    def declared(self) -> Declared:
        """Return what the last command declared.

        Where no headline is, but there is one probe suite alone, that one is the headline.
        """
        manifest = self._manifest()
        found = manifest.declared if manifest else None
        if found is not None and found.headline is not None:
            return found
        configs = [config for run_id in sorted(self.asked()) if (config := self.config(run_id))]
        if found is None:
            found = next((_declared(config) for config in configs if "declared" in config), Declared())
        probes = {suite for config in configs for suite in config.get("probe_suites", ())}
        alone = probes.pop() if len(probes) == 1 else None
        return found if found.headline else dataclasses.replace(found, headline=alone)

    def write_manifest(self, asked: Mapping[str, Mapping[str, Any]], *, keep: bool, sweep: str | None = None) -> None:
        """Say which runs are current.

        Args:
            asked: run id → configuration of the runs that are asked for, as ``identity.recorded``
                gives it.
            keep: keep those that are current already, but for runs of an equal configuration: their
                inputs were others, so these supersede them. What was declared stays too, unless
                they declare something.
            sweep: id of the sweep that asks; None leaves the last one.
        """
        settings = {config.get("settings") for config in asked.values()}
        kept = {run_id for run_id in self.asked() if self.config(run_id).get("settings") not in settings} if keep else set()
        ids = sorted({*asked, *kept})
        before = self._manifest()
        if sweep is None and before:
            sweep = before.sweep
        declared = next((_declared(config) for config in asked.values() if "declared" in config), None)
        if keep and before and before.declared and declared in (None, Declared()):
            declared = before.declared
        manifest = Manifest(experiment=self.name, run_ids=tuple(ids), sweep=sweep, declared=declared)
        record_files.write_json(self.folder / "manifest.json", manifest)

    def _manifest(self) -> Manifest | None:
        return record_files.read(self.folder / "manifest.json", Manifest)

    def write_config(
        self, run_id: str, config: Mapping[str, Any], start_weights_sha256: str = "", baselines: Mapping[str, str] | None = None
    ) -> None:
        """Write what is known of a run that begins: its resolved configuration, its start weights' bytes, suite → baseline id."""
        values = {**config, schema.START_WEIGHTS: start_weights_sha256, schema.BASELINES: dict(baselines or {})}
        files.write_text(self.run_folder(run_id) / "config.json", json.dumps(values, indent=2, ensure_ascii=False))

    def written(self, run_id: str) -> dict[str, str]:
        """Return, by volume, the hash of the rows that models wrote for a run.

        Empty where none were, or it never began.
        """
        path = self.run_folder(run_id) / "written.json"
        found: dict[str, str] = record_files.load(path) if path.exists() else {}
        return found

    def write_written(self, run_id: str, hashes: Mapping[str, str]) -> None:
        """Write volume → hash of the rows up to it."""
        files.write_text(self.run_folder(run_id) / "written.json", json.dumps(hashes, indent=1))

    def start_weights_sha256(self, run_id: str) -> str | None:
        """Return the bytes that a run's points started from; None where it never began."""
        found = self.config(run_id).get(schema.START_WEIGHTS)
        return None if found is None else str(found)

    def unfinished_baseline(self, baseline_id: str, key: str, *, again: bool = False) -> Partial:
        """Return what is finished of a baseline that is being measured: the first time, or again for its numeric spread."""
        return Partial(self.folder / PARTIAL / baseline_id / ("again" if again else "first"), key)

    def unfinished_point(self, run_id: str, volume: int, key: str, *, select: bool = False) -> Partial:
        """Return what is finished of a point that is being evaluated: on the items that are reported, or on those to choose on."""
        return Partial(self.run_folder(run_id) / PARTIAL / (f"{volume}-select" if select else str(volume)), key)

    def write_baseline(self, baseline: Baseline, samples: pd.DataFrame) -> None:
        """Write a baseline with its items, unless a complete one stands there already."""
        files.clear_hidden(self.folder / "baselines", of=f"{baseline.baseline_id}.")
        known, folder = self.baseline(baseline.baseline_id), self.baseline_folder(baseline.baseline_id)
        record_files.write_measured(folder, "baseline.json", baseline, samples, replace=known)
        shutil.rmtree(self.folder / PARTIAL / baseline.baseline_id, ignore_errors=True)

    def write_point(self, point: Point, samples: pd.DataFrame) -> None:
        """Write a point with its items, unless a complete one stands there already: then this result is a second one, and is dropped."""
        known = self.point(point.run_id, point.volume)
        record_files.write_measured(self.point_folder(point.run_id, point.volume), "point.json", point, samples, replace=known)
        for place in (str(point.volume), f"{point.volume}-select"):
            shutil.rmtree(self.run_folder(point.run_id) / PARTIAL / place, ignore_errors=True)

    def write_prompts(self, run_id: str, suite: str, prompts: Mapping[str, str]) -> None:
        """Write what one item of each task looks like to the model, task → text."""

        def fill(folder: Path) -> None:
            for task, text in prompts.items():
                (folder / f"{quote(task, safe='')}.txt").write_text(text, encoding="utf-8")

        self.write_folder(self.run_folder(run_id) / "prompts" / suite, fill)

    def write_record(self, record: Record) -> None:
        """Write the record that marks a run done, and drop an earlier failure."""
        record_files.write_json(self.run_folder(record.run_id) / "record.json", record)
        (self.run_folder(record.run_id) / "failure.json").unlink(missing_ok=True)

    def write_failure(self, failure: Failure) -> None:
        """Write why a run did not finish."""
        record_files.write_json(self.run_folder(failure.run_id) / "failure.json", failure)

    def write_folder(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write a folder beside its place, then rename it into place, replacing an earlier one."""
        temporary = files.hidden_name(folder)
        temporary.mkdir(parents=True)
        try:
            fill(temporary)
            files.rename_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def write_sweep(self, sweep: Sweep) -> None:
        """Write the units of a sweep, for workers elsewhere and for whoever looks on."""
        record_files.write_json(self.folder / "sweeps" / f"{sweep.id}.json", sweep)

    def sweep(self, sweep_id: str | None = None) -> Sweep | None:
        """Return a sweep, by default the last one; None where there was none."""
        if sweep_id is None:
            manifest = self._manifest()
            sweep_id = manifest.sweep if manifest else None
        return record_files.read(self.folder / "sweeps" / f"{sweep_id}.json", Sweep) if sweep_id else None

    def recorded(self, run_id: str) -> tuple[int, ...]:
        """Return the volumes of a run's record of which nothing is missing.

        Without the strictness, and the cost, of ``record``.
        """
        values = self.glance("runs", run_id, "record.json")
        lacking = {*values.get("incomplete", ())}
        return () if 0 in lacking else tuple(volume for volume in values.get("volumes", ()) if volume not in lacking)

    def glance(self, *path: str) -> Mapping[str, Any]:
        """Return a JSON file as plain values, unchecked, at a tenth of the cost.

        Empty where there is none of this version.
        """
        try:
            values: Mapping[str, Any] = json.loads(self.folder.joinpath(*path).read_bytes())
        except (OSError, ValueError):
            return {}
        versions = {"schema_version": SCHEMA_VERSION, "protocol_version": PROTOCOL_VERSION}
        return values if all(values.get(key, ours) == ours for key, ours in versions.items()) else {}

    def point_bytes(self, run_id: str, volume: int) -> int:
        """Return the size on disk of a point with its items; 0 where there is none."""
        folder = self.point_folder(run_id, volume)
        return sum(entry.stat().st_size for entry in os.scandir(folder)) if folder.is_dir() else 0

    def clear_leftovers(self, run_id: str) -> None:
        """Remove what a killed process left half-written in a run's folder.

        Only for who holds the run.
        """
        for place in ("", "points", "state", "weights", "prompts"):
            files.clear_hidden(self.run_folder(run_id) / place)

    def state_folder(self, run_id: str, step: int) -> Path:
        """Return the folder of a run's state of training."""
        return self.run_folder(run_id) / "state" / str(step)

    def states(self, run_id: str) -> list[int]:
        """Return the steps of which a run's state of training is kept, newest first."""
        folders = (self.run_folder(run_id) / "state").glob("*")
        return sorted((int(path.name) for path in folders if path.name.isdigit()), reverse=True)

    def drop_state(self, run_id: str, step: int) -> None:
        """Remove a state of training."""
        shutil.rmtree(self.state_folder(run_id, step), ignore_errors=True)

    def drop_failure(self, run_id: str) -> None:
        """Remove the word of a failed try whose run is done by now."""
        (self.run_folder(run_id) / "failure.json").unlink(missing_ok=True)

    def forget(self, run_id: str) -> None:
        """Remove a run whose inputs changed under its id (the weight bytes of a rebuilt nursery model), and those derived from it."""
        for one in (run_id, *self.derived(run_id)):
            shutil.rmtree(self.run_folder(one), ignore_errors=True)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith(".") and path.is_dir())


def _declared(config: Mapping[str, Any]) -> Declared:
    """Return what a resolved configuration declares, of its plain values."""
    values = {key: value for key, value in config["declared"].items() if key != "class"}
    declared: Declared = build(Declared, values, "declared")
    return declared
