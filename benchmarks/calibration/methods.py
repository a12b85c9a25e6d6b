"""Planted pairs and groups of methods, compared at equal gain and on the frontier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.calibration.planted import Planted, World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.findings.equal_gain import equal_gain
from harness.analysis.findings.findings import findings
from harness.analysis.findings.frontier import frontier
from harness.analysis.findings.paths import average, linearised
from harness.analysis.findings.reading import Reader
from harness.analysis.findings.verdicts import SIGNIFICANT
from harness.analysis.statistics import two_level
from harness.analysis.statistics.stats import Floats
from harness.core.seeds import stream
from harness.records.schema import Declared

VOLUMES = (64, 256, 1024)
TARGET, PROBES = [200], [200, 200]

Curve = tuple[tuple[float, ...], tuple[float, ...]]

PAIRS: dict[str, dict[str, Curve]] = {
    "one learns and forgets more": {"full": ((0.15, 0.4, 0.6), (0.02, 0.1, 0.25)), "lora": ((0.1, 0.3, 0.5), (0.01, 0.04, 0.08))},
    "both alike": {"full": ((0.15, 0.4, 0.6), (0.02, 0.06, 0.1)), "lora": ((0.15, 0.4, 0.6), (0.02, 0.06, 0.1))},
    "gain that falls at last": {"full": ((0.3, 0.6, 0.45), (0.05, 0.15, 0.3)), "lora": ((0.1, 0.3, 0.5), (0.01, 0.04, 0.08))},
    "little gain": {"full": ((0.05, 0.1, 0.15), (0.02, 0.05, 0.1)), "lora": ((0.03, 0.06, 0.1), (0.01, 0.02, 0.04))},
}
"""Pair → method → gains and losses at VOLUMES."""

COVERED = "95% interval holds the mean difference at equal gain"
FALSE = "said to forget more or less, though it does not"
DECLARED = Declared(headline="probe")

Cell = tuple[str, dict[str, Any], Curve]
"""A planted cell: its tuning, further labels and true curve."""


def at_equal_gain(count: int, seeds: Sequence[int] = (1, 3, 5), pairs: Sequence[str] = tuple(PAIRS)) -> list[Seen]:
    """Plant pairs of methods and return the coverage of their comparison at equal gain.

    An experiment has four models, over which the variance between seeds is pooled. The truth is the
    mean difference of the true curves over the range of gains that both truly reach.
    """
    seen = []
    for name, k, (moved, spread) in product(pairs, seeds, SPREADS.items()):
        if k > 1 or moved == "alike":
            cells: list[Cell] = [(tuning, {}, curve) for tuning, curve in PAIRS[name].items()]
            planted, table = _planted(cells, count, k, ["pair", name, str(k), moved], spread, models=4)
            of_cells = findings(table, planted, DECLARED)
            found = equal_gain(table, planted, DECLARED, findings=of_cells)
            truth = area([PAIRS[name]["full"]], [PAIRS[name]["lora"]])
            where = f"{name}; {k} seed{'s' * (k > 1)}" + (f"; seeds of the second {moved}" if moved != "alike" else "")
            widths = _widths(found, of_cells, Reader(table, planted, "target", "probe")) if k > 1 else ""
            seen.append(_covered(found, truth, where, widths))
            if truth == 0:
                wrong = (found["p_value"] < SIGNIFICANT).fillna(value=False)
                seen.append(Seen(what=FALSE, planted=where, share=float(wrong.mean()), count=len(found), most=0.065))
    return seen


SPREADS = {"alike": (0.1, 0.1), "differ twice as much": (0.1, 0.2)}
"""τ of the seeds of the first and the second method."""


def _covered(found: pd.DataFrame, truth: float, where: str, remark: str) -> Seen:
    held = ((found["low"] <= truth) & (found["high"] >= truth)).fillna(value=False)
    return Seen(what=COVERED, planted=where, share=float(held.mean()), count=len(held), least=0.93, remark=remark)


def _widths(found: pd.DataFrame, of_cells: pd.DataFrame, reader: Reader) -> str:
    """Return the mean half-width, and that at the middle of the range with paired seeds.

    The latter was the comparison of earlier versions.
    """
    former = []
    for first, second in reader.alike(of_cells):
        if first.path and second.path and (reach := min(first.path.reach, second.path.reach)) > 0:
            at = [average(path, reach / 2 - 1e-9, reach / 2 + 1e-9) for path in (first.path, second.path)]
            numbers = [linearised(path, of.by_loss, of.by_gain) for path, of in zip((first.path, second.path), at, strict=True)]
            apart = two_level.estimate([a - b for a, b in zip(*numbers, strict=True)], first.clusters, binary=False)
            former.append(math.hypot((apart.high - apart.low) / 2, two_level.unchanged(first.path.counted)))
    half = float(((found["high"] - found["low"]) / 2).mean())
    return f"half-width {100 * half:.1f} points; {100 * float(np.mean(former)):.1f} at half the range with paired seeds"


RATES = {"equal rates": 0.0, "rates that differ by 1 point": 0.01, "rates that differ by 3 points": 0.03}
"""Loss at the largest volume by which each of four rates differs from the next."""


def against_the_frontier_of_none(count: int, seeds: Sequence[int] = (3, 5), rates: Sequence[str] = tuple(RATES)) -> list[Seen]:
    """Plant a mitigation and four rates without one, of which the best forgets as much as it.

    So a verdict is false, and the estimate's mean is its bias.
    """
    seen = []
    for name, k in product(rates, seeds):
        losses = [[loss * (0.1 + RATES[name] * rank) / 0.1 for loss in (0.02, 0.06, 0.1)] for rank in range(4)]
        plain: list[Curve] = [((0.15, 0.4, 0.6), tuple(of)) for of in losses]
        cells: list[Cell] = [("full", {"learning_rate": rank + 1.0}, curve) for rank, curve in enumerate(plain)]
        cells.append(("full", {"learning_rate": 1.0, "mitigation": "replay"}, plain[0]))
        planted, table = _planted(cells, count, k, ["none", name, str(k)], (0.1,), models=1)
        found = equal_gain(table, planted, DECLARED, findings=findings(table, planted, DECLARED))
        truth = area(plain, [plain[0]])
        where = f"best of four, {name}; {k} seeds"
        apart = 100 * (found["difference"] - truth).astype(float)
        bias = f"bias {apart.mean():+.2f} ± {apart.std() / math.sqrt(len(apart)):.2f} points"
        seen.append(_covered(found, truth, where, bias))
        for words, sign in (("mitigation said to be better than every rate", 1), ("a rate said to be better than the mitigation", -1)):
            wrong = ((found["p_value"] < SIGNIFICANT) & (sign * found["difference"] > 0)).fillna(value=False)
            seen.append(Seen(what=f"{words}, though it is not", planted=where, share=float(wrong.mean()), count=len(found), most=0.035))
    return seen


FIELDS: dict[str, dict[str, Curve]] = {
    "two methods, one beaten by 5 points": {"full": ((0.2, 0.4, 0.6), (0.07, 0.11, 0.15)), "lora": ((0.2, 0.4, 0.6), (0.02, 0.06, 0.1))},
    "two methods alike": dict.fromkeys(("full", "lora"), ((0.2, 0.4, 0.6), (0.02, 0.06, 0.1))),
    "one beaten by exactly the margin": {"full": ((0.2, 0.4, 0.6), (0.04, 0.08, 0.12)), "lora": ((0.2, 0.4, 0.6), (0.02, 0.06, 0.1))},
    "one beaten by 15 points": {"full": ((0.2, 0.4, 0.6), (0.17, 0.21, 0.25)), "lora": ((0.2, 0.4, 0.6), (0.02, 0.06, 0.1))},
}
"""Experiment → method → gains and losses at VOLUMES."""


def on_the_frontier(count: int, seeds: Sequence[int] = (3, 5), fields: Sequence[str] = tuple(FIELDS)) -> list[Seen]:
    """Plant points with a true frontier and return how often each is called what it is not."""
    seen = []
    for name, k in product(fields, seeds):
        curves = FIELDS[name]
        planted, table = _planted(
            [(tuning, {}, curve) for tuning, curve in curves.items()], count, k, ["frontier", name, str(k)], (0.1, 0.1), models=1
        )
        found = frontier(findings(table, planted, DECLARED), planted)
        places = [(tuning, volume) for tuning in curves for volume in VOLUMES]
        points = np.array([(gain, -loss) for curve in curves.values() for gain, loss in zip(*curve, strict=True)])
        truth = dict(zip(places, on(points, DECLARED.margin), strict=True))
        called = found.assign(truth=[truth[tuning, volume] for tuning, volume in zip(found["tuning"], found["volume"], strict=True)])
        for is_on, wrong, right in ((True, "off", "on"), (False, "on", "off")):
            of = called[called["truth"] == is_on]
            if len(of):
                rate, found_rate = float((of["frontier"] == wrong).mean()), float((of["frontier"] == right).mean())
                what = f"point truly {right} the frontier said to be clearly {wrong}"
                remark = f"clearly {right}: {found_rate:.0%}"
                seen.append(Seen(what=what, planted=f"{name}; {k} seeds", share=rate, count=len(of), most=0.065, remark=remark))
    return seen


def on(points: Floats, margin: float) -> list[bool]:
    """Return whether nothing beats each point, nor the untuned model; higher is better in both."""
    ahead = np.round(np.array([*points, (0.0, 0.0)])[None] - points[:, None], 9)
    beaten = np.all(ahead > -margin, axis=2) & np.any(ahead > margin, axis=2)
    return [not row.any() for row in beaten]


def _planted(
    cells: Sequence[Cell], count: int, seeds: int, where: Sequence[str], spreads: Sequence[float], *, models: int
) -> tuple[Planted, pd.DataFrame]:
    """Plant the cells once for each model, and return them with their table.

    All cells of ``models`` models are measured on the same items. A seed moves the target and the
    probe of a cell together.
    """
    planted = Planted(tested=False)
    for number in range(count):
        for place, (tuning, labels, curve) in enumerate(cells):
            draw = stream(number, "calibration", *where, str(place))
            moved = draw.normal(size=seeds)
            world = World(seeds=0.0 if seeds == 1 else spreads[min(place, len(spreads) - 1)])
            for suite, right, sizes, sign, means in (("target", 0.3, TARGET, 1.0, curve[0]), ("probe", 0.7, PROBES, -1.0, curve[1])):
                asked, changes = stream(number, "calibration", *where, suite), [sign * mean for mean in means]
                of = replace(world, right=right)
                before, after = answers(draw, of, sizes, changes, count=seeds, seeds=sign * moved, asked=asked)
                for volume, at in zip(VOLUMES, after, strict=True):
                    planted.add(f"m{number}", tuning, volume, suite, suite, before, at, str(number // models), **labels)
    return planted, planted.table()


def area(first: Sequence[Curve], second: Sequence[Curve]) -> float:
    """Return the true mean difference of two methods; of several curves, the lowest counts."""
    reach = min(max(max(curve[0]) for curve in curves) for curves in (first, second))
    levels = reach * (0.1 + 0.9 * (np.arange(1000) + 0.5) / 1000)
    sides = [
        [min(forgetting(curve, level) for curve in curves if max(curve[0]) >= level) for level in levels] for curves in (first, second)
    ]
    return float(np.mean(np.array(sides[0]) - np.array(sides[1])))


def forgetting(curve: Curve, gain: float) -> float:
    """Return the true forgetting where a true path first reaches a gain.

    Beyond its largest gain, return that at its largest gain.
    """
    gains, losses = np.array([0.0, *curve[0]]), np.array([0.0, *curve[1]])
    upper = int(np.argmax(gains >= gain)) or int(np.argmax(gains))
    share = (gain - gains[upper - 1]) / (gains[upper] - gains[upper - 1])
    return float(losses[upper - 1] + share * (losses[upper] - losses[upper - 1]))
