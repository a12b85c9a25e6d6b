"""A worker process as the coordinator of the local pool knows it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from harness.records.sweep_schema import Unit
from harness.sweep.claims import runs

ORPHANED = 255
"""Exit code that multiprocessing gives to the workers of a fork server that died."""


@dataclass
class Hand:
    """A worker process.

    Attributes:
        pid, started: of the process.
        since: when it was started, or got its unit.
        silent: the cause of death of a worker that was killed since it gave no sign of life.
    """

    process: ForkServerProcess
    pipe: Connection
    gpus: tuple[str, ...]
    pid: int
    started: float
    since: float
    unit: Unit | None = None
    ready: bool = False
    silent: str = ""

    def lives(self) -> bool:
        """Return whether it runs; without its fork server, a worker continues unseen by it."""
        return self.process.is_alive() or (self.is_orphan() and runs(self.pid, self.started))

    def is_orphan(self) -> bool:
        """Return whether its fork server died, so that nobody tells how the worker ends."""
        return self.process.exitcode == ORPHANED

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.lives():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def join(self, seconds: float) -> bool:
        """Wait for its end; return whether it has ended."""
        self.process.join(seconds)
        end = time.monotonic() + seconds
        while (alive := self.lives()) and time.monotonic() < end:
            time.sleep(0.05)
        return not alive

    def how(self) -> str:
        """Return how it ended."""
        return self.silent or ("how is unknown, since its fork server is gone" if self.is_orphan() else _how(self.process.exitcode))


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    return f"signal {signal.Signals(-exitcode).name}"
