"""How a sweep went: what its command says at the end, and exits by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.records.sweep_schema import Unit
from harness.sweep.states import UnitStates


@dataclass
class Tally:
    """How the runs of a sweep ended; ``failed`` holds (label, reason)."""

    done: int = 0
    already_done: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def tally(units: Sequence[Unit], states: UnitStates) -> Tally:
    """Count how the runs among some units ended, whoever carried them out."""
    runs = [unit for unit in units if unit.kind == "run"]
    failed = [(unit.label, states.failure(unit)) for unit in runs if states.of(unit) == "failed"]
    return Tally(done=sum(states.of(unit) == "done" for unit in runs), failed=failed)
