"""Fits of a law to the points of several cells together, or to one with weak priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.fits import pooling, posterior, solver
from harness.analysis.fits.estimate import Model, Points, Solution
from harness.analysis.fits.intervals import LEVEL, Parameter
from harness.analysis.fits.laws import Law
from harness.analysis.fits.points import CAN_LOSE
from harness.analysis.fits.posterior import Posterior
from harness.analysis.fits.solver import Floats
from harness.analysis.fits.uncertainty import Spread


@dataclass(frozen=True)
class Estimated:
    """A law estimated from points, before it is judged.

    Attributes:
        model: the law with its references.
        solution: its best parameters.
        errors: what is known of the parameters.
        scatter: s², the variance of new runs.
        parameters: name → value, interval and unit.
        residual: response minus the curve, shape (n,).
        notes: remarks for the reader.
        predicted: what is held out, the other points and the points held out to predictions of
            these; None for those of a fit by least squares.
    """

    model: Model
    solution: Solution
    errors: Spread | Posterior
    scatter: float
    parameters: Mapping[str, Parameter]
    residual: Floats
    notes: Sequence[str]
    predicted: Callable[[str, Points, Points], Floats] | None = None


def estimated(law: Law, cells: Sequence[Points], count: int, *, judge: bool) -> list[Estimated]:
    """Estimate a law by partial pooling.

    Args:
        law: a law with priors of its shape.
        cells: points of each cell.
        count: number of cells, the first ones, that are estimated; the others take part.
        judge: whether points will be held out.
    """
    most = [_most(points) for points in cells]
    model, shapes, means = pooling.together(law, cells, most)
    others = pooling.without_largest(law, cells, most) if judge else [None] * count
    found = []
    for place, points in enumerate(cells[:count]):
        drawn = posterior.posterior(model, shapes, means[place], LEVEL)
        curve = model.curve(points.columns)
        residual = points.response - drawn.curve(curve)
        variance = np.full(len(residual), float(np.mean(residual**2)) + 1e-300)
        problem = solver.Problem(curve, points.response, variance, model.low, model.high, model.pure)
        parameters, unclear = drawn.parameters(model)
        notes = [*_about(drawn, points, len(cells)), *unclear]
        solution = Solution(drawn.best, variance, 0.0, True, problem)
        predicted = _predictions(law, others[place], most[place])
        found.append(Estimated(model, solution, drawn, drawn.means.variance, parameters, residual, notes, predicted))
    return found


def _most(points: Points) -> float | None:
    """Return the largest possible response; None if unknown."""
    limit = points.columns.get(CAN_LOSE, np.array([np.nan]))
    return float(limit.max()) if np.isfinite(limit).all() else None


def _predictions(law: Law, others: pooling.Found | None, most: float | None) -> Callable[[str, Points, Points], Floats]:
    """Return predictions of held-out points; at the largest volume, of all cells without theirs."""

    def predicted(label: str, rest: Points, there: Points) -> Floats:
        joint = others if label == "largest volume" else None
        model, shapes, means = joint or pooling.alone(law, rest, most)
        return posterior.posterior(model, shapes, means, LEVEL).curve(model.curve(there.columns))

    return predicted


def _about(drawn: Posterior, points: Points, count: int) -> list[str]:
    """Return notes on how a cell was fitted."""
    if count > 1:
        others = f"{count - 1} other cell{'s' if count > 2 else ''}"
        notes = [f"fitted together with {others}: what these points leave open of the curve's shape comes from theirs"]
    else:
        notes = ["one cell alone: what its points leave open comes from weak priors; the page fits all cells of an experiment together"]
    if not drawn.has_interval:
        return [*notes, "one run: the variation between runs is unknown, so there are no intervals"]
    over = "runs and, by stderr, items, which count as shared by all runs" if (points.error > 0).any() else "runs alone: no stderr"
    return [*notes, f"intervals are over {over}; and over how far the law may be wrong"]
