"""What the points of one cell leave possible of a law: draws of its parameters, and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from harness.analysis.fits import pooling
from harness.analysis.fits.estimate import Model
from harness.analysis.fits.intervals import Parameter
from harness.analysis.fits.noise import Means
from harness.analysis.fits.points import LARGEST
from harness.analysis.fits.pooling import Shapes
from harness.analysis.fits.solver import Curve, Floats

DRAWS = 1024
DETERMINED = 0.7
"""Share of its prior's standard deviation above which a term counts as hardly determined."""


@dataclass(frozen=True)
class Posterior:
    """Draws of a law's parameters for one cell, given its points and the other cells'.

    Attributes:
        theta: parameters, on the scale of the fit, shape (DRAWS, p).
        best: the likeliest parameters, shape (p,).
        means: the cell's means and noise.
        level: confidence level of intervals.
        narrowed: term of the shape → its standard deviation, as a share of its prior's.
    """

    theta: Floats
    best: Floats
    means: Means
    level: float
    narrowed: dict[str, float]

    @property
    def has_interval(self) -> bool:
        """Whether it is known how runs vary."""
        return bool(np.isfinite(self.means.variance))

    def parameters(self, model: Model) -> tuple[dict[str, Parameter], list[str]]:
        """Return medians and intervals of the formula's parameters, and notes on them."""
        shown, found = model.shown(self.theta), {}
        for term in model.law.terms:
            tail = 0.5 - self.level / 2
            low, value, high = (float(one) for one in np.quantile(shown[term.name], [tail, 0.5, 1.0 - tail]))
            known = self.has_interval and bool(np.isfinite([low, high]).all())
            ends = (low, high) if known else (None, None)
            found[term.name] = Parameter(value if np.isfinite(value) else None, ends[0], ends[1], term.unit)
        wide = [name for name, share in self.narrowed.items() if share > DETERMINED]
        return found, [f"{name} is hardly determined by these points: its interval is mostly that of its prior" for name in wide]

    def curve(self, curve: Curve) -> Floats:
        """Return the median of the curve, shape (n,)."""
        with np.errstate(all="ignore"):
            return np.asarray(np.median(self._possible(curve), axis=0))

    def interval(self, curve: Curve, scatter: float = 0.0) -> tuple[Floats, Floats, Floats]:
        """Return the curve with the ends of its interval, shape (n,) each.

        Args:
            curve: parameters, shape (k, p), to the curve at n points, shape (k, n).
            scatter: σ² of a new run, whose interval it then is; 0 for the curve alone. NaN ends if
                it is unknown how runs vary.
        """
        found = self._possible(curve)
        value = np.median(found, axis=0)
        if not self.has_interval:
            return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
        if scatter > 0:
            q = 1.0 - self.means.proportion + self.means.proportion * found**2 / self.means.level
            draw = _sobol(4)[:, 2:]
            runs = special.stdtrit(self.means.freedom, draw[:, :1]) * np.sqrt(scatter * q)
            found = found + runs + np.sqrt(self.means.beyond) * special.ndtri(draw[:, 1:])
        if self.means.most is not None:
            found = np.minimum(found, self.means.most)
        low, high = np.quantile(found, [0.5 - self.level / 2, 0.5 + self.level / 2], axis=0)
        return value, low, high

    def _possible(self, curve: Curve) -> Floats:
        found = np.asarray(curve(self.theta), dtype=float)
        return found if self.means.most is None else np.minimum(found, self.means.most)


def posterior(model: Model, shapes: Shapes, means: Means, level: float) -> Posterior:
    """Return what a cell's points leave possible.

    Args:
        model: the law with its reference.
        shapes: distribution of shapes over cells.
        means: the cell's means.
        level: confidence level of intervals.
    """
    axes = pooling.refined(model, shapes, means)
    weights, spread = pooling.weights(model, shapes, means, axes)
    drawn, best = _drawn(model, means, axes, weights, *spread)
    narrowed = {}
    for name, axis, weight in zip(model.law.shape, axes, pooling.marginals(weights), strict=True):
        narrowed[name] = pooling.around(axis, weight)[1] / model.law.shape[name].sd
    return Posterior(drawn, best, means, level, narrowed)


def _drawn(
    model: Model, means: Means, axes: Sequence[Floats], weights: Floats, found: Floats, factor: Floats, error: Floats
) -> tuple[Floats, Floats]:
    """Return draws of all parameters, and the likeliest parameters."""
    grid, draw = pooling.theta(model, axes), _sobol(4)
    place = next(i for i, term in enumerate(model.free) if term.linear)
    chosen = np.minimum(np.searchsorted(np.cumsum(weights), draw[:, 0]), weights.size - 1)
    theta, freedom = grid[chosen], means.freedom + means.count - 1.0
    limit = np.inf if means.most is None else means.most
    share = special.stdtr(freedom, (limit - factor[chosen]) / error[chosen])
    with np.errstate(all="ignore"):
        moved = special.stdtrit(freedom, np.clip(draw[:, 1] * share, 1e-12, 1 - 1e-12))
    drawn = factor[chosen] + np.nan_to_num(moved) * error[chosen]
    theta[:, place] = np.where(np.abs(drawn) > 1.0 / LARGEST, drawn, 0.0)
    top = int(np.argmax(np.where(np.isfinite(found), found, -np.inf)))
    best = grid[top].copy()
    best[place] = factor[top]
    return theta, best


def _sobol(count: int) -> Floats:
    """Return points that fill the unit cube evenly, always the same, shape (DRAWS, count)."""
    return np.asarray(np.clip(stats.qmc.Sobol(count, scramble=True, seed=1).random(DRAWS), 1e-6, 1 - 1e-6), dtype=float)
