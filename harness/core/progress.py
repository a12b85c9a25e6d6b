"""Progress of a run: stages, steps, and requests to stop."""

from __future__ import annotations

from typing import Protocol


class Interrupted(BaseException):
    """The work under way is to stop soon: a time limit, preemption, Ctrl-C.

    No Exception: it is no failure, and nothing that guards one task or run against errors may
    swallow it.
    """


class Progress(Protocol):
    """Where long work says how far it is.

    Implementations never print to standard output and raise nothing but Interrupted.

    ``stage`` and ``advance`` raise Interrupted once the work is to stop: what is under way is then
    saved, or dropped and done again.
    """

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of so many units (steps, requests, …), ending the one before."""
        ...

    def advance(self, units: int = 1) -> None:
        """Say that so many more units of the stage are done."""
        ...

    def say(self, message: str) -> None:
        """Log one line."""
        ...


class Silent:
    """A Progress that says nothing."""

    def stage(self, name: str, total: int) -> None:
        """Ignore."""

    def advance(self, units: int = 1) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""
