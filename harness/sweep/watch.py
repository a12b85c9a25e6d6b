"""Watching a sweep from disk, while workers elsewhere carry it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.core.display import Display
from harness.records.store import Experiment
from harness.records.sweep_schema import Unit
from harness.sweep.claims import Claims
from harness.sweep.states import UnitStates
from harness.sweep.tally import Tally, tally

if TYPE_CHECKING:
    from harness.sweep.launchers.choose import Work

WATCH_SECONDS = 5.0
"""Between two looks."""

QUIET_SECONDS = 120.0
"""A sweep has stopped if for so long no worker was in the queue and no claim was alive."""


def watch(work: Work, display: Display, waiting: Callable[[], bool]) -> Tally:
    """Show progress until each unit is done or failed, or no worker is left.

    Args:
        work: the sweep.
        display: shows progress.
        waiting: returns whether a worker is in the queue or runs.
    """
    states = UnitStates(work.experiment, Claims(work.experiment, sweep=work.sweep.id))
    last_alive, total = time.monotonic(), sum(unit.cost for unit in work.units)
    runs = [unit for unit in work.units if unit.kind == "run"]
    while left := [unit for unit in work.units if states.of(unit) in {"pending", "running"}]:
        display.runs(sum(unit not in left for unit in runs), len(runs))
        working = _working(work.experiment, left, states)
        display.workers(working, 1 - sum(unit.cost for unit in left) / total)
        if working or waiting():
            last_alive = time.monotonic()
        elif time.monotonic() - last_alive > QUIET_SECONDS:
            display.say("no worker is in the queue or alive; run the same command again to resume")
            break
        time.sleep(WATCH_SECONDS)
    found = tally(work.units, states)
    unfinished = [unit for unit in work.units if unit.kind != "baseline" and states.of(unit) not in {"done", "failed"}]
    found.failed += [(unit.label, "not done: no worker is left") for unit in unfinished]
    return found


def _working(experiment: Experiment, units: Sequence[Unit], states: UnitStates) -> list[tuple[str, str, int, int]]:
    """Return node and label, stage and progress of the units that a living worker has."""
    claims = [(unit, experiment.claims.last(unit.id)) for unit in units]
    return [
        (f"{claim.node} {unit.label}", claim.stage, claim.finished, claim.total)
        for unit, claim in claims
        if claim and states.claims.alive(claim)
    ]
