"""Contrasts with a control, verdicts of one run, and counts of verdicts over cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from benchmarks.calibration.changes import LOSS, MOST_FALSE, NULL
from benchmarks.calibration.planted import Planted, World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.findings import verdicts
from harness.analysis.findings.findings import findings
from harness.analysis.table.columns import SUITE_TASK
from harness.core.seeds import stream

SIZES = [400, 400]
METHODS = 9
"""Methods of a planted sweep, each with a control of its own where there are controls."""

CONTROLLED = replace(NULL, control={"data": "base"})

OF_CONTRASTS = {
    "all seeds move half of the same items": World(),
    "seeds vary by far more than items": World(seeds=0.4),
    "98% right before": World(right=0.98),
}


def contrasts(count: int, kinds: Sequence[str] = tuple(OF_CONTRASTS), seeds: int = 3) -> list[Seen]:
    """Return how often a method is told from its control, by contrast and by two intervals.

    Both methods and controls lost LOSS; a method lost as much, or LOSS more. Two intervals tell
    them apart where they do not overlap.

    Args:
        count: number of methods of each kind.
        kinds: of OF_CONTRASTS.
        seeds: of methods and controls.
    """
    seen = []
    for name, more in product(kinds, (0.0, LOSS)):
        found = [_controlled(f"{name} {more} {number}", OF_CONTRASTS[name], more, seeds) for number in range(-(-count // METHODS))]
        rows = pd.concat(found, ignore_index=True)
        called = rows["contrast_verdict"].isin(["worse", "better"])
        where = f"{name}; 800 items; {seeds} seeds; the control lost {LOSS}, the method {f'{more} more' if more else 'as much'}"
        apart = (rows["delta_high"] < rows["control_low"]) | (rows["delta_low"] > rows["control_high"])
        what = "told from its control" if more else "false worse or better than the control"
        remark = f"{apart.mean():.1%} by intervals that do not overlap"
        most = None if more else MOST_FALSE
        seen.append(Seen(what=what, planted=where, share=float(called.mean()), count=len(rows), most=most, remark=remark))
    return seen


def _controlled(name: str, world: World, more: float, seeds: int) -> pd.DataFrame:
    """Return the headlines of METHODS methods next to those of their controls."""
    planted = Planted()
    for number in range(METHODS):
        draw = stream(number, "calibration", "contrast", name)
        for tuning, change in {"method": -LOSS - more, "control": -LOSS}.items():
            asked = stream(number, "calibration", "contrast", name, "items")
            before, after = answers(draw, world, SIZES, [change], count=seeds, asked=asked)
            planted.add(f"m{number}", tuning, 1, "probe", "probe", before, after[0])
    table = planted.table()
    table["data"] = table["tuning"].map({"method": "people", "control": "base"}).astype("string")
    table["tuning"] = "full"
    found = findings(table, planted, CONTROLLED)
    found = found[found["task"] == SUITE_TASK]
    controls = found[found["is_control"]].set_index("model")
    ends = {f"control_{end}": found["model"].map(controls[f"delta_{end}"]) for end in ("low", "high")}
    return found.assign(**ends)[~found["is_control"].astype(bool)]


def one_run(count: int, sizes: Sequence[int] = (60, 200, 800), rights: Sequence[float] = (0.6, 0.98)) -> list[Seen]:
    """Return the share of single runs without a change that are falsely called lost or gained."""
    seen = []
    for right, n in product(rights, sizes):
        planted = Planted()
        for number in range(count):
            draw = stream(number, "calibration", "one run", str(right), str(n))
            before, after = answers(draw, World(right=right, seeds=0.0), [n], [0.0], count=1)
            planted.add(f"m{number}", "full", 1, "probe", "probe", before, after[0])
        rows = findings(planted.table(), planted, NULL)
        rows = rows[rows["task"] == SUITE_TASK]
        called = rows["verdict"].isin(verdicts.CALLED)
        exact = float((rows["p_value"] < verdicts.SIGNIFICANT).mean())
        where = f"one task of {n} items, {right:.0%} right before; 1 seed"
        share, remark = float(called.mean()), f"{exact:.1%} by the exact p"
        seen.append(Seen(what="false lost or gained, mid-p", planted=where, share=share, count=count, most=MOST_FALSE, remark=remark))
    return seen


def counts(sweeps: int, seeds: Sequence[int] = (1, 3)) -> list[Seen]:
    """Return how often a count of verdicts over METHODS methods without a change names any."""
    seen = []
    for k in seeds:
        rows = [_unchanged(sweep, k) for sweep in range(sweeps)]
        adjusted = [verdicts.counted(of["verdict"], verdicts.unadjusted(of)) for of in rows]
        named = np.mean([any(verdict in verdicts.CALLED for verdict in of) for of in adjusted])
        alone = np.mean([of["verdict"].isin(verdicts.CALLED).any() for of in rows])
        where = f"{METHODS} methods without a change; 800 items; {k} seed{'s' * (k > 1)}"
        what, remark = "a count names a method as lost or gained", f"{alone:.1%} without adjustment"
        seen.append(Seen(what=what, planted=where, share=float(named), count=sweeps, most=MOST_FALSE, remark=remark))
    return seen


def _unchanged(sweep: int, seeds: int) -> pd.DataFrame:
    """Return the headlines of METHODS methods without a change, as a sweep of their own."""
    planted = Planted()
    for number in range(sweep * METHODS, (sweep + 1) * METHODS):
        draw = stream(number, "calibration", "counts", str(seeds))
        before, after = answers(draw, World(seeds=0.0 if seeds == 1 else World.seeds), SIZES, [0.0], count=seeds)
        planted.add(f"m{number:05}", "full", 1, "probe", "probe", before, after[0])
    found = findings(planted.table(), planted, NULL)
    return found[found["task"] == SUITE_TASK]
