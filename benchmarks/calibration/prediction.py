"""Predictions of laws on planted sweeps: coverage, and errors next to those of naive baselines.

Truths of volume are planted in one cell or nine, whose factors are 0.15 to 0.5 and whose shapes
differ a little (log standard deviations of 0.4 in scale and 0.15 in steepness), or by as much as
``unlike`` says. Three truths are those of no law: an exponential approach to the plateau, a power
law that ends just beyond the points, and a plateau in size times one in volume. A run has an effect
on all of its volumes, additive or in proportion to what is lost, and each point has noise; errors
over items are shared by all runs and correlated along volumes. No results folder is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.calibration.seen import Seen
from harness.analysis.fits import fitting
from harness.analysis.fits.fitting import Fit
from harness.core.seeds import stream

VOLUMES = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])
EVERY = np.append(VOLUMES, 2048.0)
SIZES = np.array([145_536.0, 350_000.0, 801_384.0, 2_100_000.0, 8_400_000.0])
SWEEPS = 20
AT_LEAST = 0.85
ALONG = 0.7


@dataclass(frozen=True)
class World:
    """Standard deviations of a planted sweep.

    Attributes:
        name: name of the world.
        runs: of runs.
        own: of each point.
        proportional: whether a run's effect is in proportion to what is lost; ``runs`` is then that
            at the largest volume.
        items: of each point over items, which is its stderr.
    """

    name: str
    runs: float = 0.02
    own: float = 0.01
    proportional: bool = False
    items: float = 0.0


PLAIN = World("runs 0.02, points 0.01")
SHARES = World("runs 0.03 in proportion, points 0.005", runs=0.03, own=0.005, proportional=True)
ITEMS = World("runs 0.02, items 0.02, all shared", own=0.0, items=0.02)

Curve = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Scale and steepness of each cell, shape (c, 1), and volumes to curves with a factor of 1."""


def _hill(scale: np.ndarray, steep: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + (300 * scale / at) ** (1.2 * steep)))


def _early(scale: np.ndarray, steep: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + (3000 * scale / at) ** (1.1 * steep)))


def _exponential(scale: np.ndarray, steep: np.ndarray, at: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return np.asarray(1 - np.exp(-at / (300 * scale)))


def _saturating(scale: np.ndarray, steep: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(0.0, 1 - (40 * scale**0.5 / at) ** (0.7 * steep)))


def _power(scale: np.ndarray, steep: np.ndarray, at: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return np.asarray(0.6 * (at / 1024) ** (0.5 * steep))


def _ending(scale: np.ndarray, steep: np.ndarray, at: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return np.asarray(0.6 * np.minimum(at / 1024, 1.1) ** (0.5 * steep))


@dataclass(frozen=True)
class Truth:
    """A planted curve, the law that is fitted to it, and how the cells' shapes differ.

    Attributes:
        name: name of the curve.
        curve: the curve.
        law: law that is fitted.
        is_right: whether the curve is one of the law's.
        promised: whether the law's intervals are promised to hold a new run.
        unlike: how much the cells' shapes differ, as a multiple of a little.
    """

    name: str
    curve: Curve
    law: str
    is_right: bool = True
    promised: bool = True
    unlike: float = 1.0


TRUTHS = [
    Truth("hill", _hill, "hill"),
    Truth("hill, unlike shapes", _hill, "hill", unlike=2.5),
    Truth("saturating_power", _saturating, "saturating_power"),
    Truth("power", _power, "power"),
    Truth("hill, saturation not seen yet", _early, "hill"),
    Truth("exponential saturation", _exponential, "hill", is_right=False),
    Truth("exponential saturation", _exponential, "saturating_power", is_right=False),
    Truth("power", _power, "hill", is_right=False, promised=False),
    Truth("hill", _hill, "power", is_right=False, promised=False),
    Truth("power up to 1.1 times the largest volume, then flat", _ending, "hill", is_right=False, promised=False),
]


def planted(truth: Truth, world: World, cells: int, seeds: int, draw: np.random.Generator) -> np.ndarray:
    """Return forgetting by cell, run and volume, with one more run and one more volume."""
    scale = np.exp(0.4 * truth.unlike * draw.normal(size=(cells, 1)))
    steep = np.exp(0.15 * truth.unlike * draw.normal(size=(cells, 1)))
    found = draw.uniform(0.15, 0.5, size=(cells, 1)) * truth.curve(scale, steep, EVERY[None, :])
    effect = world.runs * draw.normal(size=(cells, seeds + 1, 1))
    lost = (found / found[:, [4]])[:, None] if world.proportional else np.ones((1, 1, 1))
    items = draw.normal(size=found.shape)
    for place in range(1, len(EVERY)):
        items[:, place] = ALONG * items[:, place - 1] + np.sqrt(1 - ALONG**2) * items[:, place]
    noise = world.own * draw.normal(size=(cells, seeds + 1, len(EVERY)))
    return np.asarray((found + world.items * items)[:, None] + effect * lost + noise)


def frames(response: np.ndarray, world: World) -> list[pd.DataFrame]:
    """Return the points of each cell, from responses by cell, run and volume."""
    cells, runs, volumes = response.shape
    at, run = np.tile(EVERY[:volumes], runs), np.repeat(np.arange(runs), volumes)
    shared = {"volume": at} | ({"stderr": world.items} if world.items else {})
    return [pd.DataFrame({**shared, "run_id": run, "forgetting": response[cell].ravel()}) for cell in range(cells)]


def of_volume(truth: Truth, world: World, cells: int, seeds: int, sweeps: int) -> list[Seen]:
    """Return how a law predicts a new run at twice the largest volume, and the largest volume.

    The errors at the held-out largest volume are mean absolute errors over runs, next to those of
    the mean over runs at the last volume before it.
    """
    draw = stream(0, "calibration", "prediction", truth.name, truth.law, world.name, f"{cells} {seeds}")
    held, width, errors = [], [], []
    for _ in range(sweeps):
        found = planted(truth, world, cells, seeds, draw)
        for fit, new in zip(_fits(frames(found[:, :seeds, :5], world), truth.law), found[:, seeds, 5], strict=True):
            one = fitting.predict(fit, {"volume": EVERY[5]})
            low, high = (one.low, one.high) if one.low is not None and one.high is not None else (np.nan, np.nan)
            held.append(low <= new <= high)
            width.append((high - low) / 2)
        fits, true = _fits(frames(found[:, :seeds, :4], world), truth.law), found[:, :seeds, 4]
        guess = np.array([fitting.predict(fit, {"volume": EVERY[4]}).value for fit in fits])
        last = found[:, :seeds, 3].mean(axis=1)
        errors.append([np.mean(np.abs(true - one[:, None])) for one in (guess, last)])
    what = f"{truth.name}, by {truth.law}; {cells} cell{'s' if cells > 1 else ''}, {seeds} seeds; {world.name}"
    covered = Seen(
        what="90% interval holds a new run at twice the largest volume",
        planted=what,
        share=float(np.mean(held)),
        count=len(held),
        least=AT_LEAST if truth.promised else None,
        remark=f"median half width {100 * np.nanmedian(width):.1f} points",
    )
    return [covered, _beats("same as the last volume", what, np.array(errors), is_right=truth.is_right)]


def _fits(points: Sequence[pd.DataFrame], law: str) -> list[Fit]:
    fits = [fit for fit in fitting.fit_cells(points, law, judge=False) if isinstance(fit, Fit)]
    if len(fits) < len(points):
        raise ValueError(f"a planted cell has no {law}")
    return fits


def _beats(naive: str, planted: str, errors: np.ndarray, *, is_right: bool) -> Seen:
    law, other = 100 * errors.mean(axis=0)
    return Seen(
        what=f"sweeps in which the law has a smaller held-out error than “{naive}”",
        planted=planted,
        share=float(np.mean(errors[:, 0] < errors[:, 1])),
        count=len(errors),
        least=0.5 if is_right else None,
        remark=f"mean errors {law:.2f} and {other:.2f} points",
    )


def _sum(size: np.ndarray, volume: np.ndarray) -> np.ndarray:
    return np.asarray(0.8 - (20_000 / size) ** 0.5 - (32 / volume) ** 0.7)


def _product(size: np.ndarray, volume: np.ndarray) -> np.ndarray:
    return np.asarray(0.8 * (1 - (20_000 / size) ** 0.5) * (1 - np.exp(-volume / 300)))


def _tokens(size: np.ndarray, volume: np.ndarray) -> np.ndarray:
    return np.asarray(0.4 * (40 * volume) ** 0.4 / size**0.3 + 0.01)


Curve2 = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Sizes and volumes to forgetting."""

OF_SIZE: list[tuple[str, Curve2, str, bool]] = [
    ("shifted_power", _sum, "shifted_power", True),
    ("power of tokens and size", _tokens, "injection", True),
    ("a plateau in size times an exponential one", _product, "shifted_power", False),
]


def of_size(name: str, curve: Curve2, law: str, seeds: int, sweeps: int, *, right: bool) -> list[Seen]:
    """Return how a law of size predicts a new run at four times the largest size.

    It is fitted to four sizes at five volumes; for the held-out error, to three.
    """
    draw, held, errors = stream(0, "calibration", "prediction", name, str(seeds)), [], []
    size, run, volume = (grid.ravel() for grid in np.meshgrid(SIZES, np.arange(seeds + 1), VOLUMES, indexing="ij"))
    at = pd.DataFrame({"params_total": size, "params_trainable": size, "steps": volume / 8, "train_tokens": 40 * volume})
    at = at.assign(volume=volume, inject_fraction=0.0)
    known, place = run < seeds, int(np.flatnonzero((size == SIZES[4]) & (run == seeds) & (volume == VOLUMES[4]))[0])
    for _ in range(sweeps):
        effect = np.repeat(0.02 * draw.normal(size=len(SIZES) * (seeds + 1)), len(VOLUMES))
        response = curve(size, volume) + effect + 0.01 * draw.normal(size=len(at))
        points = at.assign(forgetting=response, run_id=[f"{one:.0f}-{which}" for one, which in zip(size, run, strict=True)])
        fit = fitting.fit(points[known & (size < SIZES[4])], law, judge=False)
        one = fitting.predict(fit, {str(column): float(value) for column, value in at.iloc[place].items()})
        held.append(one.low is not None and one.high is not None and one.low <= response[place] <= one.high)
        rest, largest = points[known & (size < SIZES[3])], points[known & (size == SIZES[3])]
        guess = fitting.fit(rest, law, judge=False).band(largest)["value"].to_numpy()
        naive = rest.groupby("volume")["forgetting"].mean().reindex(largest["volume"]).to_numpy()
        errors.append([np.mean(np.abs(largest["forgetting"].to_numpy() - other)) for other in (guess, naive)])
    what = f"{name}, by {law}; 4 sizes at 5 volumes, {seeds} seeds; {PLAIN.name}"
    covered = Seen(
        what="90% interval holds a new run at four times the largest size",
        planted=what,
        share=float(np.mean(held)),
        count=sweeps,
        least=AT_LEAST,
    )
    return [covered, _beats("mean of the other sizes", what, np.array(errors), is_right=right)]


def seen(*, quick: bool = False) -> list[Seen]:
    """Return all numbers; ``quick`` are a few, in seconds."""
    if quick:
        return [*of_volume(TRUTHS[0], PLAIN, 9, 3, 3), *of_volume(TRUTHS[3], PLAIN, 9, 3, 3)]
    found = []
    for truth in TRUTHS:
        worlds = [PLAIN, SHARES, ITEMS] if truth.name in ("hill", "power") and truth.is_right else [PLAIN]
        counts = (3, 5) if truth.is_right or truth.curve is _exponential else (3,)
        for world, cells, seeds in itertools.product(worlds, (1, 9), counts):
            found += of_volume(truth, world, cells, seeds, 4 * SWEEPS if cells == 1 else SWEEPS)
    for name, curve, law, right in OF_SIZE:
        for seeds in (3, 5):
            found += of_size(name, curve, law, seeds, 2 * SWEEPS, right=right)
    return found
