"""Progress of a unit: kept for heartbeats, interrupted by requests to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.progress import Interrupted, Progress

TICK = 0.2
"""Most seconds that a pause outlasts a request to stop: no signal cuts a sleep short."""

SPACE_SECONDS, MINUTE = 2.0, 60.0
"""Seconds between two tries to write on a full disk, and between two lines that tell of it."""

NO_SPACE = "waiting for space on the disk"

_requests: list[bool] = []
"""Requests to stop this process, in a list, since signal handlers fill it: an Event takes a lock,
and a signal that arrives while the same thread holds it would make that thread wait for ever."""


def stop_soon() -> None:
    """Ask this process's work to save at its next step or item and raise Interrupted.

    Safe in signal handlers.
    """
    _requests.append(True)


def go_on() -> None:
    """Clear a request to stop, before other work begins."""
    _requests.clear()


@dataclass
class Reporter:
    """Progress of a unit, kept for heartbeats and interrupted by requests to stop.

    Attributes:
        results: folder that the unit writes to, for messages.
        told: when a full disk was last told of.
    """

    onward: Progress
    name: str = ""
    finished: int = 0
    total: int = 0
    lost: threading.Event = field(default_factory=threading.Event)
    results: Path | None = None
    told: float = -MINUTE

    def stage(self, name: str, total: int) -> None:
        """Begin a stage. Raises Interrupted."""
        self.name, self.finished, self.total = name, 0, total
        self.onward.stage(name, total)
        self._maybe_stop()

    def advance(self, units: int = 1) -> None:
        """Count finished units of the stage. Raises Interrupted."""
        self.finished += units
        self.onward.advance(units)
        self._maybe_stop()

    def say(self, message: str) -> None:
        """Pass a message on."""
        self.onward.say(message)

    def now(self) -> tuple[str, int, int]:
        """Return stage, units finished and their total."""
        return self.name, self.finished, self.total

    def wait_for_space(self, reason: str) -> None:
        """Wait before the next try to write on a full disk. Raises Interrupted."""
        if time.monotonic() - self.told >= MINUTE:
            self.told = time.monotonic()
            self.say(f"{NO_SPACE} of {self.results}; finished work is held: {' '.join(reason.split())}")
        end = time.monotonic() + SPACE_SECONDS
        while (left := end - time.monotonic()) > 0:
            self._maybe_stop()
            time.sleep(min(left, TICK))

    def _maybe_stop(self) -> None:
        if _requests or self.lost.is_set():
            raise Interrupted


def pause(seconds: float) -> None:
    """Wait. Raises Interrupted once asked to stop."""
    end = time.monotonic() + seconds
    while not _requests and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, TICK))
    if _requests:
        raise Interrupted


@contextlib.contextmanager
def saved_on_interrupt() -> Iterator[None]:
    """Make the first Ctrl-C or SIGTERM save and stop, and the second stop at once."""

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
