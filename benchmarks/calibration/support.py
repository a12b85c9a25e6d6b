"""How often a law is called supported: of planted constants, and of planted laws.

Runs of five volumes differ in nothing, in level, or in the slope of their forgetting (mean slope 0
for constants); items may err alike in all seeds. A run's point is the truth, plus effects of its
run and size, plus noise. No results folder is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.calibration import fits
from benchmarks.calibration.fits import NEW, SIZES, Planted
from benchmarks.calibration.seen import Seen
from harness.analysis.fits import fitting
from harness.core.seeds import stream

AT_MOST = 0.065
SEEDS = (3, 5, 8)
FEW = (3, 5, 8)
POINTS = 0.01


@dataclass(frozen=True)
class World:
    """Standard deviations in which planted runs differ, in forgetting.

    Attributes:
        name: name of the world.
        level: between runs.
        slope: of the slopes of runs, per doubling of the volume.
        items: of each volume over items, common to all seeds; it is the points' stderr.
        size_level, size_slope: between sizes, as ``level`` and ``slope``.
    """

    name: str
    level: float = 0.0
    slope: float = 0.0
    items: float = 0.0
    size_level: float = 0.0
    size_slope: float = 0.0


RUNS = [
    World("runs differ in nothing"),
    World("runs differ in level, sd 0.02", level=0.02),
    World("runs differ in slope, sd 0.01 a doubling", slope=0.01),
    World("runs differ in slope, items err alike in all seeds, sd 0.02", slope=0.01, items=0.02),
]
OVER_SIZES = [
    World("sizes differ in slope, sd 0.01 a doubling", slope=0.003, size_slope=0.01),
    World("sizes differ in level, sd 0.05", level=0.01, size_level=0.05),
]
ONE = SIZES[:1]

CELL = [Planted(law, f"{law}, one cell", {}, ONE) for law in ("power", "linear", "kl")]
SEVERAL = [Planted("linear", "linear, four sizes", {}), Planted("injection", "injection, four sizes", {})]
TRUE = [
    (Planted("power", "power, one cell", {"c": 0.006, "k": 0.5}, ONE), RUNS[2]),
    (Planted("power", "power, one cell, a fifth as steep", {"c": 0.0012, "k": 0.5}, ONE), RUNS[2]),
    (Planted("linear", "linear, four sizes", {"slope": -0.4, "intercept": 0.9}), RUNS[2]),
    (Planted("kl", "kl, four sizes", {"a": 0.5, "b": -0.2}), RUNS[2]),
    (Planted("injection", "injection, four sizes", {"A": 0.4, "b": 0.4, "a": 0.3, "E": 0.01}), RUNS[2]),
    (Planted("shifted_power", "shifted_power, four sizes", {"s": 0.8, "a": 20_000.0, "alpha": 0.5, "b": 4.0, "beta": 0.7}), RUNS[2]),
]


def measured(at: pd.DataFrame, truth: np.ndarray, world: World, draw: np.random.Generator) -> pd.DataFrame:
    """Return the points with the effects of a world."""
    doublings = np.log2(at["volume"].to_numpy() / 64.0)
    found = truth + POINTS * draw.normal(size=len(at))
    for column, level, slope in [("run_id", world.level, world.slope), ("params_total", world.size_level, world.size_slope)]:
        unit, names = pd.factorize(at[column])
        found = found + level * draw.normal(size=len(names))[unit] + slope * draw.normal(size=len(names))[unit] * doublings
    volume, names = pd.factorize(at["volume"])
    found = found + world.items * draw.normal(size=len(names))[volume]
    return at.assign(forgetting=found, stderr=world.items or np.nan)


def share(planted: Planted, world: World, seeds: int, sweeps: int, whole: str = "supported") -> float:
    """Return the share of planted sweeps whose verdict begins with ``whole``.

    Without parameters, forgetting is 0.05 everywhere.
    """
    at = fits.design(planted, seeds)
    at = at[(at["seed"] < seeds) & (at["volume"] < NEW)].reset_index(drop=True)
    truth = fits.curve(planted, at) if planted.parameters else np.full(len(at), 0.05)
    draw = stream(0, "calibration", "support", planted.name, world.name, str(seeds))
    verdicts = [fitting.fit(measured(at, truth, world, draw), planted.law, judge=False).verdict for _ in range(sweeps)]
    return float(np.mean([verdict.startswith(whole) for verdict in verdicts]))


def share_of_rows(law: str, count: int, sweeps: int) -> float:
    """Return the share of constants for which a law is called supported.

    There are ``count`` runs of one point each, without stderr.
    """
    draw, places = stream(0, "calibration", "few points", law, str(count)), np.arange(count)
    at = pd.DataFrame({"volume": 64.0 * 2.0**places, "finetune_loss": 2.0 - places / (count - 1), "kl": 0.1 * 1.6**places})
    flat = (at.assign(forgetting=0.05 + POINTS * draw.normal(size=count), run_id=places) for _ in range(sweeps))
    return float(np.mean([fitting.fit(one, law, judge=False).verdict.startswith("supported") for one in flat]))


def judged(sweeps: int, seeds: Sequence[int] = SEEDS, *, quick: bool = False) -> list[Seen]:
    """Return how often constants, and how often planted laws, are called supported.

    With ``quick``, one law in the two worlds where runs differ in slope.
    """
    power, *others = CELL
    asked = [(power, world, count) for world in (RUNS[2:] if quick else RUNS) for count in seeds]
    if not quick:
        asked += [(one, RUNS[2], count) for one in others for count in seeds]
        asked += [(one, world, seeds[0]) for one in SEVERAL for world in OVER_SIZES]
    found = [
        Seen(
            what="constant called supported",
            planted=f"{one.name}; {world.name}; {count} seeds",
            share=share(one, world, count, sweeps),
            count=sweeps,
            most=AT_MOST,
        )
        for one, world, count in asked
    ]
    for count in () if quick else FEW:
        told = f"power, {count} runs of one point each"
        found.append(
            Seen(what="constant called supported", planted=told, share=share_of_rows("power", count, sweeps), count=sweeps, most=AT_MOST)
        )
    of_laws = max(sweeps // 5, 20)
    return found + [
        Seen(
            what="true law called supported",
            planted=f"{one.name}; {world.name}; {count} seeds",
            share=share(one, world, count, of_laws, "supported ("),
            count=of_laws,
        )
        for one, world in TRUE[: 1 if quick else None]
        for count in seeds
    ]
