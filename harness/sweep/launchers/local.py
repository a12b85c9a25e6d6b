"""The local launcher: a pool of warm worker processes on this machine, as many as its cores, memory or GPUs carry.

The coordinator hands out units and starts a new worker for one that died; truth is on disk all the
same (claims and records), so that it may die too, or run beside another. Workers are forked from
one process that has imported everything, and leave when their coordinator is gone.
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
from harness.records.schema import Sweep, Unit
from harness.records.store import Experiment
from harness.run.workspace import this_machine
from harness.sweep.claims import LEFT, Claims
from harness.sweep.launchers.choose import Launcher, Work
from harness.sweep.launchers.local_worker import BEAT, LEASE, Make, Spec, serve
from harness.sweep.states import UnitStates
from harness.sweep.tally import Tally, tally
from harness.sweep.worker import came_to_nothing

POLL_SECONDS = 0.5
BYTES_PER_PARAMETER = 20
"""Weights, gradients, two moments and a copy of the start weights, four bytes each: what
training needs beside its activations."""

WORKER_BYTES = 1.5 * 2**30
"""What a worker holds with its libraries, batches and logits; a guess for packing."""

PATIENCE = 300.0
"""Seconds that a full disk is waited for before the sweep gives up."""

STILLBORN = 3
"""Workers in a row that die before they are ready: then something is wrong with all of them."""


@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """Worker processes on this machine.

    Attributes:
        workers: at most so many at once; null is as many as cores (or GPUs) and memory carry.
        gpus_per_worker: GPUs of each worker, where there are any; a run trains on all of them.
        memory_gb: what all workers may hold together; null is nine tenths of what is free at the
            start.
        grace_seconds: how long workers may take to save what they have when they are asked to stop.
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
        """What each run may use: its worker's GPUs and their share of the cores, or the cores of the processor."""
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
    """Let the process that workers are forked from import everything already, while this one is still planning."""
    from multiprocessing import forkserver

    multiprocessing.get_context("forkserver").set_forkserver_preload(["harness.sweep.launchers.preload"])
    forkserver.ensure_running()


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Workers get theirs from these.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return own[:count] if own else [str(number) for number in range(count)]


@dataclass
class _Hand:
    """A worker process as its coordinator sees it."""

    process: ForkServerProcess
    pipe: Connection
    gpus: tuple[str, ...]
    unit: Unit | None = None
    ready: bool = False


@dataclass
class Pool:
    """The coordinator: who works on what, and what is left.

    Attributes:
        make: makes what carries out units in a worker process; None is
            ``harness.sweep.worker.Worker``.
    """

    launcher: Local
    experiment: Experiment
    sweep: Sweep
    units: Sequence[Unit]
    display: Display
    make: Make | None = None
    hands: list[_Hand] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Look at what there is to share."""
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
        """Hand out units until each is done or failed, or nothing can be done any more."""
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
        found.failed += [(unit.label, f"not done: {self.gave_up}") for unit in self.open if unit.kind == "run"]
        return found

    # --- handing out

    def _hand_out(self) -> None:
        """Give units to idle workers, from the front of what is open.

        Look no further than there is somebody to work.
        """
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
                return  # it waits for the whole machine: nothing may slip in before it

    def _fits(self, unit: Unit, busy: Sequence[Unit]) -> bool:
        """Say whether cores and memory are free for a unit beside those under way.

        One alone always fits.
        """
        if not busy:
            return True
        if unit.id in self.alone or any(other.id in self.alone for other in busy):
            return False
        if not self.on_gpus and sum(map(_cores, [*busy, unit])) > self.cores:
            return False
        return sum(map(_bytes, [*busy, unit])) <= self.memory

    def _give(self, unit: Unit) -> bool:
        """Give a unit to an idle worker, or have one started for it; say whether there was one."""
        idle = next((hand for hand in self.hands if hand.ready and hand.unit is None), None)
        if idle is None:
            if len(self.hands) < self.most:
                self._start()
            return False
        idle.unit = unit
        with contextlib.suppress(OSError):  # it has died just now: its sentinel tells
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
                    self._hear(hand, *hand.pipe.recv())
            if not hand.process.is_alive():
                self._bury(hand)

    def _hear(self, hand: _Hand, what: str, *told: str) -> None:
        if what == "ready":
            hand.ready, self.stillborn = True, 0
        elif what == "say":
            self.display.say(told[0])
        else:
            unit, hand.unit = hand.unit, None
            if unit is not None:
                self._ended(unit, *told)

    def _ended(self, unit: Unit, outcome: str, reason: str) -> None:
        if outcome == "no space":
            self.full_since = self.full_since or time.monotonic()
            if time.monotonic() - self.full_since > PATIENCE:
                self.gave_up = f"{reason}; make space, then give the same command again"
            self.display.say(f"waiting for space on the disk: {reason}")
            self.pause_until = time.monotonic() + 2.0
            return
        self.full_since = 0.0
        if came_to_nothing(unit, outcome, self.states):
            self.states.count_try(unit, reason or "carried out, but its records are not there")
        if outcome in {"failed", "again", "measured in part", "died"}:
            self.display.say(f"{'to be tried again' if outcome in {'again', 'died'} else 'failed'}: {unit.label}: {reason}")

    def _bury(self, hand: _Hand) -> None:
        """Take leave of a dead worker: its unit is pending again, and is run alone if it may have died of memory."""
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
        """Ask the workers to stop, give them time to save, then end them; none is left behind."""
        for hand in self.hands:
            with contextlib.suppress(OSError):
                hand.pipe.send(None)
            hand.process.terminate()  # SIGTERM is a request to them: they save, give back and leave
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
    return unit.processes * (WORKER_BYTES + unit.params_total * BYTES_PER_PARAMETER)


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    return f"signal {signal.Signals(-exitcode).name}"


@contextlib.contextmanager
def _as_interrupt(number: signal.Signals) -> Any:
    """Let a signal end the block as Ctrl-C does, where signals can be set (the main thread)."""
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
