"""Tests whether the response depends on a law's columns, with runs or sizes as units.

Each unit has one slope of its response on the column (the logarithm of a positive one), and a
t-test compares the mean slope with 0: runs that differ in level or in slope are no evidence for a
law. The errors over items, which runs share, are added as in ``harness.analysis.fits.uncertainty``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy import stats as distributions

from harness.analysis.fits import uncertainty
from harness.analysis.fits.estimate import Points
from harness.analysis.fits.laws import Law
from harness.analysis.fits.solver import Floats, Numbers
from harness.analysis.statistics.multiple import holm

FALSE = 0.05
"""Size of the test: the share of planted constants that may be called a law.

``benchmarks/calibration/support.py`` measures it where runs differ in nothing, level or slope.
"""

SIZES = ("params_total", "params_trainable")
VOLUMES = ("volume", "train_tokens", "steps")

MIN_SIZES = 3
"""Number of sizes from which sizes are the units: a law over sizes is for further sizes too.

A size is a model, by its parameters in all."""

_WITHIN = 0.1
_NONE = 1e-9


@dataclass(frozen=True)
class Trend:
    """Dependence of the response on one column of a law.

    Attributes:
        slope: mean slope; per doubling of a positive column, else per unit of the column. None
            where it cannot be tested.
        p_value: two-sided, adjusted by Holm over the law's columns; None as ``slope``.
        units: number of slopes, or of sizes that one slope is over.
        of: what the units are: ``runs`` or ``sizes``.
        reason: why it cannot be tested, else empty.
        agrees: whether the fitted curve changes in the same direction.
    """

    slope: float | None
    p_value: float | None
    units: int
    of: str
    reason: str = ""
    agrees: bool = True


@dataclass(frozen=True)
class _Contrast:
    """A mean slope: weights of the points (n,), its variance over units, and degrees of freedom."""

    weights: Floats
    variance: float
    df: int
    units: int
    of: str


def trends(law: Law, points: Points, fitted: Floats) -> dict[str, Trend]:
    """Return column → trend, for the law's columns that differ between points.

    Args:
        law: the law.
        points: points that it was fitted to.
        fitted: the fitted curve at the points, shape (n,).
    """
    found = {name: _trend(name, law, points, fitted) for name in law.columns if np.ptp(points.columns[name]) > 0}
    tested = [name for name, one in found.items() if one.p_value is not None]
    adjusted, _ = holm([p for name in tested if (p := found[name].p_value) is not None])
    return found | {name: dataclasses.replace(found[name], p_value=float(p)) for name, p in zip(tested, adjusted, strict=True)}


def _trend(name: str, law: Law, points: Points, fitted: Floats) -> Trend:
    x = np.log2(points.columns[name]) if name in law.positive else points.columns[name]
    if name in SIZES:
        found = _over_sizes(x, points)
    else:
        found = _within_runs(x, points) if _is_within(x, points.cluster) else _between_runs(x, points)
    if isinstance(found, str):
        return Trend(None, None, 0, "sizes" if name in SIZES else "runs", found)
    slope = float(found.weights @ points.response)
    floor = _NONE * float(np.sqrt(np.mean(points.response**2))) / float(np.ptp(x))
    p = _p_value(slope, found.variance, found.df, _items(found.weights, points)) if abs(slope) > floor else 1.0
    return Trend(slope, p, found.units, found.of, agrees=slope * float(found.weights @ fitted) > 0)


def _p_value(slope: float, variance: float, df: int, items: float) -> float:
    """Return 1 − the level at which the interval slope ± √(t² v + z² u) ends at 0."""
    if items == 0.0:
        return float(2 * distributions.t.sf(abs(slope) / math.sqrt(variance), df)) if variance > 0 else 0.0

    def apart(log_p: float) -> float:
        t, z = float(distributions.t.isf(math.exp(log_p) / 2, df)), float(distributions.norm.isf(math.exp(log_p) / 2))
        return t * t * variance + z * z * items - slope * slope

    low = math.log(1e-12)
    return math.exp(optimize.brentq(apart, low, 0.0, xtol=1e-6)) if apart(low) > 0 else 1e-12


def _items(weights: Floats, points: Points) -> float:
    """Return u: the largest variance over items for any way in which points share them."""
    if not (points.error > 0).any():
        return 0.0
    moved = weights * points.error
    return max(float(np.sum(np.bincount(way, moved) ** 2)) for way in uncertainty.ways(points))


def _is_within(x: Floats, cluster: Numbers) -> bool:
    """Return whether a column varies within runs, and not by rounding alone."""
    return float(np.sum((x - _means(x, cluster)[cluster]) ** 2)) > _WITHIN * float(np.sum((x - x.mean()) ** 2))


def _means(values: Floats, group: Numbers) -> Floats:
    return np.bincount(group, values) / np.bincount(group)


def sizes_of(points: Points) -> Numbers:
    """Return the number of each point's size, from 0; all 0 where no size is known."""
    known = [points.columns[name] for name in SIZES if name in points.columns and np.isfinite(points.columns[name]).all()]
    if not known:
        return np.zeros(len(points.response), dtype=np.int64)
    return np.unique(np.stack(known), axis=1, return_inverse=True)[1].ravel()


def models_of(points: Points) -> Numbers:
    """Return the number of each point's model by its size, from 0; all 0 where none is known.

    A model tuned in two ways has two sizes by trained parameters, and is one unit.
    """
    for name in SIZES:
        if name in points.columns and np.isfinite(points.columns[name]).all():
            return np.unique(points.columns[name], return_inverse=True)[1].ravel()
    return np.zeros(len(points.response), dtype=np.int64)


def _within_runs(x: Floats, points: Points) -> _Contrast | str:
    """Return the mean of the slopes of runs, or of sizes where there are MIN_SIZES."""
    rows, size = [], []
    of = models_of(points)
    for run in range(int(points.cluster.max()) + 1):
        here = points.cluster == run
        if np.ptp(x[here]) > 0:
            apart = np.where(here, x - x[here].mean(), 0.0)
            rows.append(apart / np.sum(apart**2))
            size.append(of[here][0])
    return _mean_slope(np.array(rows), np.array(size), points)


def _mean_slope(slopes: Floats, size: Numbers, points: Points) -> _Contrast | str:
    """Return the mean of slopes, given as weights of the points, shape (units, n)."""
    sizes = np.unique(size)
    by_size = len(sizes) >= MIN_SIZES
    units = np.array([slopes[size == one].mean(axis=0) for one in sizes]) if by_size else slopes
    if len(units) < 2:
        return "one run: the variation between runs is unknown"
    found = units @ points.response
    variance = float(np.var(found, ddof=1)) / len(found)
    return _Contrast(units.mean(axis=0), variance, len(found) - 1, len(found), "sizes" if by_size else "runs")


def _between_runs(x: Floats, points: Points) -> _Contrast | str:
    """Return the slope over runs of one value each, within sizes.

    Where there are MIN_SIZES, it is the mean of their slopes.
    """
    group, size = points.cluster, sizes_of(points)
    counts = np.bincount(group)
    places, response, run_size = _means(x, group), _means(points.response, group), _means(size.astype(float), group).astype(int)
    apart = places - _means(places, run_size)[run_size]
    within = [one for one in np.unique(run_size) if np.ptp(places[run_size == one]) > 0]
    model = np.array([models_of(points)[size == one][0] for one in within])
    if len(np.unique(model)) >= MIN_SIZES:
        rows = [np.where(run_size == one, apart, 0.0) / np.sum(apart[run_size == one] ** 2) for one in within]
        return _mean_slope(np.array([(row / counts)[group] for row in rows]), model, points)
    df = len(places) - len(np.unique(run_size)) - 1
    if df < 1:
        return f"{len(places)} runs; at least {len(places) + 1 - df} are needed"
    return _regression(apart, response - _means(response, run_size)[run_size], df, (1.0 / counts, group), "runs")


def _over_sizes(x: Floats, points: Points) -> _Contrast | str:
    """Return the slope over sizes, whose runs share what is peculiar to their size.

    The mean of a size is over the volumes and shares of old data that all sizes have.
    """
    values, group = np.unique(x, return_inverse=True)
    if len(values) < MIN_SIZES:
        return f"{len(values)} sizes; at least {MIN_SIZES} are needed"
    kept = _common(conditions(points), group)
    if not kept.any():
        return "no volume that all sizes have"
    counts = np.bincount(group, kept)
    response = np.bincount(group, kept * points.response) / counts
    found = _regression(values - values.mean(), response - response.mean(), len(values) - 2, (1.0 / counts, group), "sizes")
    return _Contrast(found.weights * kept, found.variance, found.df, found.units, found.of)


def _regression(x: Floats, y: Floats, df: int, spread: tuple[Floats, Numbers], of: str) -> _Contrast:
    """Return the slope of centred means y on centred x.

    ``spread`` has the weight of a point in the mean of its group, and the group of each point.
    """
    share, group = spread
    squares = float(np.sum(x**2))
    slope = float(x @ y) / squares
    variance = float(np.sum((y - slope * x) ** 2)) / df / squares
    return _Contrast((x / squares * share)[group], variance, df, len(x), of)


def conditions(points: Points) -> list[tuple[float, ...]]:
    """Return volume and share of old data of each point, as far as they are known.

    Shares are compared to one digit, since the shares of a run differ by rounding.
    """
    volume = next((points.columns[name] for name in VOLUMES if name in points.columns and np.isfinite(points.columns[name]).all()), None)
    share = points.columns.get("inject_fraction")
    parts = [] if volume is None else [volume]
    parts += [] if share is None else [rounded(share)]
    return [tuple(float(part[i]) for part in parts) for i in range(len(points.response))]


def rounded(shares: Floats) -> Floats:
    """Return shares of old data to one digit."""
    return np.array([float(f"{value:.1g}") for value in shares])


def _common(found: Sequence[tuple[float, ...]], group: Numbers) -> np.ndarray:
    """Return which points have a condition that every group has."""
    groups: dict[tuple[float, ...], set[int]] = {}
    for one, of in zip(found, group, strict=True):
        groups.setdefault(one, set()).add(int(of))
    every = len(np.unique(group))
    return np.array([len(groups[one]) == every for one in found])


def in_words(found: Mapping[str, Trend], r2: float | None) -> str:
    """Return the verdict on a law from the trends of its columns.

    Args:
        found: column → trend.
        r2: share of the response's variance that the law explains; None where it does not vary.
    """
    tested = {name: one for name, one in found.items() if one.p_value is not None}
    if not tested:
        return f"not judged: {'; '.join(f'{name}: {one.reason}' for name, one in found.items()) or 'all columns are constant'}"
    moving = {name: one for name, one in tested.items() if (one.p_value or 0.0) < FALSE}
    still = [f"{name} ({_test(one)})" for name, one in tested.items() if name not in moving]
    if not moving:
        return f"not distinguishable from a constant (no change with {', or with '.join(still)})"
    changes = {name: f"{'rises' if (one.slope or 0.0) > 0 else 'falls'} with {name}, {_test(one)}" for name, one in moving.items()}
    if against := [changes[name] for name, one in moving.items() if not one.agrees]:
        return f"not supported (it {'; '.join(against)}, and the law does not follow)"
    if r2 is not None and r2 <= 0:
        return f"not supported (it fits worse than a constant: R2 {r2:.3g})"
    partial = f" in {' and '.join(moving)}" if len(moving) < len(found) else ""
    parts = [f"supported{partial} ({'; '.join(changes.values())})", *(f"not in {text}" for text in still)]
    return "; ".join(parts + [f"{name} not judged: {one.reason}" for name, one in found.items() if one.p_value is None])


def _test(one: Trend) -> str:
    p = one.p_value or 0.0
    return f"p {f'= {p:.2g}' if p >= 0.001 else '< 0.001'}, t-test over {one.units} {one.of}"
