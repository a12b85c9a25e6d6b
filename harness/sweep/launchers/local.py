"""The local launcher: a pool of warm worker processes that share cores, memory or GPUs.

The coordinator hands out units and replaces workers that died. All state is on disk (claims and
records), so the coordinator may die too, or run next to another one. Workers are forked from one
process that has imported everything, and end when their coordinator is gone. A worker without a
heartbeat, stopped or hung, is killed after the lease, and another one takes its unit.
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
from multiprocessing.connection import wait
from typing import Any, ClassVar

import psutil

from harness.config.resolution import Machine
from harness.config.strict import check
from harness.core.display import Display
from harness.core.errors import ConfigError, explain
from harness.core.memory import available_bytes
from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter
from harness.run.workspace import this_machine
from harness.sweep.claims import LEFT, Claims, is_stopped, started
from harness.sweep.launchers.choose import Launcher, Work, worker_bytes
from harness.sweep.launchers.hand import Hand
from harness.sweep.launchers.local_worker import BEAT, LEASE, Make, Spec, serve
from harness.sweep.reporter import MINUTE, NO_SPACE
from harness.sweep.states import UnitStates
from harness.sweep.tally import Tally, tally
from harness.sweep.worker import had_no_result

POLL_SECONDS = 0.5
GRACE = 10.0
"""Most seconds to wait for the end of a killed worker."""

AWAY = 10.0
"""Seconds between two looks at the workers that mean that this process was paused."""

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
        price_per_hour: of one GPU, or of a worker without GPUs; for `harness plan`.
    """

    here: ClassVar[bool] = True

    workers: int | None = None
    gpus_per_worker: int = 1
    memory_gb: float | None = None
    grace_seconds: float = 15.0
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("workers", "memory_gb", "price_per_hour"):
            check(f"launcher.{name}", getattr(self, name), "null or greater than 0", lambda v: v is None or v > 0)
        check("launcher.gpus_per_worker", self.gpus_per_worker, "greater than 0", lambda v: v > 0)
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
        return Machine(cores=max(1, here.cores * self.gpus_per_worker // count), gpus=self.gpus_per_worker, gpu_bytes=here.gpu_bytes)

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
    hands: list[Hand] = field(default_factory=list)

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
        self.stillborn, self.told_of_space = 0, -MINUTE
        self.told_of_server, self.looked = False, time.monotonic()
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
                    self._end_silent()
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
        return sum(map(worker_bytes, [*busy, unit])) <= self.memory

    def _give(self, unit: Unit) -> bool:
        """Give a unit to an idle worker; without one start a worker and return False."""
        idle = next((hand for hand in self.hands if hand.ready and hand.unit is None), None)
        if idle is None:
            if len(self.hands) < self.most:
                self._start()
            return False
        idle.unit, idle.since = unit, time.monotonic()
        with contextlib.suppress(OSError):  # it died just now: its sentinel reports that
            idle.pipe.send(unit)
        return True

    def _start(self) -> None:
        mine, theirs = self.context.Pipe()
        own = tuple(self.free_gpus[: self.each])
        del self.free_gpus[: self.each]
        spec = Spec(self.experiment, self.sweep.id, Machine(cores=self.sweep.cores, gpus=self.sweep.gpus), own, self.make)
        process = self.context.Process(target=serve, args=(theirs, spec), name="harness worker", daemon=False)
        try:
            process.start()
            self.hands.append(Hand(process, mine, own, process.pid or 0, started(process.pid or 0), time.monotonic()))
        except (EOFError, OSError, psutil.NoSuchProcess) as error:  # its fork server died; the next worker gets another one
            self._tell_of_server()
            self._is_stillborn(f"its fork server ended: {error or type(error).__name__}")
            mine.close()
            self.free_gpus += own
        finally:
            theirs.close()

    def _tell_of_server(self) -> None:
        if not self.told_of_server:
            self.told_of_server = True
            self.display.say("the fork server ended; new workers get another one, those at work continue")

    def _is_stillborn(self, how: str) -> None:
        """Count a worker that died before it was ready; give up after STILLBORN in a row."""
        self.stillborn += 1
        if self.stillborn >= STILLBORN:
            self.gave_up = f"{STILLBORN} workers in a row died before they were ready ({how})"

    # --- listening

    def _listen(self) -> None:
        orphans = [hand for hand in self.hands if hand.is_orphan()]
        if orphans:
            self._tell_of_server()
        ends: dict[Any, Hand] = {hand.pipe: hand for hand in self.hands if hand.lives()}
        ends |= {hand.process.sentinel: hand for hand in self.hands if hand not in orphans}
        heard = [ends[end] for end in wait(list(ends), timeout=POLL_SECONDS)] if ends else []
        if not ends:
            time.sleep(POLL_SECONDS)
        for hand in {id(hand): hand for hand in [*heard, *orphans]}.values():
            with contextlib.suppress(EOFError, OSError):
                while hand.pipe.poll():
                    self._receive(hand, *hand.pipe.recv())
            if not hand.lives():
                self._remove(hand)

    def _receive(self, hand: Hand, kind: str, *details: str) -> None:
        if kind == "ready":
            hand.ready, self.stillborn = True, 0
        elif kind == "say":
            self._say(details[0])
        else:
            unit, hand.unit = hand.unit, None
            if unit is not None:
                self._ended(unit, *details)

    def _say(self, line: str) -> None:
        """Show a worker's line; of a full disk, which all of them tell, one a minute."""
        if line.startswith(NO_SPACE):
            if time.monotonic() - self.told_of_space < MINUTE:
                return
            self.told_of_space = time.monotonic()
        self.display.say(line)

    def _ended(self, unit: Unit, outcome: str, reason: str) -> None:
        if had_no_result(unit, outcome, self.states):
            self.states.count_try(unit, reason or "carried out, but its records are missing")
        if outcome in {"failed", "again", "measured in part", "died"}:
            self.display.say(f"{'to be tried again' if outcome in {'again', 'died'} else 'failed'}: {unit.label}: {reason}")

    def _remove(self, hand: Hand) -> None:
        """Remove a dead worker; its unit is pending, alone if it may have lacked memory."""
        self.hands.remove(hand)
        hand.pipe.close()
        self.free_gpus += hand.gpus
        how = hand.how()
        if hand.unit is not None:
            with contextlib.suppress(OSError):
                if not self.claims.note_death(hand.unit.id, hand.pid, how):
                    self.states.count_try(hand.unit, f"a worker died without a claim of it ({how})")
            self.display.say(f"a worker died ({how}); back to pending: {hand.unit.label}")
            if hand.process.exitcode == -signal.SIGKILL and not hand.silent:
                self.alone.add(hand.unit.id)
        elif not hand.ready:
            self._is_stillborn(how)

    def _end_silent(self) -> None:
        """Kill workers that were stopped or hang; after a pause of its own, begin to count anew."""
        before, self.looked = self.looked, time.monotonic()
        if self.looked - before > AWAY:  # as of the whole sweep, by Ctrl-Z
            self.claims.forget()
            for hand in self.hands:
                hand.since = self.looked
            return
        for hand in self.hands:
            seconds = self._silence(hand)
            if seconds and not hand.silent and self._can_write():
                hand.silent = f"stopped or hung: no sign of life for {seconds:.0f} s"
                hand.signal(signal.SIGKILL)

    def _silence(self, hand: Hand) -> float:
        """Return the seconds without a sign of life of a worker, if more than its lease; else 0.

        Without a claim there are no heartbeats, and only a stopped process counts.
        """
        claim = self.claims.held_by(hand.unit.id, hand.pid) if hand.unit else None
        if claim is not None:
            seconds, lease = self.claims.silence(claim) or 0.0, claim.lease
        else:
            waits = (hand.unit is not None or not hand.ready) and is_stopped(hand.pid)
            seconds, lease = (time.monotonic() - hand.since) * waits, self.claims.lease
        return seconds if seconds > lease else 0.0

    def _can_write(self) -> bool:
        """Return whether heartbeats can be written at all: else their absence says nothing."""
        with contextlib.suppress(ConfigError):
            self.experiment.require_writable()
            return True
        return False

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
            hand.signal(signal.SIGTERM)  # it asks them to save, give their unit back and end
        until = time.monotonic() + (self.launcher.grace_seconds if any(hand.unit for hand in self.hands) else 1.0)
        for hand in self.hands:
            if not hand.join(max(0.0, until - time.monotonic())):
                hand.signal(signal.SIGKILL)
                hand.join(GRACE)
            if hand.unit is not None:
                with contextlib.suppress(OSError):
                    self.claims.note_death(hand.unit.id, hand.pid, LEFT)
            hand.pipe.close()
        self.hands.clear()


def _cores(unit: Unit) -> int:
    return unit.threads * unit.processes


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
