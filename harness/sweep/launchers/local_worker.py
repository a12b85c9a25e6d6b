"""A worker of the local pool, from inside its process: takes units from its coordinator, and leaves when that is gone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from harness.config.resolution import Machine
from harness.core.display import quiet_libraries
from harness.records.sweep_schema import Unit
from harness.records.writer import ExperimentWriter
from harness.sweep.claims import Claims

LEASE, BEAT = 30.0, 1.0
"""Seconds, see ``harness.sweep.claims``: shorter than between hosts, since it is one machine,
and a display is fed by the heartbeats."""


class CarriesOut(Protocol):
    """What serves in a worker process."""

    def carry_out(self, unit: Unit) -> tuple[str, str]:
        """Do what is missing of a unit; return how it went, and why."""
        ...

    def leave(self) -> None:
        """Say of the unit under way that its worker leaves because nobody is there to work for."""
        ...


Make = Callable[[Claims], CarriesOut]


@dataclass(frozen=True)
class Spec:
    """What a worker is told at its start."""

    experiment: ExperimentWriter
    sweep: str
    machine: Machine
    gpus: tuple[str, ...]
    make: Make | None


def serve(pipe: Connection, spec: Spec) -> None:
    """Carry out units as they are given, until None comes, the coordinator is gone, or this process should not go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    if spec.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    quiet_libraries()
    from harness.sweep import worker

    signal.signal(signal.SIGTERM, lambda *_: worker.stop_soon())
    claims = Claims(spec.experiment, sweep=spec.sweep, lease=LEASE, beat=BEAT, gpus=len(spec.gpus))
    mine = spec.make(claims) if spec.make else worker.Worker(spec.experiment, claims, spec.machine, _Said(pipe))
    threading.Thread(target=_leave_with_coordinator, args=(mine,), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(("ready",))
        while (unit := pipe.recv()) is not None:
            outcome, reason = mine.carry_out(unit)
            pipe.send(("ended", outcome, reason))
            if outcome == "interrupted" or (spec.gpus and outcome in {"again", "failed", "died"}):
                return  # asked to stop by somebody; or an error on a GPU, which may be of no use to this process any more


def _leave_with_coordinator(mine: CarriesOut) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        mine.leave()
        os._exit(1)  # at once: what is under way is on disk as far as it is whole


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
