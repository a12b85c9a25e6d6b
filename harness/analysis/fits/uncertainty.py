"""How far a fit may be off: runs vary, and all runs were asked the same items.

**Runs** are left out in turn (``jackknife``). What all runs share never shows there: where every
seed moves the same items, runs agree, and agree on what these items happen to say. **Items**
therefore come in through ``stderr``, the error of each point over items: it is taken as shared
whole between runs, carried through the fit's first derivative, and its variance is added to that
over runs. How far runs share their items' movement cannot be told from how they differ, so nothing
is taken off for what the jackknife already holds: where they share none of it, the interval is too
wide, never too narrow.

Over sizes, volumes and shares of old data the same items are asked too, and it matters in which
direction: errors that all points share move a level and leave a slope, errors of each volume of its
own move a slope. Errors made of parts that are shared along any of these have a variance between
those of the parts alone, so the largest is taken.
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
"""What points of different places differ in: of each, the first column that there is."""


@dataclass(frozen=True)
class Spread:
    """What the errors of all that follows from a fit are worked out from.

    Attributes:
        theta: the parameters, shape (p,).
        replicates: without one run each, shape (G, p); G = 0 where there can be no interval.
        shifts: for each way of sharing, what the parameters move by where items that are shared err
            by one standard error, shape (g, p).
        level: of intervals.
    """

    theta: Floats
    replicates: Floats
    shifts: tuple[Floats, ...]
    level: float

    def at(self, what: Callable[[Floats], Floats], scatter: float = 0.0) -> tuple[Floats, Floats, Floats]:
        """Return something that follows from the parameters, and half the width of its interval.

        Half the width is √(t²(v + s²) + z²u): v over runs with G − 1 degrees of freedom, s² the
        scatter of new runs, u over items.

        Args:
            what: parameters, shape (k, p), to values, shape (k, m).
            scatter: s².

        Returns:
            Values (m,), half widths (m,), NaN where there can be no interval, and the values
            without one run each (G, m).
        """
        with np.errstate(all="ignore"):
            every = what(np.vstack([self.theta[None], self.replicates]))
            groups = len(self.replicates)
            if groups < 2:
                return every[0], np.full(every.shape[1], np.nan), every[1:]
            runs = np.array([jackknife.jackknife_error(one) for one in every[1:].T])
            t, z = jackknife.quantile(groups, self.level), float(distributions.norm.ppf(0.5 + self.level / 2))
            width = np.hypot(t * np.hypot(runs, np.sqrt(scatter)), z * self._items(what))
        return every[0], width, every[1:]

    def _items(self, what: Callable[[Floats], Floats]) -> Floats | float:
        if not self.shifts:
            return 0.0
        theta = self.theta[None]
        slopes = solver.jacobian(what, theta, what(theta))[0]
        errors: Floats = np.max([np.sqrt(np.sum((shift @ slopes) ** 2, axis=0)) for shift in self.shifts], axis=0)
        return errors


def spread(solution: Solution, replicates: Floats, points: Points, level: float) -> Spread:
    """Return the spread of a fit.

    Args:
        solution: the fit.
        replicates: without one run each, shape (G, p).
        points: what it was fitted to.
        level: of intervals.
    """
    if not (points.error > 0).any():
        return Spread(solution.theta, replicates, (), level)
    moved = solver.influence(solution.problem, solution.theta) * points.error
    return Spread(solution.theta, replicates, tuple(_together(moved, shared) for shared in _ways(points)), level)


def _together(moved: Floats, shared: solver.Numbers) -> Floats:
    """Return what groups of points move the parameters by together, (p, n) to (g, p)."""
    groups = np.zeros((int(shared.max()) + 1, moved.shape[0]))
    np.add.at(groups, shared, moved.T)
    return groups


def _ways(points: Points) -> list[solver.Numbers]:
    """Return the ways in which points may share what items err by, each the number of the group of each point, shape (n,)."""
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
