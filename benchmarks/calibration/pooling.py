"""Intervals with pooled and with own variances between seeds, on the same planted sweeps.

A sweep is one suite of ITEMS items, some cells and volumes. An item's answer is planted as in
``benchmarks.calibration.planted``: difficulty against a bar, moved by the seed. Here the cells of a
sweep have the same items, and a seed's move at one volume correlates with that at another
(``KEPT_BY_SEED``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import special

from benchmarks.calibration.changes import MOST_FALSE
from benchmarks.calibration.planted import Floats
from harness.analysis.findings.verdicts import SIGNIFICANT
from harness.analysis.statistics import task_sums, two_level
from harness.analysis.statistics.pooled import SeedMeans, pooled
from harness.core.seeds import stream

ITEMS = 600
KEPT, ALIKE, TAU = 0.9, 0.5, 0.1
"""ρ, ω and τ of ``planted.World``."""

KEPT_BY_SEED = 0.7
"""Correlation of a seed's moves at two volumes."""

RISE = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Share of a cell's loss that is reached at each volume; a single volume is the last."""

COLLAPSED = 2.0
"""How far a collapsed run moves the bar, in standard deviations of difficulty."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Variation between the seeds of a planted sweep.

    Attributes:
        log_spread: standard deviation over cells of the logarithm of τ.
        one: factor of τ in the first cell.
        collapse: probability that a run collapses.
        shared: correlation of seeds of the same number in different cells.
    """

    log_spread: float = 0.0
    one: float = 1.0
    collapse: float = 0.0
    shared: float = 0.0


SWEEPS = {
    "equal variances": Sweep(),
    "log-sd ½ between cells": Sweep(log_spread=0.5),
    "one cell with 4 times the sd": Sweep(one=4.0),
    "one seed in ten collapsed": Sweep(collapse=0.1),
    "seeds correlated ½ across cells": Sweep(shared=0.5),
}
LAYOUTS = {
    "9 cells × 5 volumes": (9, 5),
    "2 cells × 5 volumes": (2, 5),
    "one cell × 5 volumes": (1, 5),
    "30 cells × one volume": (30, 1),
    "4 cells × one volume": (4, 1),
}
LOSSES = (0.2, 0.0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.4, 0.5)
"""Losses of the cells, in turn; the first cell, which may vary most, loses 20 points."""

WIDTHS = {name: 0.75 if volumes > 1 else 0.85 for name, (_, volumes) in LAYOUTS.items()}
WIDTH_COLLAPSED = 0.9
MOST_COVERAGE_LOST = 0.005
"""Promises: largest ratios of half-widths, and coverage that may be lost."""

NULLS = {
    "no change": Sweep(),
    "no change, log-sd ½ between cells": Sweep(log_spread=0.5),
    "no change, one cell with 4 times the sd": Sweep(one=4.0),
}
OF_CELLS = {name for name, sweep in (SWEEPS | NULLS).items() if sweep.log_spread or sweep.one != 1 or sweep.shared}
"""Sweeps that need several cells."""


@dataclass(frozen=True)
class Intervals:
    """Intervals of one planted sweep, shape (C, V) each.

    Attributes:
        truth: true changes.
        value: estimated changes.
        half: half-widths, with own and with pooled spreads.
        called: whether p < 0.05, with own and with pooled spreads.
    """

    truth: Floats
    value: Floats
    half: tuple[Floats, Floats]
    called: tuple[Floats, Floats]

    def covered(self, which: int) -> Floats:
        """Return whether each interval holds the true change."""
        return np.abs(self.value - self.truth) <= self.half[which]


def drawn(
    draw: np.random.Generator, sweep: Sweep, right: float, losses: Sequence[float], volumes: int, seeds: int
) -> tuple[Floats, Floats]:
    """Draw changes of items, shape (C, V, k, n), and the true mean changes, shape (C, V)."""
    cells, rise = len(losses), np.array(RISE[-volumes:])
    tau = TAU * np.exp(sweep.log_spread * draw.normal(size=cells))
    tau[0] *= sweep.one
    moves = np.sqrt(sweep.shared) * draw.normal(size=(1, seeds)) + np.sqrt(1 - sweep.shared) * draw.normal(size=(cells, seeds))
    moves = np.sqrt(KEPT_BY_SEED) * moves[:, None] + np.sqrt(1 - KEPT_BY_SEED) * draw.normal(size=(cells, volumes, seeds))
    bars = special.ndtri(right - np.outer(losses, rise))
    widened = np.sqrt(1 + tau**2)[:, None]
    collapsed = draw.random((cells, 1, seeds)) < sweep.collapse
    bar = (widened * bars)[..., None] + tau[:, None, None] * moves - COLLAPSED * collapsed
    difficulty = draw.normal(size=ITEMS)
    item = np.sqrt(ALIKE) * draw.normal(size=(cells, 1, 1, ITEMS)) + np.sqrt(1 - ALIKE) * draw.normal(size=(cells, 1, seeds, ITEMS))
    after = KEPT * difficulty + np.sqrt(1 - KEPT**2) * item < bar[..., None]
    truth = (1 - sweep.collapse) * special.ndtr(bars) + sweep.collapse * special.ndtr(bars - COLLAPSED / widened) - right
    return after - (difficulty < special.ndtri(right)).astype(np.float64), truth


def analysed(changes: Floats, truth: Floats) -> Intervals:
    """Return the intervals of a sweep, with own and with pooled spreads."""
    cells, volumes, seeds, items = changes.shape
    means, changed = changes.mean(axis=3), (changes**2).mean(axis=(2, 3))
    spreads = pooled([SeedMeans(means[cell], changed[cell]) for cell in range(cells)], items)
    over = changes.mean(axis=2)
    item = over.var(axis=2, ddof=1) / items
    centred = changes - over[:, :, None] - means[..., None] + means.mean(axis=2)[:, :, None, None]
    rest = (centred**2).sum(axis=(2, 3)) / (seeds * (seeds - 1)) / items / (items - 1)
    found = np.zeros((4, cells, volumes))
    for at in product(range(cells), range(volumes)):
        sums = task_sums.TaskSums((means[at],), item[at], (rest[at],), items, items, True, changed[at] * items, None, None)
        ways = [two_level.combined([sums]), two_level.combined([sums], spreads=[spreads[at[0]][at[1]]])]
        found[(slice(None), *at)] = [*((way.high - way.low) / 2 for way in ways), *(way.p_value < SIGNIFICANT for way in ways)]
    return Intervals(truth, means.mean(axis=2), (found[0], found[1]), (found[2], found[3]))


@dataclass(frozen=True, kw_only=True)
class Row:
    """Intervals with own and with pooled spreads in one kind of planted sweep.

    Attributes:
        planted: description of the sweeps.
        layout: cells and volumes.
        seeds: seeds of each cell.
        covered: share of intervals that hold the true change, with own and with pooled spreads.
        first: the same in the first cell.
        error: Monte-Carlo standard error of the difference of ``covered``.
        half: mean half-width, with own and with pooled spreads.
        called: share of changes called lost or gained; for nulls, the false calls.
        found: the same where between 3 and 7 points are lost; NaN where none are.
        narrowest: largest ratio of half-widths that is promised.
        is_null: whether nothing changes.
    """

    planted: str
    layout: str
    seeds: int
    covered: tuple[float, float]
    first: tuple[float, float]
    error: float
    half: tuple[float, float]
    called: tuple[float, float]
    found: tuple[float, float]
    narrowest: float
    is_null: bool

    @property
    def failures(self) -> list[str]:
        """Return the promises that are not kept."""
        coverage = "coverage" if self.covered[1] < self.covered[0] - MOST_COVERAGE_LOST else ""
        width = "width" if self.half[1] > self.narrowest * self.half[0] else ""
        calls = "false calls" if self.is_null and self.called[1] > MOST_FALSE else ""
        return [name for name in (coverage, width, calls) if name]


def rows(count: int, *, seeds: Sequence[int] = (3, 5), layouts: Sequence[str] = tuple(LAYOUTS)) -> Iterator[Row]:
    """Plant ``count`` sweeps of each kind and yield the results."""
    for right, layout, (name, sweep), k in product((0.6, 0.98), layouts, [*SWEEPS.items(), *NULLS.items()], seeds):
        cells, volumes = LAYOUTS[layout]
        if cells == 1 and name in OF_CELLS:
            continue
        losses = [0.0 if name in NULLS else LOSSES[cell % len(LOSSES)] for cell in range(cells)]
        draws = (stream(number, "pooling", name, layout, str(right), str(k)) for number in range(count))
        found = [analysed(*drawn(draw, sweep, right, losses, volumes, k)) for draw in draws]
        covered = np.array([[one.covered(way).mean() for way in (0, 1)] for one in found])
        middling = [(-one.truth >= 0.03) & (-one.truth <= 0.07) for one in found]
        yield Row(
            planted=f"{name}; {right:.2f} right before",
            layout=layout,
            seeds=k,
            covered=_both(covered),
            first=_both([[one.covered(way)[0].mean() for way in (0, 1)] for one in found]),
            error=float((covered[:, 1] - covered[:, 0]).std(ddof=1) / np.sqrt(count)),
            half=_both([[one.half[way].mean() for way in (0, 1)] for one in found]),
            called=_both([[one.called[way].mean() for way in (0, 1)] for one in found]),
            found=_both([[one.called[way][at].mean() for way in (0, 1)] for one, at in zip(found, middling, strict=True) if at.any()]),
            narrowest=WIDTH_COLLAPSED if sweep.collapse else WIDTHS[layout],
            is_null=name in NULLS,
        )


def _both(values: Sequence[Sequence[float]] | Floats) -> tuple[float, float]:
    own, of_pool = np.mean(values, axis=0) if len(values) else (np.nan, np.nan)
    return float(own), float(of_pool)


HEADER = ["planted", "cells", "seeds", "coverage", "of the first cell", "half-width, points", "ratio", "called", "found", "fails"]


def markdown(found: Sequence[Row], count: int) -> str:
    """Return the results as a Markdown table, with own → with pooled spreads."""
    lines = [HEADER, ["---"] * len(HEADER)]
    for row in found:
        arrows = [f"{_points(own)} → {_points(of_pool)}" for own, of_pool in (row.covered, row.first, row.half, row.called)]
        power = "" if np.isnan(row.found[0]) else f"{100 * row.found[0]:.0f} → {100 * row.found[1]:.0f}"
        ratio = f"{row.half[1] / row.half[0]:.2f} (at most {row.narrowest})"
        failures = f"**{', '.join(row.failures)}**" if row.failures else ""
        coverage = f"{arrows[0]} (± {100 * row.error:.1f})"
        lines.append([row.planted, row.layout, str(row.seeds), coverage, arrows[1], arrows[2], ratio, arrows[3], power, failures])
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    failing = sum(bool(row.failures) for row in found)
    first = f"{count} planted sweeps of each kind; numbers in percent, with the cell's own spread → with the pooled one."
    return f"{first}\n\n{table}\n{failing} of {len(found)} kinds fail.\n"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
