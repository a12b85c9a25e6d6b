"""How often the check by the same-data control calls a rate too high, not settled or passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.calibration.changes import MOST_FALSE
from benchmarks.calibration.planted import Planted, World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.findings import validity
from harness.analysis.findings.findings import findings
from harness.core.seeds import stream
from harness.records.schema import Declared

METHODS = 10
"""Methods of a planted sweep, each with a control of its own."""

DECLARED = Declared(headline="probe", control={"data": "base"})
"""With the usual margin."""

NEAR = World(right=0.99)
MANY, FEW = [200, 120, 200], [120, 80, 120]
"""Items of three tasks; fewer than the suite tinyworld has, to show what few items miss."""

KINDS = {
    "99% right before, 200, 120 and 200 items": (NEAR, MANY),
    "99% right before, 120, 80 and 120 items": (NEAR, FEW),
    "99% right before, seeds vary by far more than items, 200, 120 and 200 items": (replace(NEAR, seeds=0.4), MANY),
    "99% right before, 300 items of each task": (NEAR, [300, 300, 300]),
}

HALF, FULL, DOUBLE = (share * DECLARED.margin for share in (0.5, 1.0, 2.0))
LOSSES = {"nothing": [0.0, 0.0, 0.0]}
LOSSES |= {f"{loss:g} of every task": [loss] * 3 for loss in (HALF, FULL, DOUBLE)}
LOSSES |= {f"{DOUBLE:g} of arithmetic alone": [0.0, DOUBLE, 0.0]}
"""Name → true loss of the control on each task."""

OF_OTHERS = ["nothing", f"{DOUBLE:g} of every task", f"{DOUBLE:g} of arithmetic alone"]


def checked(count: int, kinds: Sequence[str] = tuple(KINDS), losses: Sequence[str] = tuple(LOSSES), seeds: int = 3) -> list[Seen]:
    """Return how often the learning rate of a method is called too high.

    Args:
        count: number of methods of each kind and loss.
        kinds: of KINDS; those after the first only with losses of OF_OTHERS.
        losses: of LOSSES.
        seeds: of methods and controls.
    """
    seen = []
    for kind in kinds:
        for loss in losses if kind == next(iter(KINDS)) else [loss for loss in losses if loss in OF_OTHERS]:
            sweeps = -(-count // METHODS)
            found = [check for number in range(sweeps) for check in _sweep(f"{kind} {loss} {number}", *KINDS[kind], LOSSES[loss], seeds)]
            share = {check: found.count(check) / len(found) for check in validity.CHECKS}
            planted = f"{kind}; {seeds} seeds; the control lost {loss}"
            remark = f"not settled {share[validity.NOT_SETTLED]:.1%}, passed {share[validity.PASSED]:.1%}"
            most = None if any(LOSSES[loss]) else MOST_FALSE
            called = share[validity.TOO_HIGH]
            seen.append(Seen(what="rate called too high", planted=planted, share=called, count=len(found), most=most, remark=remark))
    return seen


def _sweep(name: str, world: World, sizes: Sequence[int], losses: Sequence[float], seeds: int) -> list[str]:
    """Return the checks of the methods of a sweep; each lost 10 points more than its control."""
    planted = Planted()
    for number in range(METHODS):
        for tuning, more in {"method": 0.1, "control": 0.0}.items():
            draw, asked = stream(number, "calibration", "validity", name, tuning), stream(number, "calibration", "validity", name, "items")
            moves = draw.normal(size=seeds)
            tasks = [
                answers(draw, world, [n], [-loss - more], count=seeds, seeds=moves, asked=asked)
                for n, loss in zip(sizes, losses, strict=True)
            ]
            before, after = [task for of, _ in tasks for task in of], [task for _, of in tasks for task in of[0]]
            planted.add(f"m{number}", tuning, 1, "probe", "probe", before, after)
    table = planted.table()
    table["data"] = np.where(table["tuning"] == "control", "base", "people")
    table["tuning"] = "full"
    found = findings(table, planted, DECLARED).drop_duplicates("cell")
    return found.loc[~found["is_control"].astype(bool), "control_check"].tolist()
