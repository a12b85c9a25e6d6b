"""The local launcher: a pool of warm worker processes that share cores, memory or GPUs.

The coordinator hands out units and replaces workers that died. All state is on disk (claims and
records), so the coordinator may die too, or run next to another one. Workers are forked from one
process that has imported everything, and end when their coordinator is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, ClassVar

from harness.config.resolution import Machine
from harness.config.strict import check
from harness.core.display import Display
from harness.core.errors import ConfigError, explain
from harness.core.memory import available_bytes
from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter
from harness.run.workspace import this_machine
from harness.sweep.claims import LEFT, Claims
from harness.sweep.launchers.choose import Launcher, Work
from harness.sweep.launchers.local_worker import BEAT, LEASE, Make, Spec, serve
from harness.sweep.states import UnitStates
from harness.sweep.tally import Tally, tally
from harness.sweep.worker import had_no_result

POLL_SECONDS = 0.5
BYTES_PER_PARAMETER = 20
"""Weights, gradients, two moments and a copy of the start weights, four bytes each: what training
holds without activations."""

PACKED_WORKER_BYTES = 1.5 * 2**30
"""A worker with its libraries, batches and logits, without a model: a rough bound, used to decide
how many workers fit. ``plan.estimate`` computes batches and logits by their size."""

PATIENCE = 300.0
"""Seconds to wait for space on a full disk before the sweep gives up."""

STILLBORN = 3
"""Workers in a row that die before they are ready, after which the sweep gives up."""


@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """Worker processes on this machine.

    Attributes:
        workers: most workers at a time; null is as many as cores (or GPUs) and memory allow.
        gpus_per_worker: GPUs of each worker, if there are any; a run trains on all of them.
        memory_gb: limit of all workers together; null is nine tenths of the memory free at the
            start.
        grace_seconds: time to save after workers are asked to stop.
    """

    here: ClassVar[bool] = True

    workers: int | None = None
    gpus_per_worker: int = 1
    memory_gb: float | None = None
    grace_seconds: float = 15.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check("launcher.workers", self.workers, "null or greater than 0", lambda v: v is None or v > 0)
        check("launcher.gpus_per_worker", self.gpus_per_worker, "greater than 0", lambda v: v > 0)
        check("launcher.memory_gb", self.memory_gb, "null or greater than 0", lambda v: v is None or v > 0)
        check("launcher.grace_seconds", self.grace_seconds, "0 or greater", lambda v: v >= 0)

    @property
    def machine(self) -> Machine:
        """A worker's GPUs and their share of the cores, or all cores without GPUs."""
        here, count = this_machine(), len(gpus())
        if self.gpus_per_worker > max(count, 1):
            allowed = f"at most {max(count, 1)}: this machine has {count}"
            raise ConfigError(explain("launcher.gpus_per_worker", got=self.gpus_per_worker, allowed=allowed))
        if not count:
            return here
        return Machine(cores=max(1, here.cores * self.gpus_per_worker // count), gpus=self.gpus_per_worker)

    def warm_up(self) -> None:
        """Start the process that workers are forked from, and its imports."""
        warm_up()

    def carry(self, work: Work, display: Display, *, wait: bool) -> Tally:
        """Carry out units; returns when each is done or failed.

        Raises KeyboardInterrupt after everything was saved.
        """
        work.announce()
        return Pool(self, work.experiment, work.sweep, work.units, display).run()


def warm_up() -> None:
    """Start the process that workers are forked from, so that it imports during planning."""
    from multiprocessing import forkserver

    multiprocessing.get_context("forkserver").set_forkserver_preload(["harness.sweep.launchers.preload"])
    forkserver.ensure_running()


def gpus() -> list[str]:
    """Return the GPUs that this process may give to workers, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return own[:count] if own else [str(number) for number in range(count)]


@dataclass
class _Hand:
    """A worker process as its coordinator knows it."""

    process: ForkServerProcess
    pipe: Connection
    gpus: tuple[str, ...]
    unit: Unit | None = None
    ready: bool = False


@dataclass
class Pool:
    """The coordinator of worker processes.

    Attributes:
        make: makes the object that carries out units in a worker process; None is
            ``harness.sweep.worker.Worker``.
    """

    launcher: Local
    experiment: ExperimentWriter
    sweep: Sweep
    units: Sequence[Unit]
    display: Display
    make: Make | None = None
    hands: list[_Hand] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the resources to share."""
        self.claims = Claims(self.experiment, sweep=self.sweep.id, lease=LEASE, beat=BEAT)
        self.states = UnitStates(self.experiment, self.claims)
        self.by_id: Mapping[str, Unit] = {unit.id: unit for unit in self.units}
        self.open = list(self.units)
        self.cores, self.free_gpus = this_machine().cores, gpus()
        self.on_gpus = bool(self.free_gpus)
        self.each = min(self.launcher.gpus_per_worker, len(self.free_gpus))
        carried = len(self.free_gpus) // self.each if self.on_gpus else self.cores
        self.most = min(self.launcher.workers or carried, carried)
        self.memory = self.launcher.memory_gb * 2**30 if self.launcher.memory_gb else 0.9 * available_bytes()
        self.alone: set[str] = set()
        self.stillborn, self.full_since, self.pause_until = 0, 0.0, 0.0
        self.gave_up = ""
        self.context = multiprocessing.get_context("forkserver")
        if self.make is None:
            warm_up()

    def run(self) -> Tally:
        """Hand out units until each is done or failed, or the sweep gives up."""
        try:
            with _as_interrupt(signal.SIGTERM):
                while self.open and not self.gave_up:
                    self._hand_out()
                    self._listen()
                    self._show()
        finally:
            self._dismiss()
        self._show()
        found = tally(self.units, self.states)
        found.failed += [(unit.label, f"not done: {self.gave_up}") for unit in self.open if unit.kind != "baseline"]
        return found

    # --- handing out

    def _hand_out(self) -> None:
        """Give open units to idle workers, in order, reading no more states than workers need."""
        if time.monotonic() < self.pause_until:
            return
        busy = [hand.unit for hand in self.hands if hand.unit is not None]
        wanting = self.most - len(busy)
        for unit in list(self.open):
            if wanting <= 0:
                return
            if unit in busy or not self.states.may_begin(unit, self.by_id):
                continue
            state = self.states.of(unit)
            if state in {"done", "failed"}:
                self.open.remove(unit)
            elif state == "pending" and self._fits(unit, busy):
                wanting -= 1
                if self._give(unit):
                    busy.append(unit)
            elif state == "pending" and unit.id in self.alone:
                return  # it waits for the whole machine: no later unit may start before it

    def _fits(self, unit: Unit, busy: Sequence[Unit]) -> bool:
        """Return whether cores and memory allow a unit next to the running ones.

        A single unit always fits.
        """
        if not busy:
            return True
        if unit.id in self.alone or any(other.id in self.alone for other in busy):
            return False
        if not self.on_gpus and sum(map(_cores, [*busy, unit])) > self.cores:
            return False
        return sum(map(_bytes, [*busy, unit])) <= self.memory

    def _give(self, unit: Unit) -> bool:
        """Give a unit to an idle worker; without one start a worker and return False."""
        idle = next((hand for hand in self.hands if hand.ready and hand.unit is None), None)
        if idle is None:
            if len(self.hands) < self.most:
                self._start()
            return False
        idle.unit = unit
        with contextlib.suppress(OSError):  # it died just now: its sentinel reports that
            idle.pipe.send(unit)
        return True

    def _start(self) -> None:
        mine, theirs = self.context.Pipe()
        own = tuple(self.free_gpus[: self.each])
        del self.free_gpus[: self.each]
        spec = Spec(self.experiment, self.sweep.id, Machine(cores=self.sweep.cores, gpus=self.sweep.gpus), own, self.make)
        process = self.context.Process(target=serve, args=(theirs, spec), name="harness worker", daemon=False)
        process.start()
        theirs.close()
        self.hands.append(_Hand(process, mine, own))

    # --- listening

    def _listen(self) -> None:
        ends: dict[Any, _Hand] = {end: hand for hand in self.hands for end in (hand.pipe, hand.process.sentinel)}
        heard = [ends[end] for end in wait(list(ends), timeout=POLL_SECONDS)] if ends else []
        if not ends:
            time.sleep(POLL_SECONDS)
        for hand in {id(hand): hand for hand in heard}.values():
            with contextlib.suppress(EOFError, OSError):
                while hand.pipe.poll():
                    self._receive(hand, *hand.pipe.recv())
            if not hand.process.is_alive():
                self._remove(hand)

    def _receive(self, hand: _Hand, kind: str, *details: str) -> None:
        if kind == "ready":
            hand.ready, self.stillborn = True, 0
        elif kind == "say":
            self.display.say(details[0])
        else:
            unit, hand.unit = hand.unit, None
            if unit is not None:
                self._ended(unit, *details)

    def _ended(self, unit: Unit, outcome: str, reason: str) -> None:
        if outcome == "no space":
            self.full_since = self.full_since or time.monotonic()
            if time.monotonic() - self.full_since > PATIENCE:
                self.gave_up = f"{reason}; free some space, then run the same command again"
            self.display.say(f"waiting for space on the disk: {reason}")
            self.pause_until = time.monotonic() + 2.0
            return
        self.full_since = 0.0
        if had_no_result(unit, outcome, self.states):
            self.states.count_try(unit, reason or "carried out, but its records are missing")
        if outcome in {"failed", "again", "measured in part", "died"}:
            self.display.say(f"{'to be tried again' if outcome in {'again', 'died'} else 'failed'}: {unit.label}: {reason}")

    def _remove(self, hand: _Hand) -> None:
        """Remove a dead worker; its unit is pending, alone if it may have lacked memory."""
        self.hands.remove(hand)
        hand.pipe.close()
        self.free_gpus += hand.gpus
        how = _how(hand.process.exitcode)
        if hand.unit is not None and hand.process.pid is not None:
            with contextlib.suppress(OSError):
                self.claims.note_death(hand.unit.id, hand.process.pid, how)
            self.display.say(f"a worker died ({how}); back to pending: {hand.unit.label}")
            if hand.process.exitcode == -signal.SIGKILL:
                self.alone.add(hand.unit.id)
        elif not hand.ready:
            self.stillborn += 1
            if self.stillborn >= STILLBORN:
                self.gave_up = f"{STILLBORN} workers in a row died before they were ready ({how})"

    # --- showing and leaving

    def _show(self) -> None:
        left = sum(unit.kind == "run" for unit in self.open)
        runs = sum(unit.kind == "run" for unit in self.units)
        self.display.runs(runs - left, runs)
        working = []
        for hand in self.hands:
            claim = self.experiment.claims.last(hand.unit.id) if hand.unit else None
            if hand.unit and claim:
                working.append((hand.unit.label, claim.stage, claim.finished, claim.total))
        self.display.workers(working, 1 - sum(unit.cost for unit in self.open) / (sum(unit.cost for unit in self.units) or 1))

    def _dismiss(self) -> None:
        """Ask the workers to stop, give them time to save, then kill the rest."""
        for hand in self.hands:
            with contextlib.suppress(OSError):
                hand.pipe.send(None)
            hand.process.terminate()  # SIGTERM asks them to save, give their unit back and end
        until = time.monotonic() + (self.launcher.grace_seconds if any(hand.unit for hand in self.hands) else 1.0)
        for hand in self.hands:
            hand.process.join(max(0.0, until - time.monotonic()))
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
            if hand.unit is not None and hand.process.pid is not None:
                with contextlib.suppress(OSError):
                    self.claims.note_death(hand.unit.id, hand.process.pid, LEFT)
            hand.pipe.close()
        self.hands.clear()


def _cores(unit: Unit) -> int:
    return unit.threads * unit.processes


def _bytes(unit: Unit) -> float:
    return unit.processes * (PACKED_WORKER_BYTES + unit.params_total * BYTES_PER_PARAMETER)


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    return f"signal {signal.Signals(-exitcode).name}"


@contextlib.contextmanager
def _as_interrupt(number: signal.Signals) -> Any:
    """Let a signal end the block as Ctrl-C does, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)
