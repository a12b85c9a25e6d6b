"""Write the results folder of an experiment: whole files, renamed into place.

``harness.records.store`` shows the layout.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from harness.config.run_config import Declared
from harness.core import files
from harness.core.errors import ConfigError, explain
from harness.records import record_files, schema, seals
from harness.records.partial import PARTIAL, Partial
from harness.records.schema import REACH, Failure, Measurement, Point, Record
from harness.records.store import Experiment, declared_by
from harness.records.sweep_schema import Manifest, Sweep


class ExperimentWriter(Experiment):
    """The results folder of an experiment, to read and to write: for runs and sweeps."""

    def require_writable(self) -> None:
        """Raise ConfigError unless files can be written here.

        Creates nothing that remains, not even the folder.
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

    def write_manifest(
        self,
        asked: Mapping[str, Mapping[str, Any]],
        *,
        keep: bool,
        sweep: str | None = None,
        arms: Mapping[str, str] | None = None,
        claim: str = "",
    ) -> None:
        """Set the current runs.

        Args:
            asked: run id → configuration of the runs that are asked for, as ``identity.recorded``
                returns it.
            keep: keep the runs that are current already, except those with a configuration that is
                asked for: their inputs changed, so the new run supersedes them. Earlier
                declarations stay too, unless these runs declare something.
            sweep: id of the sweep that asks; None keeps the last one.
            arms: run id → name of its arm. Runs that are kept keep theirs.
            claim: hash of the claim that the experiment declares; that of its first command is
                kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.locked(self.folder / "manifest.lock"):  # another process may add its run at the same time
            record_files.write_json(self.folder / "manifest.json", self._manifest(asked, keep, sweep, arms or {}, claim))

    def _manifest(
        self, asked: Mapping[str, Mapping[str, Any]], keep: bool, sweep: str | None, arms: Mapping[str, str], claim: str
    ) -> Manifest:
        """Return the manifest after a command; arguments as in ``write_manifest``."""
        settings = {config.get("settings") for config in asked.values()}
        kept = {run_id for run_id in self.asked() if self.config(run_id).get("settings") not in settings} if keep else set()
        ids = {*asked, *kept}
        before = self.manifest()
        if sweep is None and before:
            sweep = before.sweep
        declared = next((declared_by(config) for config in asked.values() if "declared" in config), None)
        if keep and before and before.declared and declared in (None, Declared()):
            declared = before.declared
        named = {**(before.arms if keep and before else {}), **arms}
        named = {run_id: name for run_id, name in named.items() if run_id in ids}
        known = before.targets if keep and before else ()
        targets = tuple(dict.fromkeys([*known, *(name for config in asked.values() for name in config.get("target_suites", ()))]))
        first = before.claim if before else claim
        return Manifest(
            experiment=self.name, run_ids=tuple(sorted(ids)), sweep=sweep, declared=declared, arms=named, targets=targets, claim=first
        )

    def write_sweep(self, sweep: Sweep) -> None:
        """Write the units of a sweep, for workers on other machines and for ``harness status``."""
        record_files.write_json(self.folder / "sweeps" / f"{sweep.id}.json", sweep)

    def unfinished_before(self, evaluation_id: str, weights_sha256: str, key: str, *, again: bool = False) -> Partial:
        """Return the finished tasks of a volume 0 that is being measured.

        Args:
            evaluation_id: of the suite.
            weights_sha256: hash of the measured weights.
            key: see ``Partial``.
            again: those of the repeated measurement, which gives the numeric spread.
        """
        folder = self.folder / PARTIAL / evaluation_id / weights_sha256[:16]
        return Partial(folder / ("again" if again else "first"), key)

    def unfinished_point(self, run_id: str, volume: int, key: str, *, select: bool = False) -> Partial:
        """Return the finished tasks of a point that is being measured.

        Args:
            run_id: the run.
            volume: the point's.
            key: see ``Partial``.
            select: those of the measurement on select items, instead of report items.
        """
        return Partial(self.run_folder(run_id) / PARTIAL / (f"{volume}-select" if select else str(volume)), key)

    def clear_unfinished(self, evaluation_id: str, weights_sha256: str) -> None:
        """Remove the finished tasks of a volume 0 that is measured."""
        folder = self.folder / PARTIAL / evaluation_id
        shutil.rmtree(folder / weights_sha256[:16], ignore_errors=True)
        with contextlib.suppress(OSError):  # another volume 0 may be under way
            folder.rmdir()

    def write_measurement(self, measurement: Measurement, samples: pd.DataFrame, partial: Partial | None = None) -> None:
        """Write a measurement with its items, unless a complete one exists.

        Args:
            measurement: the record.
            samples: its items.
            partial: its finished tasks, among which it is written first: they are removed in the
                end, with what a killed process left. Runs with equal weights may write the same
                measurement at once.
        """
        folder = self.measurement_folder(measurement.evaluation_id, measurement.weights_sha256)
        record_files.write_measurement(folder, measurement, samples, by_way_of=partial.folder if partial else folder.parent)

    def write_point(self, point: Point) -> None:
        """Write a point, whose measurements are made; one of the same weights stays as it is."""
        known, folder = self.point(point.run_id, point.volume), self.point_folder(point.run_id, point.volume)
        if known is not None and known.weights_sha256 == point.weights_sha256:  # trained again, for another suite
            point = dataclasses.replace(known, weights=point.weights or known.weights)
        if point != known:
            record_files.write_json(folder / "point.json", point)
        self.clear_unfinished_point(point.run_id, point.volume)

    def clear_unfinished_point(self, run_id: str, volume: int) -> None:
        """Remove the finished tasks of a point that is measured."""
        for place in (str(volume), f"{volume}-select"):
            shutil.rmtree(self.run_folder(run_id) / PARTIAL / place, ignore_errors=True)

    def drop_unmeasured_weights(self, run_id: str, volume: int) -> None:
        """Remove the weights of a point that is measured, unless they are kept."""
        shutil.rmtree(self.unmeasured_weights(run_id, volume), ignore_errors=True)

    def write_config(
        self, run_id: str, config: Mapping[str, Any], evaluations: Mapping[str, str] | None = None, before_sha256: str = ""
    ) -> None:
        """Write the configuration of a run that starts, and what its measurements are found by.

        Args:
            run_id: the run.
            config: its resolved configuration, plain values.
            evaluations: suite → evaluation id.
            before_sha256: hash of the weights that volume 0 is measured on.
        """
        values = {
            "run_id": run_id,
            "file": "config.json",
            **config,
            schema.EVALUATIONS: dict(evaluations or {}),
            schema.BEFORE: before_sha256,
        }
        files.write_text(self.run_folder(run_id) / "config.json", seals.sealed(values))

    def write_written(self, run_id: str, hashes: Mapping[str, str], reach: tuple[int, int] | None = None) -> None:
        """Write volume → hash of the generated rows up to it, and the reach of the rows."""
        values = {"run_id": run_id, "file": "written.json", **hashes} | ({REACH: list(reach)} if reach else {})
        files.write_text(self.run_folder(run_id) / "written.json", seals.sealed(values))

    def write_prompts(self, run_id: str, suite: str, prompts: Mapping[str, str]) -> None:
        """Write one item of each task as the model sees it, task → text."""

        def fill(folder: Path) -> None:
            for task, text in prompts.items():
                (folder / f"{quote(task, safe='')}.txt").write_text(text, encoding="utf-8")

        self.write_folder(self.prompts_folder(run_id, suite), fill)

    def write_record(self, record: Record) -> None:
        """Write the record that marks a run done, and remove an earlier failure."""
        record_files.write_json(self.run_folder(record.run_id) / "record.json", record)
        self.drop_failure(record.run_id)

    def write_failure(self, failure: Failure) -> None:
        """Write the failure of a run's last try."""
        record_files.write_json(self.run_folder(failure.run_id) / "failure.json", failure)

    def drop_failure(self, run_id: str) -> None:
        """Remove the failure of an earlier try of a run that is done."""
        (self.run_folder(run_id) / "failure.json").unlink(missing_ok=True)

    def state_folder(self, run_id: str, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.run_folder(run_id) / "state" / str(step)

    def states(self, run_id: str) -> list[int]:
        """Return the steps of a run's checkpoints, newest first."""
        folders = (self.run_folder(run_id) / "state").glob("*")
        return sorted((int(path.name) for path in folders if path.name.isdigit()), reverse=True)

    def drop_state(self, run_id: str, step: int) -> None:
        """Remove a checkpoint."""
        shutil.rmtree(self.state_folder(run_id, step), ignore_errors=True)

    def write_folder(self, folder: Path, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write a folder under a temporary name, then rename it into place.

        It replaces an earlier folder, and holds the hashes of its files.
        """
        record_files.write_folder(folder, fill, seal=self.place(folder))

    def clear_leftovers(self, run_id: str) -> None:
        """Remove incomplete files of killed processes from a run's folder.

        Only the process that holds the run may call it.
        """
        for place in ("", "points", "state", "weights", "unmeasured", "prompts"):
            files.clear_hidden(self.run_folder(run_id) / place)

    def set_aside(self, run_id: str) -> None:
        """Move a run, and those derived from it, out of ``runs``, since it has to restart."""
        for one in (run_id, *self.derived(run_id)):
            if self.run_folder(one).exists():
                kept = self.folder / "set_aside"
                kept.mkdir(exist_ok=True)
                number = next(n for n in itertools.count(1) if not (kept / f"{one}.{n}").exists())
                self.run_folder(one).rename(kept / f"{one}.{number}")
