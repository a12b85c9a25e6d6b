"""Variance between seeds, pooled over the cells of a sweep.

The spread of three seeds has two degrees of freedom, so the width of an interval from it is mostly
noise. The cells of a sweep were measured on the same items, and the more items change, the more
seeds differ. So the variance s² of a cell's seed means at a volume is modelled as

    s² ~ λ_c · s0²(m) · χ²_d / d,   s0²(m) = e^a (m + 1/(2n))^b,   1/λ_c ~ χ²_d0 / d0,

where m is the share of the n items that changed (for a metric that is not 0 or 1 the mean square of
the changes), d the number of seeds minus 1, and λ_c the cell's own ratio to the trend, common to
its volumes. λ integrated out, r_c = mean of s² / s0² over the volumes of a cell is distributed as
F(d_c, d0), with d_c = Σ d / (1 + (V − 1) ρ²): V volumes of the same runs are not V independent
spreads, since two variances of correlated normal numbers correlate by the square ρ² of their
correlation. a, b and d0 maximise this likelihood with weak priors (b normal, mean 1, sd 0.5; log d0
normal, mean log 6, sd 1.5). The variance of a cell at a volume is then

    s0²(m) (d0 + d_c r_c) / (d0 + d_c),

with degrees of freedom f so that 2/f = 2/(d0 + d_c) + (d0 / (d0 + d_c))² · Var(log s0²(m)): with
few cells the trend is itself uncertain, and a single cell has no more than its own d_c. Where f <
d, far from the other shares of changed items, s² and d are the cell's own. A cell far above the
others, P(F > r_c) < FAR, keeps its own ratio r_c with d_c degrees of freedom.

Volumes at which no seed differs count in r_c, not in the likelihood: where hardly an item changes,
seeds have equal counts, and a variance of 0 would make the trend as steep as it can be.

Where a run has collapsed (one seed of a far cell is apart from the others, which agree), seeds of
another cell may agree by luck alone: there, pooling makes no interval narrower than the cell's own
spread would. FAR is the share of cells that are far by chance; COLLAPSE was chosen on the planted
sweeps that the calibration reports.

References: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3:3 (shrunken
variances, scaled F); Law et al. 2014, Genome Biology 15:R29 (trend of the prior).
``benchmarks/calibration/pooling.py`` has coverage and widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from harness.analysis.statistics.stats import Floats

FAR = 0.1
"""Probability of a larger ratio to the trend below which a cell keeps its own spread."""

COLLAPSE = 30.0
"""Squared distance of a collapsed run from its cell's others, in variances."""

_ROUNDING = 1e-12
"""Largest distance of a seed from the mean, as a share of it, that is rounding."""

_STEPS, _FARTHEST = 6, 20.0

_FLAT = 1e-9
"""Least curvature of the likelihood, so that a level of which nothing is known has a variance."""

_SLOPE = (1.0, 0.5)
_LOG_PRIOR = (math.log(6.0), 1.5)
"""Mean and standard deviation of the priors of b and of log d0."""

_ALIKE = (0.5, 2, 2)
"""ρ² between volumes, degrees of freedom and number of the further cells that are assumed."""

_MOST = 1 - 1e-9
"""Largest ρ²."""


class SeedMeans(NamedTuple):
    """Means of a cell's seeds at its volumes.

    Attributes:
        means: mean over items of each seed, shape (V, k); NaN where a seed lacks a volume.
        changed: share of items that changed, mean over seeds, shape (V,).
    """

    means: Floats
    changed: Floats


class Spread(NamedTuple):
    """Variance between the seeds of a cell at a volume.

    Attributes:
        variance: variance of one seed's mean.
        freedom: degrees of freedom of the variance.
        pooled: whether other cells are part of it; if not, it is the cell's own, over its volumes.
        pool: the variance that the other cells suggest, which is used where ``pooled``; NaN where
            nothing is known of it.
        common: the part of 2 / freedom, the variance of its logarithm, that all spreads of a pool
            share: the error of their trend.
    """

    variance: float
    freedom: float
    pooled: bool
    pool: float = math.nan
    common: float = 0.0


class _Padded(NamedTuple):
    """Arrays of all cells, shape (C, V); volumes that a cell lacks have no degrees of freedom.

    Attributes:
        squares: s², 0 where unknown.
        free: d.
        at: log(m + 1/(2n)), centred.
        alike: ρ².
    """

    squares: Floats
    free: Floats
    at: Floats
    alike: float

    @property
    def worth(self) -> Floats:
        """d_c, shape (C,)."""
        worth: Floats = self.free.sum(axis=1) / (1 + (np.maximum((self.free > 0).sum(axis=1), 1) - 1) * self.alike)
        return worth

    @property
    def seen(self) -> _Padded:
        """Without the volumes at which no seed differs."""
        return self._replace(free=np.where(self.squares > 0, self.free, 0.0))


class _Trend(NamedTuple):
    """Estimates of the trend: a, b, d0 and the covariance of a and b, shape (2, 2)."""

    level: float
    slope: float
    prior: float
    covariance: Floats


def pooled(cells: Sequence[SeedMeans], items: float) -> list[tuple[Spread, ...]]:
    """Return the variance between seeds of each cell and volume, pooled over all.

    Args:
        cells: the cells that were measured on the same items.
        items: number of items.

    Returns:
        For each cell one spread per volume. Where a volume has fewer than two seeds, no seeds
        differ anywhere, or there is nothing to pool with, it is the cell's own: NaN with 0 degrees
        of freedom where unknown.
    """
    own = [_own(cell) for cell in cells]
    padded = _padded(cells, own, items)
    if not (padded.squares > 0).any() or np.sum(padded.free > 0) == 1:
        return [tuple(Spread(*one, pooled=False) for one in zip(*of, strict=True)) for of in own]
    trend = _fitted(padded.seen)
    ratio, expected = _ratio(padded, trend.level, trend.slope)
    whole = trend.prior + padded.worth
    shrunken = expected * ((trend.prior + padded.worth * ratio) / whole)[:, None]
    spread = trend.covariance[0, 0] + 2 * padded.at * trend.covariance[0, 1] + padded.at**2 * trend.covariance[1, 1]
    common = (trend.prior / whole)[:, None] ** 2 * spread
    freedom = 2 / (2 / whole[:, None] + common)
    far = special.fdtrc(np.maximum(padded.worth, 1e-9), trend.prior, ratio) < FAR
    variance = np.where(far[:, None], expected * ratio[:, None], shrunken)
    freedom = np.where(far[:, None], padded.worth[:, None], freedom)
    alone = np.sum(padded.worth > 0) == 1
    use_own = ~far[:, None] & (freedom < padded.free)
    if any(_has_collapsed(cell, of) for cell, of, is_far in zip(cells, expected, far, strict=True) if is_far):
        known = np.maximum(padded.free, 1)
        use_own |= ~far[:, None] & (_reach(padded.squares, known) > _reach(variance, freedom))
    return [
        tuple(
            Spread(float(square), float(free), False, float(shrunken[row, at]))
            if free < 1 or use_own[row, at]
            else Spread(float(variance[row, at]), float(freedom[row, at]), False, float(shrunken[row, at]))
            if alone or far[row]
            else Spread(float(shrunken[row, at]), float(freedom[row, at]), True, float(shrunken[row, at]), float(common[row, at]))
            for at, (square, free) in enumerate(zip(*own[row], strict=True))
        )
        for row in range(len(cells))
    ]


def _reach(variance: Floats, freedom: Floats) -> Floats:
    """Return the half-width of a 95% interval with this variance."""
    reach: Floats = special.stdtrit(freedom, 0.975) * np.sqrt(variance)
    return reach


def _has_collapsed(cell: SeedMeans, expected: Floats) -> bool:
    """Return whether one seed is far from the others, which agree with each other.

    Far is COLLAPSE times the variance that the trend expects, and that of the other seeds.
    """
    means = cell.means[:, ~np.isnan(cell.means).any(axis=0)]
    for seed in range(means.shape[1] if means.shape[1] > 2 else 0):
        others, of = np.delete(means, seed, axis=1), expected[: len(means)]
        apart = np.mean((means[:, seed] - others.mean(axis=1)) ** 2 / of) / (1 + 1 / others.shape[1])
        if apart > COLLAPSE * max(1.0, float(np.mean(others.var(axis=1, ddof=1) / of))):
            return True
    return False


def _own(cell: SeedMeans) -> tuple[Floats, Floats]:
    """Return the variance of the seeds' means and its degrees of freedom, shape (V,) each."""
    count = np.sum(~np.isnan(cell.means), axis=1)
    centred = cell.means - np.where(count > 0, np.nansum(cell.means, axis=1) / np.maximum(count, 1), np.nan)[:, None]
    free = np.maximum(count - 1, 0).astype(np.float64)
    largest = np.max(np.abs(np.nan_to_num(cell.means)), axis=1, initial=0.0)
    centred = np.where(np.abs(centred) > _ROUNDING * largest[:, None], centred, 0.0)
    return np.where(free > 0, np.sum(centred**2, axis=1) / np.maximum(free, 1), np.nan), free


def _padded(cells: Sequence[SeedMeans], own: Sequence[tuple[Floats, Floats]], items: float) -> _Padded:
    shape = (len(cells), max((len(cell.changed) for cell in cells), default=0))
    squares, free, changed = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for row, (cell, (square, of)) in enumerate(zip(cells, own, strict=True)):
        count = len(of)
        squares[row, :count], free[row, :count], changed[row, :count] = np.nan_to_num(square), of, cell.changed
    known, alike = free.sum(axis=1), _correlation(cells)
    at = np.where(free > 0, np.log(changed + 1 / (2 * items)), 0.0)
    at = np.where(free > 0, at - np.average(at, weights=free) if known.any() else at, 0.0)
    return _Padded(squares, free, at, alike)


def _correlation(cells: Sequence[SeedMeans]) -> float:
    """Return ρ², the squared correlation of a cell's seeds between two volumes.

    It is the value of which the observed squared correlations, which few seeds make too large, are
    expected; so are those of _ALIKE further cells of three seeds.
    """
    observed, freedoms = [_expected(*_ALIKE[:2])] * _ALIKE[2], [_ALIKE[1]] * _ALIKE[2]
    for cell in cells:
        complete = cell.means[:, ~np.isnan(cell.means).any(axis=0)]
        centred = complete - complete.mean(axis=1, keepdims=True) if complete.shape[1] > 2 else complete[:0]
        lengths = np.sqrt(np.sum(centred**2, axis=1))
        units = centred[lengths > 0] / lengths[lengths > 0, None]
        if len(units) > 1:
            observed.append(float(np.mean((units @ units.T)[np.triu_indices(len(units), 1)] ** 2)))
            freedoms.append(complete.shape[1] - 1)
    known, counts = np.unique(freedoms, return_counts=True)

    def beyond(alike: float) -> float:
        return float(counts @ [_expected(alike, int(freedom)) for freedom in known]) - sum(observed)

    if beyond(0.0) >= 0:
        return 0.0
    return float(optimize.brentq(beyond, 0.0, _MOST, xtol=1e-14)) if beyond(_MOST) > 0 else _MOST


def _expected(alike: float, freedom: int) -> float:
    """Return the mean squared correlation of normal numbers, given ρ² and degrees of freedom."""
    return 1 - (freedom - 1) / freedom * (1 - alike) * float(special.hyp2f1(1, 1, freedom / 2 + 1, alike))


def _ratio(padded: _Padded, level: float, slope: float) -> tuple[Floats, Floats]:
    """Return r_c, shape (C,), and s0², shape (C, V)."""
    expected = np.exp(level + slope * padded.at)
    return np.sum(padded.free * padded.squares / expected, axis=1) / np.maximum(padded.free.sum(axis=1), 1), expected


def _fitted(padded: _Padded) -> _Trend:
    """Return the trend of largest likelihood times priors."""
    counted = padded.worth > 0
    squares, free, at, worth = (values[counted] for values in (padded.squares, padded.free, padded.at, padded.worth))
    shares = free / free.sum(axis=1, keepdims=True)
    middle = np.sum(shares * at, axis=1)

    def parts(point: Floats) -> tuple[Floats, Floats, Floats, float]:
        prior = math.exp(point[2])
        weighted = shares * squares / np.exp(point[0] + point[1] * at)
        ratio = weighted.sum(axis=1)
        return weighted, ratio, worth * ratio / (prior + worth * ratio), prior

    def minus_log(point: Floats) -> tuple[float, Floats]:
        weighted, ratio, pull, prior = parts(point)
        whole = prior + worth
        inside = np.log1p(worth * ratio / prior)
        value = np.sum(special.gammaln(prior / 2) - special.gammaln(whole / 2) + worth / 2 * math.log(prior) + whole / 2 * inside)
        value += np.sum(worth / 2 * (point[0] + point[1] * middle))
        inclined = np.sum(weighted * at, axis=1) / np.maximum(ratio, 1e-300)
        by_prior = special.digamma(prior / 2) - special.digamma(whole / 2) + worth / prior + inside - whole / prior * pull
        slopes = [
            np.sum(worth - whole * pull) / 2,
            np.sum(worth * middle - whole * pull * inclined) / 2,
            prior / 2 * np.sum(by_prior),
        ]
        for place, (mean, deviation) in {1: _SLOPE, 2: _LOG_PRIOR}.items():
            value += ((point[place] - mean) / deviation) ** 2 / 2
            slopes[place] += (point[place] - mean) / deviation**2
        return float(value), np.array(slopes)

    start = np.array([math.log(float(np.average(squares / np.exp(at), weights=free))), _SLOPE[0], _LOG_PRIOR[0]])
    near = [(start[0] - _FARTHEST, start[0] + _FARTHEST), (-_FARTHEST, _FARTHEST), (-_FARTHEST, _FARTHEST)]
    point = _polished(lambda at: minus_log(at)[1], optimize.minimize(minus_log, start, jac=True, method="L-BFGS-B", bounds=near).x)
    weighted, ratio, pull, prior = parts(point)
    inclined = np.sum(weighted * at, axis=1) / np.maximum(ratio, 1e-300)
    around = np.sum(weighted * at**2, axis=1) / np.maximum(ratio, 1e-300) - inclined**2
    bent, whole = pull * (1 - pull), prior + worth
    mixed = float(np.sum(whole * bent * inclined)) / 2
    curved = float(np.sum(whole * (bent * inclined**2 + pull * around))) / 2 + 1 / _SLOPE[1] ** 2
    bends = np.array([[float(np.sum(whole * bent)) / 2 + _FLAT, mixed], [mixed, curved]])
    return _Trend(float(point[0]), float(point[1]), prior, np.linalg.inv(bends).astype(np.float64))


def _polished(slope: Callable[[Floats], Floats], point: Floats) -> Floats:
    """Return the point where the slope is 0, to rounding, by Newton's method from nearby.

    Searches stop early by an amount that differs between machines.
    """
    step = 1e-5
    for _ in range(_STEPS):
        bends = np.stack([(slope(point + step * one) - slope(point - step * one)) / (2 * step) for one in np.eye(len(point))])
        change = np.linalg.lstsq((bends + bends.T) / 2, slope(point), rcond=None)[0]
        moved = point - change
        if np.max(np.abs(change)) > 1 or not np.sum(slope(moved) ** 2) < np.sum(slope(point) ** 2):
            break
        point = moved
    return point
