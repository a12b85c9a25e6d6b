"""Estimation of a law on given points: starts, fit, and refits without some clusters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis.fits import solver
from harness.analysis.fits.laws import Law, Term
from harness.analysis.fits.solver import Floats

MAX_SEARCHES = 6
"""Number of searches, one from each of the best combinations of start values."""

SEARCH_STEPS = 25
"""Steps of each search; the two best are then continued until convergence."""

_ROUNDS = 8
_EXACT = 1e-18


@dataclass(frozen=True)
class Points:
    """Points that a law is fitted to.

    Attributes:
        columns: column → values, shape (n,).
        response: values of the response, shape (n,).
        error: standard errors, shape (n,); zeros where there are none.
        cluster: number of each point's run, shape (n,), from 0.
    """

    columns: Mapping[str, Floats]
    response: Floats
    error: Floats
    cluster: solver.Numbers

    def where(self, kept: solver.Booleans) -> Points:
        """Return some of the points, with clusters renumbered."""
        columns = {name: values[kept] for name, values in self.columns.items()}
        _, cluster = np.unique(self.cluster[kept], return_inverse=True)
        return Points(columns, self.response[kept], self.error[kept], cluster)


class Model:
    """A law with the references of its columns and the terms held fixed.

    Args:
        law: the law.
        reference: column → reference, for the law's positive columns.
        held: term → fitted value.
    """

    def __init__(self, law: Law, reference: Mapping[str, float], held: Mapping[str, float]) -> None:
        self.law, self.reference, self.held = law, reference, held
        self.free: tuple[Term, ...] = tuple(term for term in law.terms if term.name not in held)
        ends = [(np.log([term.low, term.high]) if term.scale == "log" else np.array([term.low, term.high])) for term in self.free]
        self.low, self.high = np.array(ends, dtype=float).reshape(-1, 2).T
        self.pure = np.array([term.scale == "log" or not term.linear for term in self.free], dtype=bool)

    def values(self, theta: Floats) -> dict[str, Floats]:
        """Return the arguments of the law's curve, shape (k, 1) each, from theta (k, p)."""
        moved = {term.name: np.exp(theta[:, [i]]) if term.scale == "log" else theta[:, [i]] for i, term in enumerate(self.free)}
        return moved | {name: np.full((len(theta), 1), value) for name, value in self.held.items()}

    def scaled(self, columns: Mapping[str, Floats]) -> dict[str, Floats]:
        """Return the columns, with positive ones divided by their references."""
        with np.errstate(over="ignore"):
            return {name: columns[name] / self.reference.get(name, 1.0) for name in self.law.columns}

    def curve(self, columns: Mapping[str, Floats]) -> solver.Curve:
        """Return the curve at given points."""
        scaled, n = self.scaled(columns), len(next(iter(columns.values())))

        def at(theta: Floats) -> Floats:
            with np.errstate(all="ignore"):
                return np.broadcast_to(self.law.curve(self.values(theta), scaled), (len(theta), n))

        return at

    def shown(self, theta: Floats) -> dict[str, Floats]:
        """Return the parameters of the formula, shape (k,) each, from theta (k, p)."""
        values = self.values(theta)
        with np.errstate(all="ignore"):
            return {name: found[:, 0] for name, found in (values | self.law.shown(values, self.reference)).items()}


def build(law: Law, points: Points, held: Mapping[str, float]) -> Model:
    """Return a law's model for points; references are geometric means of the columns."""
    reference = {name: float(np.exp(np.mean(np.log(points.columns[name])))) for name in sorted(law.positive)}
    return Model(law, reference, held)


@dataclass(frozen=True)
class Solution:
    """A solution of the fit.

    Attributes:
        theta: parameters, shape (p,).
        variance: variance of each point, shape (n,).
        extra: τ².
        converged: whether the search converged.
        problem: the problem solved.
    """

    theta: Floats
    variance: Floats
    extra: float
    converged: bool
    problem: solver.Problem


def best(model: Model, points: Points) -> Solution:
    """Fit a law from several starts.

    Least squares comes first, then the soft-L1 loss, updating τ² and the parameters in turn. The
    variance of a point is s² + τ²: τ² is the part of the residuals that the standard errors do not
    explain, so a point with an error of 0 does not dominate. If the residuals are rounding alone,
    the least squares solution is returned.
    """
    curve, typical = model.curve(points.columns), _typical(points)
    variance = points.error**2 + typical
    problem = solver.Problem(curve, points.response, variance, model.low, model.high, model.pure, robust=False)
    found = solver.solve(problem, _starts(model, points, curve, variance), _all(points, MAX_SEARCHES), 1e-4, SEARCH_STEPS)
    order = np.argsort(found.cost, kind="stable")
    found = solver.solve(problem, found.theta[order[:2]], _all(points, 2))
    theta, converged = found.theta, found.converged
    size = float(np.mean(points.response**2))
    extra = 0.0
    for _ in range(_ROUNDS):
        residual = points.response - curve(theta[:1])[0]
        if float(np.mean(residual**2)) <= _EXACT * size:
            return Solution(theta[0], variance, 0.0, bool(converged[0]), problem)
        before, extra = extra, solver.extra_variance(residual, points.error, len(model.free))
        variance = np.maximum(points.error**2 + extra, 1e-12 * float(np.mean(residual**2)))
        problem = solver.Problem(curve, points.response, variance, model.low, model.high, model.pure)
        found = solver.solve(problem, theta, _all(points, len(theta)))
        first = int(np.argmin(found.cost))
        theta, converged = found.theta[[first]], found.converged[[first]]
        if abs(extra - before) <= 1e-4 * extra:
            break
    return Solution(theta[0], variance, extra, bool(converged[0]), problem)


def refits(solution: Solution, kept: Floats) -> solver.Solved:
    """Fit again without some points, from the solution and with its variances.

    ``kept`` has shape (k, n): 1 for points kept, 0 for those left out.
    """
    return solver.solve(solution.problem, np.repeat(solution.theta[None, :], len(kept), axis=0), kept, tolerance=1e-8)


def _all(points: Points, count: int) -> Floats:
    return np.ones((count, len(points.response)))


def _typical(points: Points) -> float:
    """Return the variance of a typical point, added to every point in the first search."""
    positive = points.error[points.error > 0]
    return float(np.median(positive)) ** 2 if len(positive) else 1.0


def _starts(model: Model, points: Points, curve: solver.Curve, variance: Floats) -> Floats:
    """Return starts, shape (MAX_SEARCHES, p).

    They are the combinations of start values that fit best after solving for the linear terms.
    """
    searched = [term for term in model.free if not term.linear]
    combinations = list(itertools.product(*(term.starts for term in searched)))
    grid = np.array(combinations, dtype=float).reshape(len(combinations), len(searched))
    theta = np.zeros((len(grid), len(model.free)))
    index = {term.name: i for i, term in enumerate(model.free)}
    for column, term in enumerate(searched):
        theta[:, index[term.name]] = np.log(grid[:, column]) if term.scale == "log" else grid[:, column]
    theta = _solve_linear(model, points, curve, variance, theta)
    cost = np.sum((points.response - curve(theta)) ** 2 / variance, axis=1)
    order = np.argsort(np.where(np.isfinite(cost), cost, np.inf), kind="stable")[:MAX_SEARCHES]
    return theta[np.resize(order, MAX_SEARCHES)]


def _solve_linear(model: Model, points: Points, curve: solver.Curve, variance: Floats, theta: Floats) -> Floats:
    linear = [i for i, term in enumerate(model.free) if term.linear]
    if not linear:
        return theta
    without = theta.copy()
    for i in linear:
        without[:, i] = -700.0 if model.free[i].scale == "log" else 0.0
    offset, basis = curve(without), []
    for i in linear:
        one = without.copy()
        one[:, i] = 0.0 if model.free[i].scale == "log" else 1.0
        basis.append(curve(one) - offset)
    root, least = np.sqrt(variance), 1e-3 * float(np.sqrt(np.mean(points.response**2))) + 1e-300
    for row in range(len(theta)):
        design = np.stack([column[row] for column in basis], axis=1) / root[:, None]
        solved = np.linalg.lstsq(np.nan_to_num(design), (points.response - offset[row]) / root, rcond=None)[0]  # NumPy 2's default
        for i, value in zip(linear, solved, strict=True):
            theta[row, i] = np.log(max(value, least)) if model.free[i].scale == "log" else value
    return np.clip(theta, model.low, model.high)
