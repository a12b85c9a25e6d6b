"""The local launcher: a pool of warm worker processes on this machine, as many as its cores, memory or GPUs carry.

The coordinator hands out units and starts a new worker for one that died; truth is on disk all the same (claims and records), so
that it may die too, or run beside another. Workers are forked from one process that has imported everything, and leave when their
coordinator is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

import psutil

from harness.config import check
from harness.console import Display, quiet_libraries
from harness.errors import HarnessError, explain
from harness.plan import Machine
from harness.preparation import this_machine
from harness.records import Experiment
from harness.schema import Sweep, Unit
from harness.sweep.claims import Claims
from harness.sweep.states import States
from harness.sweep.tally import Tally, tally

POLL_SECONDS = 0.5
LEASE, BEAT = 30.0, 1.0
"""Seconds, see ``harness.sweep.claims``: shorter than between hosts, since it is one machine, and a display is fed by the heartbeats."""

BYTES_PER_PARAMETER = 20
"""Weights, gradients, two moments and a copy of the start weights, four bytes each: what training needs beside its activations."""

WORKER_BYTES = 1.5 * 2**30
"""What a worker holds with its libraries, batches and logits; a guess for packing."""

PATIENCE = 300.0
"""Seconds that a full disk is waited for before the sweep gives up."""

STILLBORN = 3
"""Workers in a row that die before they are ready: then something is wrong with all of them."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """Worker processes on this machine.

    Attributes:
        workers: at most so many at once; null is as many as cores (or GPUs) and memory carry.
        gpus_per_worker: GPUs of each worker, where there are any; a run trains on all of them.
        memory_gb: what all workers may hold together; null is nine tenths of what is free at the start.
        grace_seconds: how long workers may take to save what they have when they are asked to stop.
    """

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
        here, gpus = this_machine(), _gpus()
        if not gpus:
            return here
        mine = min(self.gpus_per_worker, gpus)
        return Machine(cores=max(1, here.cores * mine // gpus), gpus=mine)

    def check(self) -> None:
        """Accept: processes can be started everywhere."""

    def carry(self, experiment: Experiment, sweep: Sweep, units: Sequence[Unit], display: Display) -> Tally:
        """Carry out units; returns when each is done or failed. Raises KeyboardInterrupt after everything was saved."""
        return Pool(self, experiment, sweep, units, display).run()


class CarriesOut(Protocol):
    """What serves in a worker process."""

    def carry_out(self, unit: Unit) -> tuple[str, str]:
        """Do what is missing of a unit; return how it went, and why."""
        ...


Make = Callable[[Claims], CarriesOut]


def warm_up() -> None:
    """Let the process that workers are forked from import everything already, while this one is still planning."""
    from multiprocessing import forkserver

    multiprocessing.get_context("forkserver").set_forkserver_preload(["harness.sweep.preload"])
    forkserver.ensure_running()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@dataclass
class _Hand:
    """A worker process as its coordinator sees it."""

    process: ForkServerProcess
    pipe: Connection
    gpus: tuple[int, ...]
    unit: Unit | None = None
    ready: bool = False


@dataclass
class Pool:
    """The coordinator: who works on what, and what is left.

    Attributes:
        make: makes what carries out units in a worker process; None is ``harness.sweep.worker.Worker``.
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
        self.states = States(self.experiment, self.claims)
        self.by_id: Mapping[str, Unit] = {unit.id: unit for unit in self.units}
        self.cores, self.free_gpus = this_machine().cores, list(range(_gpus()))
        free = self.launcher.memory_gb * 2**30 if self.launcher.memory_gb else 0.9 * psutil.virtual_memory().available
        self.memory = float(free)
        self.alone: set[str] = set()
        self.stillborn, self.full_since = 0, 0.0
        self.pause_until = 0.0
        self.context = multiprocessing.get_context("forkserver")
        if self.make is None:
            warm_up()

    def run(self) -> Tally:
        """Hand out units until each is done or failed."""
        try:
            with _as_interrupt(signal.SIGTERM):
                while self._left():
                    self._hand_out()
                    self._listen()
                    self._show()
        finally:
            self._dismiss()
        self._show()
        return tally(self.units, self.states)

    def _left(self) -> list[Unit]:
        return [unit for unit in self.units if self.states.of(unit) in {"pending", "running"}]

    # --- handing out

    def _hand_out(self) -> None:
        if time.monotonic() < self.pause_until:
            return
        for unit in self._left():
            if not self._fits(unit):
                if unit.id in self.alone:  # it has waited for the whole machine: nothing may slip in before it
                    return
                continue
            if self.states.ready(unit, self.by_id) and not self._give(unit):
                return

    def _fits(self, unit: Unit) -> bool:
        """Say whether cores and memory are free for a unit; one alone always fits."""
        busy = [hand.unit for hand in self.hands if hand.unit is not None]
        if not busy:
            return True
        if unit in busy or unit.id in self.alone or any(other.id in self.alone for other in busy):
            return False
        if not self.free_gpus and not any(hand.gpus for hand in self.hands) and sum(map(_cores, [*busy, unit])) > self.cores:
            return False
        return sum(map(_bytes, [*busy, unit])) <= self.memory

    def _give(self, unit: Unit) -> bool:
        """Give a unit to an idle worker, or have one started; say whether there was anybody."""
        idle = next((hand for hand in self.hands if hand.ready and hand.unit is None), None)
        if idle is None:
            starting = sum(not hand.ready for hand in self.hands)
            busy = sum(hand.unit is not None for hand in self.hands)
            if busy + starting < self._most() and starting < 1 + self._waiting():
                self._start()
            return False
        idle.unit = unit
        with contextlib.suppress(OSError):  # it has died just now: its sentinel tells
            idle.pipe.send(unit)
        return True

    def _waiting(self) -> int:
        return sum(self.states.ready(unit, self.by_id) for unit in self._left()) - 1

    def _most(self) -> int:
        mine = self.launcher.gpus_per_worker
        carried = (len(self.free_gpus) + sum(len(hand.gpus) for hand in self.hands)) // mine or self.cores
        return min(self.launcher.workers or carried, carried)

    def _start(self) -> None:
        mine, theirs = self.context.Pipe()
        gpus = tuple(self.free_gpus[: self.launcher.gpus_per_worker])
        del self.free_gpus[: len(gpus)]
        spec = _Spec(self.experiment, self.sweep.id, Machine(cores=self.sweep.cores, gpus=self.sweep.gpus), gpus, self.make)
        process = self.context.Process(target=serve, args=(theirs, spec), name="harness worker", daemon=False)
        process.start()
        theirs.close()
        self.hands.append(_Hand(process, mine, gpus))

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
                raise HarnessError(explain(f"results {self.experiment.folder}", got=reason, fix="make space, then the same command again"))
            self.display.say(f"waiting for space on the disk: {reason}")
            self.pause_until = time.monotonic() + 2.0
            return
        self.full_since = 0.0
        if outcome in {"failed", "again", "measured in part"}:
            self.display.say(f"{'failed, to be tried again' if outcome == 'again' else 'failed'}: {unit.label}: {reason}")

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
                raise HarnessError(explain("workers", got=f"{STILLBORN} in a row that died before they were ready ({how})"))

    # --- showing and leaving

    def _show(self) -> None:
        runs = [unit for unit in self.units if unit.kind == "run"]
        final = [unit for unit in runs if self.states.final.get(unit.id)]
        self.display.runs(len(final), len(runs))
        share = sum(unit.cost for unit in self.units if self.states.final.get(unit.id)) / (sum(unit.cost for unit in self.units) or 1)
        working = []
        for hand in self.hands:
            claim = self.experiment.claims.last(hand.unit.id) if hand.unit else None
            if hand.unit and claim:
                working.append((hand.unit.label, claim.stage, claim.finished, claim.total))
        self.display.workers(working, share)

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


# --- the worker's side


@dataclass(frozen=True)
class _Spec:
    """What a worker is told at its start."""

    experiment: Experiment
    sweep: str
    machine: Machine
    gpus: tuple[int, ...]
    make: Make | None


def serve(pipe: Connection, spec: _Spec) -> None:
    """Carry out units as they are given, until None comes or the coordinator is gone."""
    threading.Thread(target=_leave_with_coordinator, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    if spec.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, spec.gpus))
    quiet_libraries()
    from harness.sweep import worker

    signal.signal(signal.SIGTERM, lambda *_: worker.stop_soon())
    claims = Claims(spec.experiment, sweep=spec.sweep, lease=LEASE, beat=BEAT, gpus=len(spec.gpus))
    mine = spec.make(claims) if spec.make else worker.Worker(spec.experiment, claims, spec.machine, _Said(pipe))
    pipe.send(("ready",))
    with contextlib.suppress(EOFError, OSError):
        while (unit := pipe.recv()) is not None:
            pipe.send(("ended", *mine.carry_out(unit)))


def _leave_with_coordinator() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # at once: what is under way is on disk as far as it is whole, and its claim is that of a dead process


@dataclass
class _Said:
    """The Progress of a worker of the pool: stages travel by the claim's heartbeats, words through the pipe."""

    pipe: Connection

    def stage(self, name: str, total: int) -> None:
        """Ignore: the claim tells."""

    def advance(self, units: int = 1) -> None:
        """Ignore: the claim tells."""

    def say(self, message: str) -> None:
        """Send one line to the coordinator."""
        with contextlib.suppress(OSError):
            self.pipe.send(("say", message))
