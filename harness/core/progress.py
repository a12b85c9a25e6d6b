"""Progress of a run: stages, steps, and requests to stop."""

from __future__ import annotations

from typing import Protocol


class Interrupted(BaseException):
    """A request to stop the current work soon: a time limit, preemption, Ctrl-C.

    It is not an Exception, so that code which guards a task or run against errors does not catch
    it.
    """


class Progress(Protocol):
    """Receiver of the progress of long work.

    Implementations never print to standard output, and raise nothing but Interrupted: ``stage`` and
    ``advance`` raise it when the work is to stop. The caller then saves the current work, or drops
    it to be repeated.
    """

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of ``total`` units (steps, requests, …), which ends the one before."""
        ...

    def advance(self, units: int = 1) -> None:
        """Add finished units to the current stage."""
        ...

    def say(self, message: str) -> None:
        """Log one line."""
        ...


class Silent:
    """A Progress that shows nothing."""

    def stage(self, name: str, total: int) -> None:
        """Ignore."""

    def advance(self, units: int = 1) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""
