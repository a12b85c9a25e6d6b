"""Read the results folder of an experiment; ``harness.records.writer`` writes it.

    results/<name>/
      manifest.json                  run ids that the last command asked for; others are stale
      manifest.lock                  held while a process adds its run to them
      sweeps/<sweep id>.json         the units of a sweep
      claims/<unit id>/<n>.json      holders of a unit, past and present (harness.sweep.claims)
      measurements/<evaluation id>/<hash of weights>/   of one suite; evaluation id: suite, tasks
        measurement.json  samples.parquet               as built, tokenizer, dtype, backend
      partial/<evaluation id>/<hash of weights>/   finished tasks of a volume 0 under way:
        first/ again/                first measurement, repeated measurement
      runs/<run id>/                 id of a derived run: <run id of the training>-<coefficient>
        config.json                  the resolved configuration
        written.json                 volume → hash of the generated rows up to it
        prompts/<suite>/<task>.txt   one item of each task as the model sees it
        points/<volume>/point.json   its training and the hash of its weights
        partial/<volume>/<suite>/<task>/   finished tasks of a point that is being measured:
          finished.json  samples.parquet
        state/<step>/                a checkpoint, to resume training from
        weights/<volume>/            weights that are kept
        unmeasured/<volume>/         weights that are deleted once they are measured
        record.json                  written last: every volume that it names is done
        failure.json                 reason and traceback of the last try, if it failed

      set_aside/<run id>.<n>/        a run that was restarted, since its generated rows changed

Files are read strictly. They are written under a temporary name and renamed into place,
measurements as whole folders, so none is ever incomplete; of two writers of one measurement, the
first wins. Names of temporary files begin with a dot. No result is deleted: a point of other inputs
is a run with another id, a changed suite another measurement.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from harness.config.identity import training_id
from harness.config.run_config import Declared
from harness.config.strict import build
from harness.records import record_files, schema, seals
from harness.records.claim_log import ClaimLog
from harness.records.record_files import AnyRecord
from harness.records.schema import REACH, Failure, Measurement, Point, Record
from harness.records.seals import damaged
from harness.records.sweep_schema import Manifest, Sweep


@dataclass(frozen=True)
class Experiment:
    """The results folder of an experiment, to read."""

    folder: Path

    @property
    def name(self) -> str:
        """The experiment's name, which is that of its folder."""
        return self.folder.name

    @property
    def claims(self) -> ClaimLog:
        """The claims of its units: locks, which status reads and workers write."""
        return ClaimLog(self.folder)

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / run_id

    def point_folder(self, run_id: str, volume: int) -> Path:
        """Return the folder of a point."""
        return self.run_folder(run_id) / "points" / str(volume)

    def prompts_folder(self, run_id: str, suite: str) -> Path:
        """Return the folder of a suite's prompts, as a run's model sees them."""
        return self.run_folder(run_id) / "prompts" / quote(suite, safe="")

    def place(self, folder: Path) -> str:
        """Return where a folder is in the experiment's."""
        return str(folder.relative_to(self.folder))

    def measurement_folder(self, evaluation_id: str, weights_sha256: str) -> Path:
        """Return the folder of a measurement."""
        return self.folder / "measurements" / evaluation_id / weights_sha256[:16]

    def measurement(self, evaluation_id: str, weights_sha256: str) -> Measurement | None:
        """Return a measurement, or None if it is not made."""
        path = self.measurement_folder(evaluation_id, weights_sha256) / record_files.MEASUREMENT
        return _placed(record_files.read(path, Measurement), path, evaluation_id=evaluation_id, place=weights_sha256[:16])

    def measurement_samples(self, evaluation_id: str, weights_sha256: str) -> pd.DataFrame:
        """Return the items of a measurement, columns as in SAMPLE_COLUMNS."""
        known = self.glance("measurements", evaluation_id, weights_sha256[:16], record_files.MEASUREMENT)
        return record_files.read_samples(self.measurement_folder(evaluation_id, weights_sha256), known.get("samples_sha256", ""))

    def is_measured(self, evaluation_id: str, weights_sha256: str) -> bool:
        """Return whether a measurement is made, and none of its tasks failed; unchecked."""
        found = self.glance("measurements", evaluation_id, weights_sha256[:16], record_files.MEASUREMENT) if weights_sha256 else {}
        return bool(found) and all(score["status"] == "ok" for score in found["scores"])

    def lacks_files(self, run_id: str) -> bool:
        """Return whether files of a recorded run are missing that its record names."""
        record = self.glance("runs", run_id, "record.json")
        folders = [] if record.get("derived_from") else [self.prompts_folder(run_id, suite) for suite in record.get("roles", ())]
        points = (self.glance("runs", run_id, "points", str(volume), "point.json") for volume in record.get("volumes", ()))
        weights = [record.get(schema.BEFORE, ""), *(point.get("weights_sha256", "") for point in points)]
        if not record.get("incomplete"):
            ids = record.get(schema.EVALUATIONS, {}).values()
            folders += [self.measurement_folder(one, on) / record_files.MEASUREMENT for on in weights for one in ids]
        return not all(path.exists() for path in (self.run_folder(run_id) / "config.json", *folders))

    def evaluations(self, run_id: str) -> Mapping[str, str]:
        """Return suite → evaluation id of a run, as it was asked for last; empty if unknown."""
        found: Mapping[str, str] = (self.glance("runs", run_id, "record.json") or self.config(run_id)).get(schema.EVALUATIONS, {})
        return found

    def point(self, run_id: str, volume: int) -> Point | None:
        """Return a point, or None if it is not done."""
        path = self.point_folder(run_id, volume) / "point.json"
        return _placed(record_files.read(path, Point), path, run_id=run_id, volume=volume)

    def unmeasured(self, run_id: str, volume: int, evaluations: Mapping[str, str]) -> tuple[str, ...]:
        """Return the suites without a complete measurement of a point; all if it does not exist.

        ``evaluations`` is suite → evaluation id.
        """
        point = self.point(run_id, volume)
        if point is None:
            return tuple(evaluations)
        return tuple(name for name, found in evaluations.items() if not self.is_measured(found, point.weights_sha256))

    def unmeasured_weights(self, run_id: str, volume: int) -> Path:
        """Return the folder of weights that are deleted once they are measured."""
        return self.run_folder(run_id) / "unmeasured" / str(volume)

    def weights_folder(self, run_id: str, volume: int) -> Path | None:
        """Return the folder with the weights of a point, or None if they are not on disk."""
        point = self.point(run_id, volume)
        if point is None:
            return None
        kept = [self.run_folder(run_id) / point.weights] if point.weights else []
        return next((folder for folder in (*kept, self.unmeasured_weights(run_id, volume)) if folder.is_dir()), None)

    def point_bytes(self, run_id: str, volume: int) -> int:
        """Return the bytes on disk of a point with its measurements; 0 if missing."""
        weights, folders = self.glance("runs", run_id, "points", str(volume), "point.json").get("weights_sha256"), []
        if weights:
            measured = [self.measurement_folder(one, weights) for one in self.evaluations(run_id).values()]
            folders = [self.point_folder(run_id, volume), *measured]
        return sum(entry.stat().st_size for folder in folders if folder.is_dir() for entry in os.scandir(folder))

    def volumes(self, run_id: str) -> list[int]:
        """Return the volumes with a recorded point, ascending, whether the run is done or not."""
        folders = (self.run_folder(run_id) / "points").glob("*")
        return sorted(int(path.name) for path in folders if path.name.isdigit() and (path / "point.json").exists())

    def record(self, run_id: str) -> Record | None:
        """Return the record of a run, or None if it is not done."""
        path = self.run_folder(run_id) / "record.json"
        return _placed(record_files.read(path, Record), path, run_id=run_id)

    def failure(self, run_id: str) -> Failure | None:
        """Return the failure of a run's last try, or None."""
        path = self.run_folder(run_id) / "failure.json"
        return _placed(record_files.read(path, Failure), path, run_id=run_id)

    def config(self, run_id: str) -> Mapping[str, Any]:
        """Return the resolved configuration of a run as plain values; empty before it starts."""
        return self._of_run(run_id, "config.json")

    def written(self, run_id: str) -> dict[str, str]:
        """Return volume → hash of a run's generated rows; empty if it has none."""
        return {volume: found for volume, found in self._of_run(run_id, "written.json").items() if volume != REACH}

    def reach(self, run_id: str) -> tuple[int, int] | None:
        """Return the accepted rows of a run and all rows, where all were tried; else None.

        Volumes beyond the accepted rows are not reached.
        """
        found = self._of_run(run_id, "written.json").get(REACH)
        return None if found is None else (int(found[0]), int(found[1]))

    def _of_run(self, run_id: str, name: str) -> dict[str, Any]:
        """Return the plain values of a file of a run, without its run id; empty if missing."""
        path = self.run_folder(run_id) / name
        values = record_files.load(path)
        if values and (values.pop("run_id", None), values.pop("file", None)) != (run_id, name):
            raise damaged(path, "a copy of another file")
        return values

    def run_ids(self) -> list[str]:
        """Return every run with a folder, done or not."""
        return _names(self.folder / "runs")

    def derived(self, run_id: str) -> list[str]:
        """Return the runs on disk that are derived from a run."""
        return [path.name for path in (self.folder / "runs").glob(f"{run_id}-*") if training_id(path.name) == run_id != path.name]

    def current(self) -> set[str]:
        """Return the runs that the last command asked for, with those derived from them.

        Every run if there is no manifest.
        """
        existing, manifest = self.run_ids(), self.manifest()
        asked = set(manifest.run_ids) if manifest else set(existing)
        return asked | {run_id for run_id in existing if training_id(run_id) in asked}

    def asked(self) -> set[str]:
        """Return the runs that the last command asked for, without derived ones."""
        return {training_id(run_id) for run_id in self.current()}

    def stale(self) -> set[str]:
        """Return runs on disk that the last command did not ask for, without derived ones."""
        return {training_id(run_id) for run_id in self.run_ids()} - self.asked()

    def arms(self) -> Mapping[str, str]:
        """Return run id → name of its arm in the last command; empty without arms."""
        found = self.manifest()
        return found.arms if found else {}

    def targets(self) -> tuple[str, ...]:
        """Return the target suites in the order in which the last command named them."""
        found = self.manifest()
        return found.targets if found else ()

    def declared(self) -> Declared:
        """Return the declarations of the last command.

        If it declared no headline and there is only one probe suite, that suite is the headline.
        """
        found = self.declared_beforehand()
        if found.headline is not None:
            return found
        probes = {suite for config in self._configs() for suite in config.get("probe_suites", ())}
        return dataclasses.replace(found, headline=probes.pop() if len(probes) == 1 else None)

    def declared_beforehand(self) -> Declared:
        """Return what the configuration of the last command declares, and nothing more."""
        manifest = self.manifest()
        if manifest is not None and manifest.declared is not None:
            return manifest.declared
        return next((declared_by(config) for config in self._configs() if "declared" in config), Declared())

    def _configs(self) -> list[Mapping[str, Any]]:
        return [config for run_id in sorted(self.asked()) if (config := self.config(run_id))]

    def manifest(self) -> Manifest | None:
        """Return the manifest, or None before the first command."""
        return record_files.read(self.folder / "manifest.json", Manifest)

    def sweep(self, sweep_id: str | None = None) -> Sweep | None:
        """Return a sweep, by default the last one; None if there was none."""
        if sweep_id is None:
            manifest = self.manifest()
            sweep_id = manifest.sweep if manifest else None
        if not sweep_id:
            return None
        path = self.folder / "sweeps" / f"{sweep_id}.json"
        return _placed(record_files.read(path, Sweep), path, id=sweep_id)

    def glance(self, *path: str) -> Mapping[str, Any]:
        """Return a JSON record as plain values, ten times faster than strict reading.

        Its seal is checked, its shape is not. Empty if there is no such file of this version.
        Raises DamagedError.
        """
        file = self.folder.joinpath(*path)
        try:
            content = file.read_bytes()
        except OSError:
            return {}
        values = seals.parsed(file, content)
        is_current = all(values.get(key, ours) == ours for key, ours in record_files.VERSIONS.items())
        if is_current or seals.SEAL in values:
            values = seals.checked(file, content, values)
        return values if is_current else {}


def _placed(record: AnyRecord | None, path: Path, **place: object) -> AnyRecord | None:
    """Return a record that names the place it is in. Raises DamagedError for another's."""
    for name, expected in place.items():
        if record is not None and getattr(record, name) != expected:
            raise damaged(path, f"a copy: its {name} is {getattr(record, name)}", f"{name} {expected}, as its folder says")
    return record


def declared_by(config: Mapping[str, Any]) -> Declared:
    """Return the declarations of a resolved configuration, given as plain values."""
    declared: Declared = build(Declared, config["declared"], "declared")
    return declared


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith(".") and path.is_dir())
