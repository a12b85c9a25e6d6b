"""Robust nonlinear least squares, many problems at once.

The problems share points and curve and differ in weights and starts. Minimised is
Σ m_i ρ(r_i / √v_i), with the soft-L1 loss ρ(z) = 2C²(√(1 + z²/C²) − 1), quadratic near 0 and linear
in the tails (the ``soft_l1`` of SciPy), by the method of Levenberg and Marquardt. Clusters are left
out by m = 0, so a jackknife is one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import integrate

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Curve = Callable[[Floats], Floats]
"""Parameters, shape (k, p), to the curve at the points, shape (k, n)."""

TUNING = 2.0
"""C: residuals beyond C standard deviations are downweighted. With normal residuals the estimates
keep 96% of their efficiency."""

MAX_STEPS = 200
NEGLIGIBLE = 1e-6
_BISECTIONS = 60


@dataclass(frozen=True)
class Solved:
    """Solutions of k problems: parameters (k, p), costs (k,), and whether each converged (k,)."""

    theta: Floats
    cost: Floats
    converged: Booleans


@dataclass(frozen=True)
class Problem:
    """The points, curve and bounds that all problems of a call share.

    Attributes:
        curve: parameters to the curve at the points.
        response: y, shape (n,).
        variance: v, shape (n,).
        low: lower bounds, shape (p,).
        high: upper bounds, shape (p,).
        pure: whether each parameter is an exponent or a logarithm, so that the effect of one unit
            on the curve is meaningful, shape (p,).
        robust: whether the loss is soft-L1; else it is quadratic.
    """

    curve: Curve
    response: Floats
    variance: Floats
    low: Floats
    high: Floats
    pure: Booleans
    robust: bool = True

    @cached_property
    def size(self) -> float:
        """Σ y² / v."""
        return float(np.sum(self.response**2 / self.variance))

    def still(self, slopes: Floats) -> Booleans:
        """Return whether each pure parameter has no effect, slopes (k, p, n) to (k, p).

        That is: one unit moves the curve by less than NEGLIGIBLE of the response.
        """
        still: Booleans = self.pure & (np.sum(slopes**2 / self.variance, axis=2) <= NEGLIGIBLE**2 * self.size)
        return still


def solve(problem: Problem, start: Floats, kept: Floats, tolerance: float = 1e-11, steps: int | None = None) -> Solved:
    """Minimise from each start.

    Args:
        problem: points, curve and bounds.
        start: shape (k, p).
        kept: m, shape (k, n): 1 for points that count, 0 for those left out.
        tolerance: a problem has converged where a full step would lower its cost by less than this
            share of it.
        steps: largest number of steps; by default MAX_STEPS.
    """
    theta = np.clip(start, problem.low, problem.high)
    count = len(theta)
    cost, damping = _cost(problem, theta, kept), np.full(count, 1e-3)
    converged, active = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    floor = 1e-22 * np.maximum(kept @ (problem.response**2 / problem.variance), 1e-300)
    for _ in range(steps or MAX_STEPS):
        at = np.flatnonzero(active)
        if not len(at):
            break
        normal, gradient = _normal(problem, theta[at], kept[at])
        scale = np.maximum(np.diagonal(normal, axis1=1, axis2=2), 1e-300)
        decrement = np.sum(gradient * _damped(normal, gradient, scale, np.full(len(at), 1e-12)), axis=1)
        done = decrement <= tolerance * cost[at] + floor[at]
        trial = np.clip(theta[at] + _damped(normal, gradient, scale, damping[at]), problem.low, problem.high)
        reached = _cost(problem, trial, kept[at])
        better = (reached <= cost[at]) & ~done
        theta[at[better]], cost[at[better]] = trial[better], reached[better]
        damping[at] = np.where(better, np.maximum(damping[at] / 5.0, 1e-12), damping[at] * 4.0)
        converged[at[done]] = True
        active[at[done | (damping[at] > 1e12)]] = False
    return Solved(theta, cost, converged)


def _cost(problem: Problem, theta: Floats, kept: Floats) -> Floats:
    with np.errstate(all="ignore"):
        squared = (problem.response - problem.curve(theta)) ** 2 / problem.variance
        each = 2.0 * TUNING**2 * (np.sqrt(1.0 + squared / TUNING**2) - 1.0) if problem.robust else squared
        total = np.sum(np.where(kept > 0, kept * each, 0.0), axis=1)
    return np.where(np.isfinite(total), total, np.inf)


def _normal(problem: Problem, theta: Floats, kept: Floats) -> tuple[Floats, Floats]:
    """Return curvature Σ ψ′JJᵀ/v, shape (k, p, p), and gradient Σ ψJ/√v, shape (k, p).

    The curvature is the loss's own, which is positive because the loss is convex. Parameters
    without effect, or held at a bound, have a row of the identity and no gradient.
    """
    value = problem.curve(theta)
    residual, slopes = problem.response - value, jacobian(problem.curve, theta, value)
    pull = curvature = kept / problem.variance
    if problem.robust:
        spread = 1.0 + residual**2 / problem.variance / TUNING**2
        pull, curvature = pull / np.sqrt(spread), curvature / spread**1.5
    normal = (slopes * curvature[:, None, :]) @ slopes.transpose(0, 2, 1)
    gradient = (slopes @ (pull * residual)[:, :, None])[:, :, 0]
    held = problem.still(slopes) | ((theta <= problem.low) & (gradient < 0)) | ((theta >= problem.high) & (gradient > 0))
    free = ~held
    normal = normal * free[:, :, None] * free[:, None, :] + np.eye(theta.shape[1]) * held[:, :, None]
    return normal, gradient * free


def influence(problem: Problem, theta: Floats) -> Floats:
    """Return the derivative of a solution (p,) by each point's response, shape (p, n).

    Gauss-Newton approximation: second derivatives of the curve are left out.
    """
    value = problem.curve(theta[None])
    slopes = jacobian(problem.curve, theta[None], value)[0]
    free = ~(problem.still(slopes[None])[0] | (theta <= problem.low) | (theta >= problem.high))
    slopes = slopes[free]
    squared = (problem.response - value[0]) ** 2 / problem.variance
    curvature = (1.0 + squared / TUNING**2) ** -1.5 / problem.variance if problem.robust else 1.0 / problem.variance
    normal = (slopes * curvature) @ slopes.T
    root = np.sqrt(np.maximum(np.diagonal(normal), 1e-300))
    unit = np.linalg.pinv(normal / root[:, None] / root, rcond=1e-12, hermitian=True)
    moved = np.zeros((len(theta), len(squared)))
    moved[free] = unit @ (slopes * curvature / root[:, None]) / root[:, None]
    return moved


def jacobian(curve: Curve, theta: Floats, value: Floats) -> Floats:
    """Return the slopes of the curve by forward differences, shape (k, p, n).

    ``value`` is the curve at theta. The curve is called once.
    """
    count, size = theta.shape
    step = 1e-7 * np.maximum(np.abs(theta), 1e-2)
    moved = np.repeat(theta[None], size, axis=0)
    moved[range(size), :, range(size)] += step.T
    slopes = (curve(moved.reshape(-1, size)).reshape(size, count, -1) - value) / step.T[:, :, None]
    slopes = slopes.transpose(1, 0, 2)
    return slopes if np.isfinite(slopes).all() else np.nan_to_num(slopes, posinf=0.0, neginf=0.0)


def _damped(normal: Floats, gradient: Floats, scale: Floats, damping: Floats) -> Floats:
    """Solve (A + λ diag A) x = g after scaling diag A to 1."""
    root = np.sqrt(scale)
    unit = normal / root[:, :, None] / root[:, None, :]
    unit[:, range(unit.shape[1]), range(unit.shape[1])] = 1.0 + np.maximum(damping, 1e-12)[:, None]
    step: Floats = np.linalg.solve(unit, (gradient / root)[:, :, None])[:, :, 0] / root
    return step


def _consistency() -> float:
    """Return E ψ(Z)² for a standard normal Z, ψ(z) = z / √(1 + z²/C²)."""

    def density(z: float) -> float:
        return float(z**2 / (1.0 + z**2 / TUNING**2) * np.exp(-(z**2) / 2.0) / np.sqrt(2.0 * np.pi))

    return float(integrate.quad(density, -12.0, 12.0)[0])


CONSISTENCY = _consistency()


def extra_variance(residual: Floats, error: Floats, parameters: int) -> float:
    """Return τ², the variance beyond the standard errors.

    It solves Σ ψ(r_i / √(s_i² + τ²))² = (n − p) E ψ(Z)², and is 0 where the errors explain all
    residuals. This is Huber's Proposal 2 with a known part, as Paule & Mandel 1982 do without the
    robust loss. Without standard errors τ is the robust scale.

    Args:
        residual: r, shape (n,).
        error: standard errors s, shape (n,), zeros where there are none.
        parameters: p.
    """
    spare = len(residual) - parameters
    if spare <= 0:
        return 0.0
    # A tiny variance in place of 0 keeps the division finite.
    low, high = 1e-24 * float(np.mean(residual**2)) + 1e-300, len(residual) / spare * float(np.max(residual**2)) + 1e-300

    def excess(extra: float) -> float:
        squared = residual**2 / (error**2 + extra)
        return float(np.sum(squared / (1.0 + squared / TUNING**2))) - spare * CONSISTENCY

    if excess(low) <= 0:
        return 0.0
    while excess(high) > 0:
        high *= 4.0
    # Bisection to the last bit of log τ²: SciPy's brentq and bisect agree to 4e-14, but refitting
    # turns that into 1e-7 of parameters that the points hardly determine, so fits would move.
    low, high = np.log(low), np.log(high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if excess(float(np.exp(middle))) > 0 else (low, middle)
    return float(np.exp((low + high) / 2.0))
