"""The state of each unit of a sweep, from disk, for workers, plan and status."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from harness.records.partial import PARTIAL
from harness.records.store import Experiment
from harness.records.sweep_schema import TRIES, Claim, Unit
from harness.records.writer import ExperimentWriter
from harness.sweep.claims import Claims

State = Literal["done", "running", "pending", "failed"]

MOST_TRIES = 5
"""Tries of one process without a result after which it gives a unit up."""

MEASURED_IN_PART = "measured in part"
"""Outcome of a run that is recorded except for measurements that failed."""


class UnitStates:
    """The states of an experiment's units; a unit seen done is not read again.

    Attributes:
        gave_up: unit → why this process stopped trying it, although its failure could not be
            recorded.
    """

    def __init__(self, experiment: Experiment, claims: Claims) -> None:
        self.experiment, self.claims = experiment, claims
        self.done: set[str] = set()
        self.gave_up: dict[str, str] = {}
        self.tries: Counter[str] = Counter()

    def of(self, unit: Unit) -> State:
        """Return the state of a unit: done, failed in this sweep, running (claimed) or pending."""
        if unit.id in self.done or self.is_done(unit):
            self.done.add(unit.id)
            return "done"
        if self.claims.held(unit.id):
            return "running"
        return "failed" if self.failure(unit) else "pending"

    def count_try(self, unit: Unit, reason: str) -> None:
        """Count a try of this process without a result.

        After MOST_TRIES the process gives the unit up, so that no unit loops forever.
        """
        self.tries[unit.id] += 1
        if self.tries[unit.id] >= MOST_TRIES:
            self.gave_up[unit.id] = reason

    def is_done(self, unit: Unit) -> bool:
        """Return whether all results of a unit are recorded and no measurement is missing."""
        if unit.kind == "baseline":
            last = self._last(unit)  # a baseline measured by this sweep is done even if a task failed: it would fail again
            known = all(self.experiment.is_measured(found, unit.before_sha256) for found in unit.evaluations.values())
            return known or (last is not None and last.ended == "done")
        if unit.kind == "measurement":
            return self._is_measured(unit)
        if not unit.measures:
            return self._is_trained(unit)
        return all(self._is_whole(one, unit) for one in (unit.id, *unit.derived))

    def _is_measured(self, unit: Unit) -> bool:
        """Return whether a point is measured, its record says so, and no weights are left over."""
        (volume,), record = unit.volumes, self.experiment.glance("runs", unit.run_id, "record.json")
        if not self.reached(unit):
            return bool(record)
        if self.experiment.unmeasured(unit.run_id, volume, unit.evaluations):
            return False
        told = not record or (record.get("evaluations") == unit.evaluations and volume not in record.get("incomplete", ()))
        return told and not self.experiment.unmeasured_weights(unit.run_id, volume).is_dir()

    def _is_trained(self, unit: Unit) -> bool:
        """Return whether a run is recorded, and lacks at most measurements of weights on disk."""
        recorded = self.experiment.glance("runs", unit.id, "record.json").get("volumes", ())
        volumes = self.reached(unit)
        return set(volumes) <= set(recorded) and all(
            self.experiment.weights_folder(unit.id, volume) or not self.experiment.unmeasured(unit.id, volume, unit.evaluations)
            for volume in volumes
        )

    def reached(self, unit: Unit) -> list[int]:
        """Return the volumes of a unit, without those that its run is known not to reach."""
        reach = self.experiment.reach(unit.run_id)
        return [volume for volume in unit.volumes if reach is None or volume <= reach[0]]

    def _is_whole(self, run_id: str, unit: Unit) -> bool:
        """Return whether a run is recorded at the volumes of a unit, and measured as it asks."""
        record = self.experiment.glance("runs", run_id, "record.json")
        lacking = {*record.get("incomplete", ())}
        if record.get("evaluations") != unit.evaluations or record.get("before_sha256") != unit.before_sha256:
            return False  # the record is brought up to date when the run is carried out
        volumes = self.reached(unit)
        if 0 in lacking or not set(volumes) <= {*record.get("volumes", ())} - lacking:
            return False
        has_points = all((self.experiment.point_folder(run_id, volume) / "point.json").exists() for volume in volumes)
        return has_points and not self.experiment.lacks_files(run_id)

    def failure(self, unit: Unit) -> str:
        """Return why a unit is failed in this sweep; empty if it is not."""
        if unit.id in self.gave_up:
            return self.gave_up[unit.id]
        if unit.kind == "run" and (reason := self._run_failure(unit.id)):
            return reason
        last = self._last(unit)
        if unit.kind == "measurement":
            return self._measurement_failure(unit, last)
        return last.reason if last is not None and last.ended == (MEASURED_IN_PART if unit.kind == "run" else "failed") else ""

    def _measurement_failure(self, unit: Unit, last: Claim | None) -> str:
        """Return why a point cannot be measured in this sweep; empty if it can."""
        if last is not None and last.ended in {MEASURED_IN_PART, "failed"}:
            return last.reason
        if self._is_reached(unit):
            return ""
        reason = self._run_failure(unit.run_id)
        return f"its run failed: {reason}" if reason else ""

    def _run_failure(self, run_id: str) -> str:
        """Return why the training of a run is over without a result; empty if it is not."""
        failure = self.experiment.failure(run_id)
        return self.gave_up.get(run_id) or (failure.reason if failure is not None and failure.tries >= TRIES else "")

    def _is_reached(self, unit: Unit) -> bool:
        """Return whether a point is there to be measured, or measured already."""
        place = unit.run_id, unit.volumes[0]
        return bool(self.experiment.weights_folder(*place)) or not self.experiment.unmeasured(*place, unit.evaluations)

    def _last(self, unit: Unit) -> Claim | None:
        """Return the last claim of a unit if this sweep made it."""
        last = self.experiment.claims.last(unit.id)
        return last if last is not None and last.sweep == self.claims.sweep else None

    def ready(self, unit: Unit, units: Mapping[str, Unit]) -> bool:
        """Return whether a unit can be claimed now: nobody has it, and it may begin."""
        return self.may_begin(unit, units) and self.of(unit) == "pending"

    def may_begin(self, unit: Unit, units: Mapping[str, Unit]) -> bool:
        """Return whether a unit can begin, or is over already.

        The baselines that it needs are done or failed; the weights of a measurement are on disk.
        """
        if unit.kind == "measurement" and not self._is_reached(unit):
            return self.of(unit) in {"done", "failed"}
        return all(self.of(units[name]) in {"done", "failed"} for name in unit.needs if name in units)


def recorded_so_far(experiment: ExperimentWriter, unit: str) -> str:
    """Return a summary of a unit's recorded work, which changes with any progress."""
    run_id, _, volume = unit.partition("@")
    if volume:
        return f"tasks {_finished_tasks(experiment.run_folder(run_id) / PARTIAL / volume)}"
    if unit.startswith("baseline"):
        return f"tasks {_finished_tasks(experiment.folder / PARTIAL)}"
    tasks = _finished_tasks(experiment.run_folder(unit) / PARTIAL)
    found = f"points {experiment.volumes(unit)}, states {experiment.states(unit)}, tasks {tasks}"
    derived = experiment.derived(unit)
    points = sum(len(experiment.volumes(one)) for one in derived)
    tasks = sum(_finished_tasks(experiment.run_folder(one) / PARTIAL) for one in derived)
    return f"{found}, derived points {points}, tasks {tasks}" if derived else found


def _finished_tasks(folder: Path) -> int:
    """Return the number of finished tasks in a folder that others may be removing."""
    return sum("finished.json" in files for _, _, files in os.walk(folder))
