"""A worker: a warm process that carries out units, one after another.

A killed worker does not fail its run: another one takes over. An exception is recorded with its
traceback; after ``TRIES`` of them the run is failed. A full disk is waited for, and what is to be
written is held meanwhile. Asked to stop, a worker saves its state, gives its unit back and ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.config import composition, paths
from harness.config.resolution import Machine
from harness.config.strict import plain
from harness.core import space
from harness.core.errors import FinalDataError, HarnessError, ProcessDied, RecordError, explain
from harness.core.masking import masked
from harness.core.progress import Interrupted, Progress, Silent
from harness.records import provenance
from harness.records.schema import Failure
from harness.records.sweep_schema import TRIES, Claim, Sweep, Unit
from harness.records.writer import ExperimentWriter
from harness.run import execution, other_models
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace
from harness.sweep.claims import DEATHS, LEFT, Claims, Held
from harness.sweep.reporter import Reporter, pause
from harness.sweep.states import MEASURED_IN_PART, UnitStates, recorded_so_far

Outcome = Literal["done", "already done", "measured in part", "failed", "again", "busy", "interrupted", "lost", "died"]
"""Outcome of a unit. ``again``: an exception, not yet the last one allowed. ``busy``: a living
process has it. ``lost``: another process has followed, since the heartbeats came too late.
``died``: a process that trains together with this one was killed."""

WAIT_SECONDS, MOST_CLAIMS = 1.0, 60
"""Seconds between two looks at what others do; claims of one unit that one call tries to take."""


@dataclass
class Worker:
    """Carries out units of one experiment.

    Attributes:
        machine: cores and GPUs that a run was planned with.
        tries: exceptions after which a run is failed.
        held: the claim of the current unit.
    """

    experiment: ExperimentWriter
    claims: Claims
    machine: Machine
    progress: Progress = field(default_factory=Silent)
    tries: int = TRIES
    workspace: Workspace = field(default_factory=Workspace)
    held: Held | None = None

    def carry_out(self, unit: Unit) -> tuple[Outcome, str]:
        """Complete a unit, unless a living process has it.

        Raises nothing except KeyboardInterrupt.

        Returns:
            The outcome, and the reason of a bad one.
        """
        reporter = Reporter(self.progress, results=self.experiment.folder)
        with space.waited_for(reporter.wait_for_space):
            try:
                return self._carry_out(unit, reporter)
            except Interrupted:
                return "interrupted", ""

    def _carry_out(self, unit: Unit, reporter: Reporter) -> tuple[Outcome, str]:
        try:
            dead = self.claims.deaths(unit.id)
            self.held = self.claims.take(unit.id, recorded_so_far(self.experiment, unit.id))
        except OSError as error:
            return "again", f"its claim: {_one_line(error)}"
        if self.held is None:
            return "busy", ""
        if self.held.after:
            self.progress.say(f"taken over: {unit.label}: {self.held.after}")
        self.held.progress, self.held.on_lost = reporter.now, reporter.lost.set
        with self.held.beating():
            outcome, reason = self._died(unit, dead) if len(dead) >= DEATHS else self._guarded(unit, reporter)
        if outcome == "died":
            self.held.die(reason)
        else:
            self.held.end({"already done": "done", "measured in part": MEASURED_IN_PART}.get(outcome, outcome), reason)
        self.held = None
        return outcome, reason

    def leave(self) -> None:
        """End the current unit's claim as LEFT, which does not count as a death."""
        if self.held is not None:
            self.held.die(LEFT)

    def _guarded(self, unit: Unit, reporter: Reporter) -> tuple[Outcome, str]:
        try:
            return self._with_space(unit, reporter)
        except Interrupted:
            return ("lost" if reporter.lost.is_set() else "interrupted"), ""
        except ProcessDied as error:
            return "died", _one_line(error)
        except Exception as error:  # noqa: BLE001 - the boundary of a unit: any error is recorded with its traceback
            if self._is_followed():
                return "lost", _one_line(error)
            return self._failed(unit, error)

    def _with_space(self, unit: Unit, reporter: Reporter) -> tuple[Outcome, str]:
        """Execute a unit, again where the disk was full for a write that is not held."""
        while True:
            try:
                return self._execute(unit, reporter)
            except Exception as error:
                if not space.is_lacking(error):
                    raise
                lack = str(error)
            reporter.wait_for_space(lack)

    def _is_followed(self) -> bool:
        """Return whether another process has the unit by now, which may explain an error."""
        with contextlib.suppress(OSError):
            return self.held is not None and self.held.followed()
        return False

    def _execute(self, unit: Unit, reporter: Reporter) -> tuple[Outcome, str]:
        config = dataclasses.replace(
            composition.compose(unit.overrides), results=str(self.experiment.folder.parent)
        )  # from wherever this runs
        other_models.make([config], self.workspace, reporter)
        prepared = prepare(config, self.workspace, self.machine)
        once = self._once(reporter)
        if unit.kind == "baseline":
            execution.measure_baselines(prepared, reporter, once)
            return "done", ""
        _require_planned(unit, prepared)
        if unit.kind == "measurement":
            outcome = execution.measure_point(prepared, unit.volumes[0], reporter)
        else:
            outcome = execution.execute(prepared, reporter, once)
        return outcome, "" if outcome != "measured in part" else "measured in part: rows with status failed in the table say why"

    def _once(self, reporter: Reporter) -> execution.Once:
        """Return a function that lets one process do what several runs need, while others wait."""

        def once(name: str, done: Callable[[], bool], do: Callable[[], None]) -> None:
            waited = False
            while not done() and not self._measured_by_this_sweep(name):
                held = self.claims.take(name)
                if held is not None:
                    held.progress, held.counts = reporter.now, False
                    with held.beating(), _ending(held):
                        if not done():
                            do()
                    return
                if not waited:
                    waited = True
                    reporter.stage("wait for volume 0, which another process measures", 1)
                time.sleep(WAIT_SECONDS)
                reporter.advance(0)

        return once

    def _measured_by_this_sweep(self, name: str) -> bool:
        """Return whether this sweep has measured a baseline: what it lacks now would fail again."""
        last = self.experiment.claims.last(name)
        return last is not None and last.ended == "done" and last.sweep == self.claims.sweep != ""

    def _failed(self, unit: Unit, error: Exception) -> tuple[Outcome, str]:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        self.workspace.forget_errors()  # the next try fetches again: it may have been the network
        if unit.kind == "baseline":
            return "failed", reason  # each run that needs it measures it again and records its own failure
        if unit.kind == "measurement":
            before = [one for one in self.claims.history(unit.id) if one.sweep == self.claims.sweep and one.ended == "again"]
            return ("failed" if len(before) + 1 >= self.tries else "again"), reason
        last = isinstance(error, FinalDataError)
        tries = self._write_failure(unit, reason, masked("".join(traceback.format_exception(error))), last=last)
        return ("failed" if tries >= TRIES else "again"), reason

    def _died(self, unit: Unit, dead: Sequence[Claim]) -> tuple[Outcome, str]:
        how = next((claim.died for claim in dead if claim.died), "killed from outside, or its machine was lost")
        where = dead[0].stage or "before its first stage"
        most = max(claim.memory_bytes for claim in dead) / 2**30
        reason = f"died {len(dead)} times at the same place ({where}): {how}; it held {most:.1f} GiB; often that is memory running out"
        if unit.kind == "run":
            self._write_failure(unit, reason, "", last=True)
        return "failed", reason

    def _write_failure(self, unit: Unit, reason: str, trace: str, *, last: bool = False) -> int:
        """Record a failed try; return the number of tries."""
        try:
            before = self.experiment.failure(unit.id)
        except RecordError:  # damaged: this one replaces it
            before = None
        tries = TRIES if last else max((before.tries if before else 0) + 1, TRIES + 1 - self.tries)
        labels, config = self._described(unit)
        failure = Failure(
            run_id=unit.id, experiment=self.experiment.name, labels=labels, config=config, reason=reason, traceback=trace, tries=tries
        )
        try:
            self.experiment.write_failure(failure)
        except OSError as second:  # the other runs continue
            self.progress.say(f"not recorded: {unit.label}: {second}")
        return tries

    def _described(self, unit: Unit) -> tuple[dict[str, object], dict[str, object]]:
        """Return labels and configuration for the record of a failure.

        Both are empty if the configuration itself fails.
        """
        try:
            config = plain(composition.compose(unit.overrides))
        except Exception:  # noqa: BLE001 - the failure that is being recorded has the error
            return {}, {}
        return config["labels"], config

    def next_ready(self, units: Sequence[Unit], states: UnitStates) -> Unit | None:
        """Return the first unit that can be claimed now, or None."""
        by_id = {unit.id: unit for unit in units}
        return next((unit for unit in units if states.ready(unit, by_id)), None)


def _require_planned(unit: Unit, prepared: Prepared) -> None:
    """Raise RecordError for a run, or a way to measure it, that differs from what was planned."""
    fix = "start the sweep again: its {} changed since it was planned, or differ on this machine"
    if prepared.run_id != unit.run_id:
        raise RecordError(explain(f"run {unit.id}", got=f"another run ({prepared.run_id})", fix=fix.format("model or data")))
    if (prepared.evaluation_ids, prepared.before_sha256) != (unit.evaluations, unit.before_sha256):
        raise RecordError(explain(f"run {unit.id}", got="other measurements", fix=fix.format("suites or the reference model")))


@contextlib.contextmanager
def _ending(held: Held) -> Iterator[None]:
    """End a claim with the outcome of the block."""
    how = "failed"
    try:
        yield
        how = "done"
    except Interrupted:
        how = "interrupted"
        raise
    finally:
        held.end(how)


def work(folder: Path, sweep_id: str, progress: Progress | None = None) -> None:
    """Carry out units of a sweep until none is left: a worker of a cluster.

    Args:
        folder: of the experiment, on storage that all workers share.
        sweep_id: of the sweep.
        progress: receives progress.

    Raises:
        Interrupted: asked to stop, everything saved.
        SickWorker: after an error on a GPU, which is recorded.
        RecordError: the sweep does not exist.
    """
    experiment = ExperimentWriter(folder)
    sweep = experiment.sweep(sweep_id)
    if sweep is None:
        raise RecordError(explain(f"sweep {sweep_id}", got=f"nothing in {folder}", fix="run `harness sweep` again"))
    claims = Claims(experiment, sweep=sweep.id, gpus=sweep.gpus)
    worker = Worker(experiment, claims, _machine(sweep), progress or Silent())
    states = UnitStates(experiment, claims)
    for unit in _pulled(worker, states, sweep.units):
        with provenance.made_by(sweep.command):
            outcome, reason = worker.carry_out(unit)
        worker.progress.say(f"{outcome}: {unit.label}{f': {reason}' if reason else ''}")
        if outcome == "interrupted":
            raise Interrupted
        if had_no_result(unit, outcome, states):
            states.count_try(unit, reason or "carried out, but its records are missing")
        if sweep.gpus and outcome in {"again", "failed", "died"}:
            raise SickWorker(reason)


class SickWorker(Exception):
    """An error on a GPU, after which this process may be unable to use it."""


def had_no_result(unit: Unit, outcome: str, states: UnitStates) -> bool:
    """Return whether a try left a unit as it was."""
    return outcome == "again" or (outcome in {"done", "already done"} and not states.is_done(unit))


def carry_out_one(name: str, overrides: Sequence[str]) -> str:
    """Carry out one unit: the work of a job of any Hydra launcher.

    Raises nothing except KeyboardInterrupt.

    Args:
        name: ``SWEEP/UNIT``, their ids.
        overrides: compose to its configuration, which names the folder of the sweep.

    Returns:
        The outcome, with the reason of a bad one.
    """
    try:
        config = composition.compose(overrides)
        experiment = ExperimentWriter(paths.expanded(config.results) / config.name)
        sweep_id, _, unit_id = name.partition("/")
        sweep = experiment.sweep(sweep_id)
        unit = next((unit for unit in sweep.units if unit.id == unit_id), None) if sweep else None
        if sweep is None or unit is None:
            return f"failed: {experiment.folder} has no unit {name}"
    except HarnessError as error:
        return f"failed: {error}"
    claims = Claims(experiment, sweep=sweep.id, gpus=sweep.gpus)
    worker, states = Worker(experiment, claims, _machine(sweep)), UnitStates(experiment, claims)
    for _ in range(MOST_CLAIMS):
        with provenance.made_by(sweep.command):
            outcome, reason = worker.carry_out(unit)
        while outcome == "busy" and states.of(unit) == "running":
            time.sleep(WAIT_SECONDS)
        if outcome not in {"again", "busy"}:
            break
    return f"{outcome}: {reason}" if reason else outcome


def _pulled(worker: Worker, states: UnitStates, units: Sequence[Unit]) -> Iterator[Unit]:
    """Yield units that can be claimed, waiting while others are pending, until none is pending."""
    while True:
        unit = worker.next_ready(units, states)
        if unit is not None:
            yield unit
        elif any(states.of(unit) == "pending" for unit in units):
            pause(WAIT_SECONDS)
        else:
            return


def _one_line(error: BaseException) -> str:
    return masked(" ".join(str(error).split()))


def _machine(sweep: Sweep) -> Machine:
    """Return the hardware of a worker as planned, with the memory of the GPU that it has."""
    return Machine(cores=sweep.cores, gpus=sweep.gpus, gpu_bytes=provenance.gpu_bytes() if sweep.gpus else None)
