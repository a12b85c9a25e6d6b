"""Errors of a fit over runs and over items.

**Runs** are left out in turn (``jackknife``). This does not show the error that all runs share: if
every seed changes the same items, runs agree with each other, although other items would give
another result. **Items** therefore enter by ``stderr``, the error of each point over items. It
counts as fully shared by all runs, is propagated by the fit's first derivative, and its variance is
added to that over runs. The shared part cannot be estimated from the differences between runs, so
nothing is subtracted for the part that the jackknife already includes: if runs share none of it,
the interval is too wide, never too narrow.

The same items are also used at all sizes, volumes and shares of old data, and the direction of
sharing matters: errors common to all points change a level but no slope, errors of each volume
change a slope. For errors that consist of parts shared along any of these directions, the variance
is between those of the parts alone, so the largest is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from harness.analysis.fits import jackknife, solver
from harness.analysis.fits.estimate import Points, Solution
from harness.analysis.fits.solver import Floats

ALONG = (("params_total", "params_trainable"), ("volume", "train_tokens", "steps"), ("inject_fraction",))
"""Directions in which points may differ; the first column of each that exists is used."""


@dataclass(frozen=True)
class Spread:
    """Errors of a fit's parameters, from which the errors of functions of them follow.

    Attributes:
        theta: the parameters, shape (p,).
        replicates: parameters without one run each, shape (G, p); G = 0 where there can be no
            interval.
        shifts: for each way of sharing, the change of the parameters when each group of points that
            share their items errs by one standard error, shape (g, p).
        level: confidence level of intervals.
    """

    theta: Floats
    replicates: Floats
    shifts: tuple[Floats, ...]
    level: float

    def at(self, function: Callable[[Floats], Floats], scatter: float = 0.0) -> tuple[Floats, Floats, Floats]:
        """Return a function of the parameters, and half the width of its interval.

        Half the width is √(t²(v + s²) + z²u): v is the variance over runs with G − 1 degrees of
        freedom, s² the variance of new runs, u the variance over items.

        Args:
            function: parameters, shape (k, p), to values, shape (k, m).
            scatter: s².

        Returns:
            Values (m,), half widths (m,), NaN where there can be no interval, and the values
            without one run each (G, m).
        """
        with np.errstate(all="ignore"):
            every = function(np.vstack([self.theta[None], self.replicates]))
            groups = len(self.replicates)
            if groups < 2:
                return every[0], np.full(every.shape[1], np.nan), every[1:]
            runs = np.array([jackknife.jackknife_error(one) for one in every[1:].T])
            t, z = jackknife.quantile(groups, self.level), float(distributions.norm.ppf(0.5 + self.level / 2))
            width = np.hypot(t * np.hypot(runs, np.sqrt(scatter)), z * self._items(function))
        return every[0], width, every[1:]

    def interval(self, function: Callable[[Floats], Floats], scatter: float = 0.0) -> tuple[Floats, Floats, Floats]:
        """Return a function of the parameters and the ends of its interval, as ``at`` does."""
        value, width, _ = self.at(function, scatter)
        return value, value - width, value + width

    def _items(self, function: Callable[[Floats], Floats]) -> Floats | float:
        if not self.shifts:
            return 0.0
        theta = self.theta[None]
        slopes = solver.jacobian(function, theta, function(theta))[0]
        errors: Floats = np.max([np.sqrt(np.sum((shift @ slopes) ** 2, axis=0)) for shift in self.shifts], axis=0)
        return errors


def spread(solution: Solution, replicates: Floats, points: Points, level: float) -> Spread:
    """Return the spread of a fit.

    Args:
        solution: the fit.
        replicates: parameters without one run each, shape (G, p).
        points: points that it was fitted to.
        level: confidence level of intervals.
    """
    if not (points.error > 0).any():
        return Spread(solution.theta, replicates, (), level)
    moved = solver.influence(solution.problem, solution.theta) * points.error
    return Spread(solution.theta, replicates, tuple(_together(moved, shared) for shared in ways(points)), level)


def _together(moved: Floats, shared: solver.Numbers) -> Floats:
    """Sum the effects of points on parameters over groups, (p, n) to (g, p)."""
    groups = np.zeros((int(shared.max()) + 1, moved.shape[0]))
    np.add.at(groups, shared, moved.T)
    return groups


def ways(points: Points) -> list[solver.Numbers]:
    """Return the ways in which points may share their errors over items.

    Each is the number of the group of each point, shape (n,).
    """
    found = [next((name for name in names if _is_known(points, name)), None) for names in ALONG]
    differ = [points.columns[name] for name in found if name is not None and np.ptp(points.columns[name]) > 0]
    if found[0] is None and found[1] is None:
        differ = [np.unique(np.stack(list(points.columns.values())), axis=1, return_inverse=True)[1].ravel().astype(float)]
    ways = []
    for count in range(len(differ) + 1):
        for chosen in itertools.combinations(differ, count):
            keys = np.stack([np.zeros(len(points.response)), *chosen])
            ways.append(np.unique(keys, axis=1, return_inverse=True)[1].ravel())
    return ways


def _is_known(points: Points, name: str) -> bool:
    return name in points.columns and bool(np.isfinite(points.columns[name]).all())
