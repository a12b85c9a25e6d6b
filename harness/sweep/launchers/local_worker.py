"""A worker of the local pool, inside its process; it ends with its coordinator."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from harness.config.resolution import Machine
from harness.core.display import OUTPUT, quiet_libraries
from harness.records.sweep_schema import Unit
from harness.records.writer import ExperimentWriter
from harness.sweep.claims import Claims

LEASE, BEAT = 30.0, 1.0
"""Seconds, see ``harness.sweep.claims``: shorter than between hosts, since the display shows the
heartbeats."""


BUSY_SECONDS = 0.5
"""Pause of a worker whose unit another process has, although the coordinator found it free."""


class CarriesOut(Protocol):
    """Carries out units in a worker process."""

    def carry_out(self, unit: Unit) -> tuple[str, str]:
        """Complete a unit; return the outcome and its reason."""
        ...

    def leave(self) -> None:
        """End the claim of the current unit, since the coordinator is gone."""
        ...


Make = Callable[[Claims], CarriesOut]


@dataclass(frozen=True)
class Spec:
    """Arguments of a worker process."""

    experiment: ExperimentWriter
    sweep: str
    machine: Machine
    gpus: tuple[str, ...]
    make: Make | None


def serve(pipe: Connection, spec: Spec) -> None:
    """Carry out units from the pipe until None, or a reason to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    if spec.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    quiet_libraries()
    from harness.sweep import reporter, worker

    signal.signal(signal.SIGTERM, lambda *_: reporter.stop_soon())
    claims = Claims(spec.experiment, sweep=spec.sweep, lease=LEASE, beat=BEAT, gpus=len(spec.gpus))
    said = _Said(pipe)
    OUTPUT.show = said.say  # log messages of libraries: the coordinator shows and logs them
    mine = spec.make(claims) if spec.make else worker.Worker(spec.experiment, claims, spec.machine, said)
    threading.Thread(target=_leave_with_coordinator, args=(mine,), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(("ready",))
        while (unit := pipe.recv()) is not None:
            outcome, reason = mine.carry_out(unit)
            if outcome == "busy":
                time.sleep(BUSY_SECONDS)
            pipe.send(("ended", outcome, reason))
            if outcome == "interrupted" or (spec.gpus and outcome in {"again", "failed", "died"}):
                return  # asked to stop; or an error on a GPU, which this process may be unable to use now


def _leave_with_coordinator(mine: CarriesOut) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        mine.leave()
        os._exit(1)  # at once: complete work is on disk already


@dataclass
class _Said:
    """Progress of a worker of the pool: messages go through the pipe, stages through heartbeats."""

    pipe: Connection

    def stage(self, name: str, total: int) -> None:
        """Do nothing: heartbeats have the stage."""

    def advance(self, units: int = 1) -> None:
        """Do nothing: heartbeats have the count."""

    def say(self, message: str) -> None:
        """Send one line to the coordinator."""
        with contextlib.suppress(OSError):
            self.pipe.send(("say", message))
