"""Totals of a sweep, for the last lines and the exit code of its command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.records.sweep_schema import Unit
from harness.sweep.states import UnitStates


@dataclass
class Tally:
    """Numbers of runs by how they ended; ``failed`` has (label, reason) of each."""

    done: int = 0
    already_done: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def tally(units: Sequence[Unit], states: UnitStates) -> Tally:
    """Return how the runs of some units ended, carried out by any process.

    A run is done with all its measurements.
    """
    runs: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.kind != "baseline":
            runs.setdefault(unit.run_id, []).append(unit)
    failed = []
    for of in runs.values():
        bad = [unit for unit in of if states.of(unit) == "failed"]
        of_run = [unit for unit in bad if unit.kind == "run"]  # what a failed run never reached is not counted again
        failed += [(unit.label, states.failure(unit)) for unit in of_run or bad]
    return Tally(done=sum(all(states.of(unit) == "done" for unit in of) for of in runs.values()), failed=failed)
