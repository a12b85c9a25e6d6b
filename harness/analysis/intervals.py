"""Parameters of a fit with their intervals: which have one, on which scale, and what the points cannot say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis import jackknife, solver
from harness.analysis.laws import Term
from harness.analysis.model import Model, Points, Solution
from harness.analysis.solver import Floats

LEVEL = 0.90
PRECISION = 1e-9
"""Least half-width of an interval, as a share of its value: what the solver can tell."""

_HUGE = 100.0


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law: value and interval, each None where the points do not say it."""

    value: float | None
    low: float | None
    high: float | None
    unit: str


def parameters(
    fitted: Model, solution: Solution, replicates: Floats, points: Points, idle: Mapping[str, str]
) -> tuple[dict[str, Parameter], list[str]]:
    """Return the parameters of a fit with their intervals, and what must be said of them.

    Args:
        fitted: the model.
        solution: its fit.
        replicates: without one run each, shape (G, p).
        points: what it was fitted to.
        idle: terms of which the points say nothing, and why.
    """
    shown = fitted.shown(np.vstack([solution.theta[None], replicates]))
    unknown, notes = _unidentified(fitted, solution, points)
    at_bound = (solution.theta <= fitted.low) | (solution.theta >= fitted.high)
    bound = {term.name for term, held in zip(fitted.free, at_bound, strict=True) if held}
    found = {}
    for term in fitted.law.terms:
        if term.name in idle or term.name in unknown:
            found[term.name] = Parameter(None, None, None, term.unit)
            continue
        values = shown[term.name]
        low, high = _interval(term, values, fitted, solution, replicates, points)
        if term.name in bound:
            notes.append(f"{term.name} is at its bound: the points ask for more than the law allows, so it has no interval")
            low = high = None
        elif low is not None and high is not None and _is_huge(float(values[0]), low, high):
            notes.append(f"{term.name} is hardly determined: its interval is very wide")
        found[term.name] = Parameter(_finite(values[0]), low, high, term.unit)
    return found, notes


def _interval(
    term: Term, values: Floats, fitted: Model, solution: Solution, replicates: Floats, points: Points
) -> tuple[float | None, float | None]:
    """Return estimate ± t · jackknife error, on the logarithm for positive parameters and for factors whose sign is beyond doubt."""
    groups = len(values) - 1
    if groups < 2 or not np.isfinite(values).all():
        return None, None
    spread = jackknife.quantile(groups, LEVEL)
    if term.scale == "plain" or (term.scale == "signed" and not _has_sign(term, values, fitted, solution, replicates, points, spread)):
        width = max(spread * jackknife.jackknife_error(values[1:]), PRECISION * abs(float(values[0])))
        return _finite(values[0] - width), _finite(values[0] + width)
    if (values == 0).any():
        return None, None
    sign, logs = math.copysign(1.0, float(values[0])), np.log(np.abs(values))
    width = max(spread * jackknife.jackknife_error(logs[1:]), PRECISION)
    with np.errstate(over="ignore"):
        ends = sorted([sign * float(np.exp(logs[0] - width)), sign * float(np.exp(logs[0] + width))])
    return _finite(ends[0]), _finite(ends[1])


def _has_sign(term: Term, values: Floats, fitted: Model, solution: Solution, replicates: Floats, points: Points, spread: float) -> bool:
    """Say whether a factor's sign is beyond doubt: what it adds to the mean of the curve is more than t of its own errors from 0."""
    if len({*np.sign(values)}) > 1:
        return False
    theta = np.vstack([solution.theta[None], replicates])
    without = theta.copy()
    without[:, [one.name for one in fitted.free].index(term.name)] = 0.0
    curve = fitted.curve(points.columns)
    added = np.mean(curve(theta) - curve(without), axis=1)
    return bool(abs(added[0]) > spread * jackknife.jackknife_error(added[1:]))


def _unidentified(fitted: Model, solution: Solution, points: Points) -> tuple[set[str], list[str]]:
    """Return terms that do not move the curve at any point, or only together with others."""
    curve, theta = fitted.curve(points.columns), solution.theta[None]
    raw = solver.jacobian(curve, theta, curve(theta))
    slopes = raw[0] / np.sqrt(solution.variance)
    sizes, quiet = np.sqrt(np.sum(slopes**2, axis=1)), solution.problem.still(raw)[0]
    moving = (sizes > 0) & ~quiet
    still = {term.name for term, moves in zip(fitted.free, moving, strict=True) if not moves}
    notes = [f"{name} is not identified: the curve does not depend on it here" for name in sorted(still)]
    if moving.sum() > 1:
        unit = slopes[moving] / sizes[moving, None]
        values, vectors = np.linalg.eigh(unit @ unit.T)
        if values[0] < 1e-9:
            names = [term.name for term, moves in zip(fitted.free, moving, strict=True) if moves]
            together = [name for name, weight in zip(names, vectors[:, 0], strict=True) if abs(weight) > 0.1]
            notes.append(f"{' and '.join(together)} are not identified apart: the points fix a combination of them alone")
            still |= set(together)
    return still, notes


def _is_huge(value: float, low: float, high: float) -> bool:
    if low * high > 0:
        return max(abs(low), abs(high)) > _HUGE * min(abs(low), abs(high))
    return high - low > _HUGE * abs(value)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
