"""Pooled variances between seeds by SciPy's F distribution and a search without derivatives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy import stats as distributions


class Expected(NamedTuple):
    """Variance of a seed's mean, its degrees of freedom, and the variance of the pool."""

    variance: float
    freedom: float
    is_pooled: bool
    pool: float


def expected(cells: Sequence[tuple[np.ndarray, np.ndarray]], items: float) -> list[list[Expected]]:
    """Return the spreads of cells with all seeds at all volumes, without collapsed runs.

    Each cell has the means of its seeds, shape (V, k), and the share of changed items, shape (V,).
    """
    squares = [means.var(axis=1, ddof=1) for means, _ in cells]
    free = [means.shape[1] - 1 for means, _ in cells]
    at = [np.log(changed + 0.5 / items) for _, changed in cells]
    middle = np.average(np.concatenate(at), weights=np.repeat(free, [len(of) for of in at]))
    at = [of - middle for of in at]
    alike = _alike([means for means, _ in cells])
    worth = [f * len(of) / (1 + (len(of) - 1) * alike) for f, of in zip(free, at, strict=True)]

    def log_likelihood(a: float, b: float, log_prior: float) -> float:
        d0, total = math.exp(log_prior), 0.0
        for square, x, d in zip(squares, at, worth, strict=True):
            ratio = float(np.mean(square / np.exp(a + b * x)))
            total += distributions.f.logpdf(ratio, d, d0) - (d / 2 - 1) * math.log(ratio) - d / 2 * float(np.mean(a + b * x))
        return float(total + distributions.norm.logpdf(b, 1, 0.5) + distributions.norm.logpdf(log_prior, math.log(6), 1.5))

    first = np.array([math.log(np.mean(np.concatenate(squares))), 1.0, math.log(6)])
    exact = {"xatol": 1e-11, "fatol": 1e-13, "maxiter": 20_000, "maxfev": 20_000}
    for _ in range(3):  # Nelder-Mead again, since one search may stop early
        first = optimize.minimize(lambda p: -log_likelihood(*p), first, method="Nelder-Mead", options=exact).x
    a, b, log_prior = first
    bends = np.array([[_second(lambda s, t: log_likelihood(a + s, b + t, log_prior), i, j) for j in (0, 1)] for i in (0, 1)])
    covariance, d0, found = np.linalg.inv(-bends), math.exp(log_prior), []
    for square, x, d, own in zip(squares, at, worth, free, strict=True):
        trend = np.exp(a + b * x)
        ratio = float(np.mean(square / trend))
        pool = trend * (d0 + d * ratio) / (d0 + d)
        if distributions.f.sf(ratio, d, d0) < 0.1:
            found.append([Expected(one * ratio, d, False, other) for one, other in zip(trend, pool, strict=True)])
            continue
        spread = np.array([np.array([1, one]) @ covariance @ np.array([1, one]) for one in x])
        freedom = 2 / (2 / (d0 + d) + (d0 / (d0 + d)) ** 2 * spread)
        found.append(
            [
                Expected(one, own, False, other) if f < own else Expected(other, f, len(cells) > 1, other)
                for one, other, f in zip(square, pool, freedom, strict=True)
            ]
        )
    return found


def _alike(cells: Sequence[np.ndarray]) -> float:
    """Return ρ² at which the squared correlations of all cells are expected.

    Two further cells of three seeds have those expected at 0.5.
    """
    values, freedoms = [_squared(0.5, 2)] * 2, [2, 2]
    for means in cells:
        squared = [np.corrcoef(one, other)[0, 1] ** 2 for one, other in itertools.combinations(means, 2)]
        if squared:
            values.append(float(np.mean(squared)))
            freedoms.append(means.shape[1] - 1)
    if sum(_squared(0.0, d) for d in freedoms) >= sum(values):
        return 0.0
    return float(optimize.bisect(lambda one: sum(_squared(one, d) for d in freedoms) - sum(values), 0.0, 0.999, xtol=1e-13))


def _squared(alike: float, d: int) -> float:
    """Return the mean squared correlation of d + 1 pairs of normal numbers, by its series."""
    total, term = 0.0, 1.0
    for n in range(100_000):
        total += term
        term *= (n + 1) / (d / 2 + 1 + n) * alike
        if term < 1e-16:
            break
    return 1 - (d - 1) / d * (1 - alike) * total


def _second(function: Callable[[float, float], float], i: int, j: int, h: float = 1e-3) -> float:
    """Return a second derivative of a function of two numbers at 0, by central differences."""
    one, other = np.eye(2)[i] * h, np.eye(2)[j] * h
    return (function(*(one + other)) - function(*(one - other)) - function(*(other - one)) + function(*(-one - other))) / (4 * h * h)
