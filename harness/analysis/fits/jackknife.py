"""Runs as clusters of points: intervals by leaving out runs, and likelihoods with run effects.

The error over runs is that of the delete-one-run jackknife, with Student's t of G − 1 degrees of
freedom. The error over items, which all runs share, is added in
``harness.analysis.fits.uncertainty``. ``benchmarks/calibration/fits.py`` measures the coverage of
intervals for 4 sizes × 5 volumes, or one size, with 3, 5 and 8 seeds, with run effects and with
item effects of which none, most or all are shared.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize
from scipy import stats as distributions

from harness.analysis.fits.solver import Floats, Numbers

MAX_GROUPS = 60
MIN_GROUPS = 10
_ELEMENTS = 150_000


def left_out(cluster: Numbers) -> Floats:
    """Return the points that each refit keeps, shape (G, n).

    Each refit leaves out one run. With many runs, groups of runs are left out (every G-th run
    belongs to the same group) to limit the work: G is at least MIN_GROUPS and at most MAX_GROUPS.

    Args:
        cluster: number of each point's run, from 0.
    """
    runs = int(cluster.max()) + 1
    groups = min(runs, MAX_GROUPS, max(MIN_GROUPS, _ELEMENTS // len(cluster)))
    return np.array([(cluster % groups != group).astype(float) for group in range(groups)])


def jackknife_error(replicates: Floats) -> float:
    """Return the delete-one-cluster jackknife's standard error of replicates, shape (G,).

    It is √((G − 1)/G Σ (θ_g − θ̄)²).

    Reference: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 11.5; Cameron &
    Miller 2015, section VI, on few clusters.
    """
    groups = len(replicates)
    apart = replicates - replicates.mean()
    size = float(np.max(np.abs(apart)))  # factored out, so that squares do not overflow
    return size * math.sqrt((groups - 1) / groups * float(np.sum((apart / size) ** 2))) if size > 0 else size


def quantile(groups: int, level: float) -> float:
    """Return the two-sided quantile of Student's t with G − 1 degrees of freedom."""
    return float(distributions.t.ppf(0.5 + level / 2, groups - 1))


def deviance(residual: Floats, error: Floats, cluster: Numbers, floor: float) -> tuple[float, int]:
    """Return −2 log likelihood of residuals at the best variances, and their number.

    The model is r_i = u_run + e_i, u ~ N(0, σ²), e_i ~ N(0, s_i² + τ²): points of a run share the
    effect u. Where no run has two points, σ is left out.

    Args:
        residual: r, shape (n,).
        error: standard errors s, shape (n,).
        cluster: number of each point's run, from 0.
        floor: smallest variance of a point, for rounding.
    """
    runs = int(cluster.max()) + 1
    start = max(float(np.mean(residual**2)), floor)
    low = math.log(floor) - 1.0

    def minus_twice(point: Floats) -> float:
        own, shared = np.exp(np.clip(point, low, low + 200.0)) if len(point) == 2 else (float(np.exp(max(point[0], low))), 0.0)
        variance = error**2 + own + floor
        weight = np.bincount(cluster, 1.0 / variance, minlength=runs)
        pulled = np.bincount(cluster, residual / variance, minlength=runs)
        inside = 1.0 + shared * weight
        squares = float(np.sum(residual**2 / variance) - np.sum(shared * pulled**2 / inside))
        return squares + float(np.sum(np.log(variance)) + np.sum(np.log(inside))) + len(residual) * math.log(2.0 * math.pi)

    together = runs < len(residual)
    first = np.log(np.array([0.5, 0.5] if together else [1.0]) * start)
    return float(optimize.minimize(minus_twice, first, method="Nelder-Mead", options=_OPTIONS).fun), 1 + together


_OPTIONS = {"xatol": 1e-3, "fatol": 1e-4, "maxiter": 400}
