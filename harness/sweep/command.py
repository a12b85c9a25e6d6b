"""A sweep from its command line to its launcher: every check first, then the plan on disk, then whoever carries it."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.config import paths
from harness.config.identity import recorded
from harness.core.display import Display
from harness.core.errors import ConfigError, DataError, ModelError, explain
from harness.records.store import Experiment
from harness.records.sweep_schema import TRIES, Sweep, Unit
from harness.records.writer import ExperimentWriter
from harness.run import execution, preparation
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace
from harness.sweep.axes import Asked, Expansion, expand
from harness.sweep.claims import Claims
from harness.sweep.launchers import local, local_worker
from harness.sweep.launchers.choose import Launcher, split
from harness.sweep.states import UnitStates
from harness.sweep.tally import Tally, tally
from harness.sweep.units import units_of
from harness.sweep.worker import Worker, go_on, stop_soon

WATCH_SECONDS = 5.0
QUIET_SECONDS = 120.0
"""Without a worker in the queue and without a living claim for so long, a sweep that is waited
for has stopped."""


@dataclass(frozen=True)
class Started:
    """A sweep that is planned and written down.

    Attributes:
        sweep: all its units, done or not; ``units`` are those to do.
        already_done: runs that were done before.
        same: whether the last command asked for these very runs.
        announce: makes these the current runs; to be called once somebody is there to carry them.
    """

    experiment: ExperimentWriter
    sweep: Sweep
    units: Sequence[Unit]
    already_done: int
    same: bool
    launcher: Launcher
    announce: Callable[[], None]


def require_experiment(overrides: Sequence[str], command: str = "sweep") -> None:
    """Raise ConfigError unless the overrides of a command name an experiment."""
    if not any(override.startswith("experiment=") for override in overrides):
        allowed = ", ".join(paths.members("conf/experiment"))
        raise ConfigError(explain(f"harness {command}", got="no experiment", allowed=allowed, fix=f"harness {command} experiment=NAME"))


def start(overrides: Sequence[str], *, warm: bool = False) -> Started:
    """Expand, check and identify every run of a sweep, leave out what is done, and write down the rest; nothing runs yet.

    Args:
        overrides: ``experiment=NAME``, axes, values and the launcher.
        warm: let the process that local workers are forked from begin its imports meanwhile.

    Raises:
        HarnessError: one line; nothing was written.
    """
    launcher, rest = split(overrides)
    require_experiment(rest)
    expansion = expand(rest)
    _refuse(expansion)
    return begin(expansion.asked, launcher, keep=False, warm=warm)


def _refuse(expansion: Expansion) -> None:
    if expansion.refused:
        first, total = expansion.refused[0], len(expansion.asked) + len(expansion.refused)
        more = (
            f" ({len(expansion.refused)} of {total} points are refused; `harness plan` lists them, hydra.sweeper.exclude leaves them out)"
        )
        raise ConfigError(first.reason + more)


def begin(asked: Sequence[Asked], launcher: Launcher, *, keep: bool, warm: bool = False) -> Started:
    """Check and identify runs, leave out what is done, and write down the rest.

    Args:
        asked: the runs.
        launcher: who will carry them.
        warm: see ``start``.
        keep: these runs join those that earlier commands asked for, and are no sweep of their own.

    Raises:
        HarnessError: one line; nothing was written.
    """
    launcher.check()
    workspace, machine = Workspace(), launcher.machine
    try:
        prepared = [preparation.prepare(one.config, workspace, machine) for one in asked]
    except (ModelError, DataError) as error:
        if keep:
            raise
        raise type(error)(f"{error} (`harness plan` lists all that is missing, `harness prefetch` fetches it)") from error
    preparation.check_together(prepared)
    experiment = prepared[0].experiment
    pending = [item for item in prepared if not preparation.is_done(item)]
    if pending and warm and isinstance(launcher, local.Local):
        local.warm_up()
    for item in _one_of_each(pending):
        execution.inspect(item)
    missing = {item.run_id for item in pending}
    every = units_of(list(zip(asked, prepared, strict=True)), experiment.baseline_keys())
    needed = {name for unit in every if unit.id in missing for name in unit.needs}
    units = [unit for unit in every if unit.id in missing or unit.id in needed]
    sweep = Sweep(
        id=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        experiment=experiment.name,
        command=shlex.join(["harness", *sys.argv[1:]]),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        cores=machine.cores,
        gpus=machine.gpus,
        units=tuple(unit for unit in every if unit.kind == "run" or unit.id in needed),
    )
    last = experiment.sweep()
    if not units and last is not None and last.units == sweep.units:
        sweep = last  # nothing to do: the last sweep's word stands
    elif not keep:
        experiment.write_sweep(sweep)
    configs = {item.run_id: recorded(item.config) for item in prepared}

    def announce() -> None:
        experiment.write_manifest(configs, keep=keep, sweep=None if keep else sweep.id)
        _allow_one_more_try(experiment, missing)

    was = experiment.asked()
    same = was == ({*was, *configs} if keep else {*configs})
    return Started(experiment, sweep, units, len(configs) - len(missing), same, launcher, announce)


def _one_of_each(pending: Sequence[Prepared]) -> list[Prepared]:
    """Return, of runs that differ in nothing but numbers, the one with the largest volume: what takes a look at the data looks there."""
    found: dict[object, Prepared] = {}
    for item in pending:
        key = (repr(item.config.labels), item.config.target_suites, item.config.probe_suites, repr(item.config.evaluation))
        if key not in found or found[key].volumes[-1] < item.volumes[-1]:
            found[key] = item
    return list(found.values())


def _allow_one_more_try(experiment: ExperimentWriter, run_ids: set[str]) -> None:
    for run_id in sorted(run_ids):
        failure = experiment.failure(run_id)
        if failure is not None and failure.tries >= TRIES:
            experiment.write_failure(dataclasses.replace(failure, tries=TRIES - 1))


def carry(started: Started, display: Display, *, wait: bool = True) -> Tally | None:
    """Have a sweep's units carried out.

    Returns:
        How they ended; None where they were submitted and are not waited for.
    """
    launcher = started.launcher
    if not started.units or isinstance(launcher, local.Local):
        started.announce()
    if not started.units:
        return Tally(already_done=started.already_done)
    if isinstance(launcher, local.Local):
        found = launcher.carry(started.experiment, started.sweep, started.units, display)
    else:
        from harness.sweep.launchers.slurm import Slurm

        assert isinstance(launcher, Slurm)
        jobs = launcher.submit(started.experiment.folder, started.experiment.name, started.sweep.id, units=len(started.units))
        started.announce()
        display.say(f"{len(jobs)} worker(s) in the queue: {', '.join(jobs)}")
        if not wait:
            return None
        found = watch(started, display, jobs)
    found.already_done = started.already_done
    return found


def carry_here(started: Started, display: Display) -> Tally:
    """Carry out runs in this very process, one after another, each tried once.

    Raises KeyboardInterrupt after everything was saved.
    """
    claims = Claims(started.experiment, lease=local_worker.LEASE, beat=local_worker.BEAT, gpus=started.sweep.gpus)
    worker = Worker(started.experiment, claims, started.launcher.machine, display, tries=1)
    started.announce()
    runs = [unit for unit in started.units if unit.kind == "run"]
    ended = Tally(already_done=started.already_done)
    with _saved_on_interrupt():
        for number, unit in enumerate(runs):
            display.runs(number, len(runs))
            while (found := worker.carry_out(unit))[0] == "busy":
                display.stage("wait for another process, which has this run", 1)
                time.sleep(WATCH_SECONDS)
            outcome, reason = found
            if outcome == "interrupted":
                raise KeyboardInterrupt
            ended.done += outcome == "done"
            ended.already_done += outcome == "already done"
            if outcome not in {"done", "already done"}:
                ended.failed.append((unit.label, reason))
                display.say(f"failed: {unit.label}: {reason}")
    display.runs(len(runs), len(runs))
    return ended


@contextlib.contextmanager
def _saved_on_interrupt() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM ask the work to save what it has and stop.

    The second stops it where it is.
    """

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stderr.write("\nstopping at the next step or item; again to stop at once\n")
        stop_soon()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    go_on()
    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        go_on()


def watch(started: Started, display: Display, jobs: Sequence[str]) -> Tally:
    """Show from disk how a sweep goes on until each of its units is done or failed, or nobody works on it any more."""
    from harness.sweep.launchers.slurm import waiting

    states = UnitStates(started.experiment, Claims(started.experiment, sweep=started.sweep.id))
    last_alive, total = time.monotonic(), sum(unit.cost for unit in started.units)
    while left := [unit for unit in started.units if states.of(unit) in {"pending", "running"}]:
        runs = [unit for unit in started.units if unit.kind == "run"]
        display.runs(sum(unit not in left for unit in runs), len(runs))
        working = _working(started.experiment, left, states)
        display.workers(working, 1 - sum(unit.cost for unit in left) / total)
        if working or waiting(jobs):
            last_alive = time.monotonic()
        elif time.monotonic() - last_alive > QUIET_SECONDS:
            display.say("no worker is in the queue or alive; the same command again goes on")
            break
        time.sleep(WATCH_SECONDS)
    found = tally(started.units, states)
    left = [unit for unit in started.units if unit.kind == "run" and states.of(unit) not in {"done", "failed"}]
    found.failed += [(unit.label, "not done: no worker is left") for unit in left]
    return found


def _working(experiment: Experiment, units: Sequence[Unit], states: UnitStates) -> list[tuple[str, str, int, int]]:
    """Return node and label, stage and progress of the units that a living worker has."""
    claims = [(unit, experiment.claims.last(unit.id)) for unit in units]
    return [
        (f"{claim.node} {unit.label}", claim.stage, claim.finished, claim.total)
        for unit, claim in claims
        if claim and states.claims.alive(claim)
    ]
