"""Parameters of a fit with their intervals, and notes on those that are not determined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis.fits import solver
from harness.analysis.fits.estimate import Model, Points, Solution
from harness.analysis.fits.laws import Term
from harness.analysis.fits.solver import Floats
from harness.analysis.fits.uncertainty import Spread

LEVEL = 0.90
PRECISION = 1e-9
"""Smallest half-width of an interval, as a share of its value: the solver's precision."""

_HUGE = 100.0


@dataclass(frozen=True)
class Parameter:
    """Value and interval of a law's parameter; None where the points do not determine it."""

    value: float | None
    low: float | None
    high: float | None
    unit: str


def parameters(
    fitted: Model, solution: Solution, spread: Spread, points: Points, idle: Mapping[str, str]
) -> tuple[dict[str, Parameter], list[str]]:
    """Return the parameters of a fit with their intervals, and notes on them.

    Args:
        fitted: the model.
        solution: its fit.
        spread: errors of the fit.
        points: points that it was fitted to.
        idle: term that the points do not determine → reason.
    """
    shown = fitted.shown(solution.theta[None])
    unknown, notes = _unidentified(fitted, solution, points)
    at_bound = (solution.theta <= fitted.low) | (solution.theta >= fitted.high)
    bound = {term.name for term, held in zip(fitted.free, at_bound, strict=True) if held}
    found = {}
    for term in fitted.law.terms:
        if term.name in idle or term.name in unknown:
            found[term.name] = Parameter(None, None, None, term.unit)
            continue
        value = float(shown[term.name][0])
        low, high = _interval(term, fitted, spread, points)
        if term.name in bound:
            notes.append(f"{term.name} is at its bound: the best fit is outside the law's limits, so it has no interval")
            low = high = None
        elif low is not None and high is not None and _is_huge(term, low, high, fitted, spread, points):
            notes.append(f"{term.name} is hardly determined: its interval is very wide")
        found[term.name] = Parameter(_finite(value), low, high, term.unit)
    return found, notes


def _interval(term: Term, fitted: Model, spread: Spread, points: Points) -> tuple[float | None, float | None]:
    """Return estimate ± half width.

    It is on the logarithm for positive parameters, and for factors whose sign is certain.
    """

    def shown(theta: Floats) -> Floats:
        return fitted.shown(theta)[term.name][:, None]

    value, width, without = (found[..., 0] for found in spread.at(shown))
    values = np.append(without, value)
    if not np.isfinite([*values, width]).all():
        return None, None
    if term.scale == "plain" or (term.scale == "signed" and not _has_sign(term, values, fitted, spread, points)):
        half = max(float(width), PRECISION * abs(float(value)))
        return _finite(float(value) - half), _finite(float(value) + half)
    if (values == 0).any():
        return None, None
    log, width, _ = (found[..., 0] for found in spread.at(lambda theta: np.log(np.abs(shown(theta)))))
    sign, half = math.copysign(1.0, float(value)), max(float(width), PRECISION)
    with np.errstate(all="ignore"):
        ends = sorted([sign * float(np.exp(log - half)), sign * float(np.exp(log + half))])
    return _finite(ends[0]), _finite(ends[1])


def _has_sign(term: Term, values: Floats, fitted: Model, spread: Spread, points: Points) -> bool:
    """Return whether a factor's sign is certain.

    That is: its part of the mean of the curve is more than half an interval away from 0.
    """
    if len({*np.sign(values)}) > 1:
        return False
    place, curve = [one.name for one in fitted.free].index(term.name), fitted.curve(points.columns)

    def added(theta: Floats) -> Floats:
        without = theta.copy()
        without[:, place] = 0.0
        return np.asarray(np.mean(curve(theta) - curve(without), axis=1)[:, None])

    value, width, _ = spread.at(added)
    return bool(abs(value[0]) > width[0])


def _unidentified(fitted: Model, solution: Solution, points: Points) -> tuple[set[str], list[str]]:
    """Return terms that the points do not determine, and notes on them.

    They do not change the curve at any point, or only a combination of them is determined.
    """
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
            notes.append(f"{' and '.join(together)} are not identified separately: the points determine only a combination of them")
            still |= set(together)
    return still, notes


def _is_huge(term: Term, low: float, high: float, fitted: Model, spread: Spread, points: Points) -> bool:
    """Return whether an interval is too wide to be useful.

    That is: its ends differ greatly in size or, if it contains 0, in their effect on the curve.
    """
    if low * high > 0:
        return max(abs(low), abs(high)) > _HUGE * min(abs(low), abs(high))
    return _moves(term, fitted, spread, points) > 1.0


def _moves(term: Term, fitted: Model, spread: Spread, points: Points) -> float:
    """Return the change of the curve at an end of a parameter's interval.

    It is a share of the response, both as root mean squares over the points.
    """
    place, curve, theta = [one.name for one in fitted.free].index(term.name), fitted.curve(points.columns), spread.theta[None]
    slope = solver.jacobian(curve, theta, curve(theta))[0][place]
    _, width, _ = spread.at(lambda theta: theta[:, [place]])
    return float(width[0]) * float(np.sqrt(np.mean(slope**2))) / (float(np.sqrt(np.mean(points.response**2))) or math.inf)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
