"""Fits of laws to points, with intervals, held-out error and comparison with simpler laws.

Everything is on the signed scale of the response, so small and negative forgetting count like any
other. ``harness.analysis.fits.estimate`` fits by robust least squares from many starts;
``harness.analysis.fits.jackknife`` treats runs as clusters. All results are deterministic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.fits import estimate, intervals, jackknife, judging, laws, support, together
from harness.analysis.fits.estimate import Model, Points, Solution
from harness.analysis.fits.intervals import LEVEL, Parameter
from harness.analysis.fits.laws import Law
from harness.analysis.fits.points import CAN_LOSE, allowed, gathered
from harness.analysis.fits.posterior import Posterior
from harness.analysis.fits.solver import Floats
from harness.analysis.fits.support import Trend
from harness.analysis.fits.together import Estimated
from harness.analysis.fits.uncertainty import Spread, spread
from harness.core.errors import AnalysisError, explain

__all__ = ["LEVEL", "Fit", "Parameter", "Prediction", "FitState", "as_dict", "fit", "fit_cells", "predict", "words"]

ENOUGH = 30
"""Largest number of cells that take part without a fit.

Further ones hardly add to what is known of all cells."""


@dataclass(frozen=True)
class FitState:
    """State of a fit from which it predicts.

    Attributes:
        model: the fitted model.
        spread: its errors.
        scatter: s², the variance of new runs.
        ranges: column → smallest and largest value fitted.
    """

    model: Model
    spread: Spread | Posterior
    scatter: float
    ranges: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Fit:
    """A law fitted to points.

    Attributes:
        law: name of the law.
        response: the column that was fitted.
        parameters: name → value, interval and unit, in the order of the formula.
        level: confidence level of the intervals.
        n: number of points.
        runs: number of runs, which are the clusters.
        r2: 1 − Σ r² / Σ (y − ȳ)²; None where the response does not vary.
        held_out: "largest size", "largest volume" → mean absolute error there of a fit to the other
            points, in the response's unit; with ", share of the response" the same divided by the
            mean absolute response there.
        held_out_error: the largest of these errors; None where nothing could be held out.
        naive: "largest size", "largest volume" → mean absolute error there of the naive baseline
            (the mean of the other sizes; the last volume before), in the response's unit.
        compared: "largest size", "largest volume" → the law against that baseline, in words.
        aic: AIC with runs as clusters; None if it was not asked for, or there are not more points
            than parameters.
        alternatives: simpler law → its AIC on the same points.
        trends: column → t-test of whether the response changes with it.
        verdict: verdict in words.
        standing: "declared beforehand", or "exploratory: not declared beforehand"; empty for points
            without an experiment.
        notes: remarks for the reader.
        state: state for predictions.
    """

    law: str
    response: str
    parameters: dict[str, Parameter]
    level: float
    n: int
    runs: int
    r2: float | None
    held_out: dict[str, float]
    held_out_error: float | None
    naive: dict[str, float]
    compared: dict[str, str]
    aic: float | None
    alternatives: dict[str, float]
    trends: dict[str, Trend]
    verdict: str
    standing: str
    notes: tuple[str, ...]
    state: FitState = field(repr=False, compare=False)

    def band(self, at: pd.DataFrame) -> pd.DataFrame:
        """Return the curve with its interval.

        Columns are ``value``, ``low`` and ``high`` (NaN without an interval), rows those of ``at``.
        """
        columns = {name: at[name].to_numpy(dtype=float) for name in laws.named(self.law).columns}
        value, low, high = self.state.spread.interval(self.state.model.curve(columns))
        return pd.DataFrame({"value": value, "low": low, "high": high}, index=at.index)


@dataclass(frozen=True)
class Prediction:
    """Predicted response of a point.

    Attributes:
        value: predicted response.
        low, high: interval that contains a new run's result with probability ``level``; None where
            there is no interval.
        level: probability.
        extrapolates: one text for each column that is outside the fitted range.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    extrapolates: list[str]


def fit(points: pd.DataFrame, law: str, *, judge: bool = True, aic: bool = False) -> Fit:
    """Fit a law.

    Args:
        points: one row per point, with the law's columns, ``forgetting``, and where known
            ``stderr`` and ``run_id``.
        law: name of the law.
        judge: whether to hold out points, which the verdict does not need.
        aic: whether to compute the AIC of the law and of simpler ones, a description.

    Returns:
        The fit.

    Raises:
        AnalysisError: for an unknown law, a missing column, text in a column of numbers, too few
            distinct values, or a law over sizes whose learning rates do not compare.
    """
    chosen = laws.named(law)
    judging.require_comparable(chosen, points)
    found, notes = gathered(points, chosen, _others(chosen))
    idle = chosen.idle(found.columns)
    held = {name: chosen.held[name] for name in idle}
    judging.require_enough(chosen, found, held)
    if chosen.plateau:
        alone = together.estimated(chosen, [found], 1, judge=judge)[0]
        return _judged(chosen, found, notes, {}, alone, _standing(points, law), judge=judge, aic=aic)
    fitted = estimate.build(chosen, found, held)
    solution = estimate.best(fitted, found)
    replicates, about = _replicates(chosen, solution, found, held)
    off = spread(solution, replicates, found, LEVEL)
    parameters, unclear = intervals.parameters(fitted, solution, off, found, idle)
    residual = found.response - fitted.curve(found.columns)(solution.theta[None])[0]
    about = [*(f"{why}: null" for why in idle.values()), *about, *unclear]
    own = Estimated(fitted, solution, off, _scatter(residual, solution, found), parameters, residual, about)
    return _judged(chosen, found, notes, held, own, _standing(points, law), judge=judge, aic=aic)


def fit_cells(
    cells: Sequence[pd.DataFrame], law: str, *, others: Sequence[pd.DataFrame] = (), judge: bool = True
) -> list[Fit | AnalysisError]:
    """Fit a law to each of several cells, together where cells can share its shape.

    Args:
        cells: points of each cell, as for ``fit``.
        law: name of the law.
        others: points of further cells, of which the first ENOUGH take part without a fit.
        judge: as for ``fit``.

    Returns:
        Of each cell its fit, or the error that says why there is none.
    """
    chosen = laws.named(law)
    found: dict[int, Fit | AnalysisError] = {}
    read: dict[int, tuple[Points, list[str]]] = {}
    for place, points in enumerate([*cells, *(others[:ENOUGH] if chosen.shape else [])]):
        try:
            one = gathered(points, chosen, _others(chosen))
            if chosen.shape:
                judging.require_enough(chosen, one[0], {})
                read[place] = one
            else:
                found[place] = fit(points, law, judge=judge)
        except AnalysisError as error:
            found[place] = error
    own = [place for place in read if place < len(cells)]
    if len(read) == 1 and own and not chosen.plateau:
        return [fit(cells[place], law, judge=judge) if place in own else found[place] for place in range(len(cells))]
    if own:
        every = together.estimated(chosen, [points for points, _ in read.values()], len(own), judge=judge)
        for place, estimated in zip(own, every, strict=True):
            found[place] = _judged(chosen, *read[place], {}, estimated, _standing(cells[place], law), judge=judge)
    return [found[place] for place in range(len(cells))]


def _others(law: Law) -> list[str]:
    return [*support.SIZES, *support.VOLUMES, *([CAN_LOSE] if law.shape else [])]


def _judged(
    law: Law,
    points: Points,
    notes: list[str],
    held: Mapping[str, float],
    own: Estimated,
    standing: str,
    *,
    judge: bool,
    aic: bool = False,
) -> Fit:
    """Return the fit of an estimated law, with its verdict and held-out error."""
    held_out = judging.held_out(law, points, own.predicted) if judge else judging.HeldOut({}, {}, {}, [])
    errors = [error for label, error in held_out.errors.items() if "," not in label]
    trends, r2 = support.trends(law, points, points.response - own.residual), _r2(own.residual, points.response)
    return Fit(
        law=law.name,
        response=law.response,
        parameters=dict(own.parameters),
        level=LEVEL,
        n=len(points.response),
        runs=int(points.cluster.max()) + 1,
        r2=r2,
        held_out=held_out.errors,
        held_out_error=max(errors) if errors else None,
        naive=held_out.naive,
        compared=held_out.compared,
        aic=judging.aic(own.model, own.solution.theta, points) if aic else None,
        alternatives=judging.alternatives(law, points, held) if aic else {},
        trends=trends,
        verdict=judging.verdict(own.solution, trends, judging.not_excluded(law, own.parameters), r2),
        standing=standing,
        notes=(*law.notes, *notes, *own.notes, *held_out.notes),
        state=FitState(own.model, own.errors, own.scatter, _ranges(law, points)),
    )


def _standing(points: pd.DataFrame, law: str) -> str:
    if "declared" not in points.attrs:
        return ""
    return "declared beforehand" if points.attrs["declared"] == law else "exploratory: not declared beforehand"


def predict(fit: Fit, at: Mapping[str, float]) -> Prediction:
    """Return the predicted response of one point, with an interval for a new run.

    Of a law fitted by least squares, it is value ± √(t²(v + s²) + z²u). v and u are variances of
    the curve, over runs and over items, as for the parameters' intervals. s² is the variance of
    runs and points about the curve, corrected for n − p and G − 1 degrees of freedom. Of other laws
    it is between quantiles of draws. The interval is for a new run measured on the same items, or
    on all items of their kind; a measurement on a few other items has their error in addition.

    Args:
        fit: the fit.
        at: column → value, for all of the law's columns.

    Raises:
        AnalysisError: if a column is missing or has an invalid value, or the curve is not finite
            there.
    """
    law = laws.named(fit.law)
    if absent := [name for name in law.columns if name not in at]:
        fix = " ".join(f"--at {name}=…" for name in absent)
        raise AnalysisError(explain(f"predict: {fit.law}", got=", ".join(at) or "nothing", allowed=", ".join(law.columns), fix=fix))
    for name in law.columns:
        least, most, range_text = allowed(law, name)
        if not math.isfinite(at[name]) or not least <= at[name] <= most or (name in law.positive and at[name] == 0):
            range_text = "a number above 0" if name in law.positive else range_text or "a finite number"
            raise AnalysisError(explain(f"predict: {name}", got=f"{at[name]:g}", allowed=range_text))
    curve = fit.state.model.curve({name: np.array([at[name]], dtype=float) for name in law.columns})
    value, low, high = (float(found[0]) for found in fit.state.spread.interval(curve, fit.state.scatter))
    if not math.isfinite(value):
        where = ", ".join(f"{name} {words(at[name])}" for name in law.columns)
        allow = "values closer to the fitted points"
        raise AnalysisError(explain(f"predict: {fit.law} at {where}", got="a value that is not finite", allowed=allow))
    ends = (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
    beyond = [text for name in law.columns if (text := _beyond(name, at[name], *fit.state.ranges[name], ratio=name in law.positive))]
    return Prediction(value, ends[0], ends[1], fit.level, beyond)


def _replicates(law: Law, solution: Solution, points: Points, held: Mapping[str, float]) -> tuple[Floats, list[str]]:
    """Return the parameters without one run each, shape (G, p), and notes on them.

    G is 0 where there can be no interval.
    """
    none = np.zeros((0, len(solution.theta)))
    if points.cluster.max() == 0:
        return none, ["one run: the variation between runs is unknown, so there are no intervals"]
    kept = jackknife.left_out(points.cluster)
    try:
        for rows in kept:
            judging.require_enough(law, points.where(rows > 0), held)
    except AnalysisError:
        return none, ["without one of the runs there are too few distinct values to fit the law, so there are no intervals"]
    found = estimate.refits(solution, kept)
    over = "runs and, by stderr, items, which count as shared by all runs" if (points.error > 0).any() else "runs alone: no stderr"
    notes = [f"intervals are over {over}"]
    notes += [] if len(kept) == points.cluster.max() + 1 else [f"intervals: by leaving out {len(kept)} groups of runs in turn"]
    if not found.converged.all():
        notes.append(f"{int(np.sum(~found.converged))} of {len(kept)} refits without a run did not converge: intervals may be too narrow")
    return found.theta, notes


def _scatter(residual: Floats, solution: Solution, points: Points) -> float:
    """Return the variance of a new run's point about the curve."""
    n, runs = len(residual), int(points.cluster.max()) + 1
    return float(np.sum(residual**2)) / max(n - len(solution.theta), 1) * runs / max(runs - 1, 1)


def _ranges(law: Law, points: Points) -> dict[str, tuple[float, float]]:
    return {name: (float(points.columns[name].min()), float(points.columns[name].max())) for name in law.columns}


def _beyond(name: str, value: float, low: float, high: float, *, ratio: bool) -> str:
    """Return a text on the distance of a value from the fitted range; empty inside."""
    if low <= value <= high:
        return ""
    above, end = value > high, high if value > high else low
    if not ratio:
        where = "above the largest" if above else "below the smallest"
        return f"{name} {words(value)} is {words(abs(value - end))} {where} fitted, {words(end)}"
    with np.errstate(over="ignore"):
        times = float(np.float64(value) / end if above else np.float64(end) / value)
    how = f"{times:,.0f}" if 100 <= times < 1e8 else words(float(f"{times:.3g}"))
    return f"{name} {words(value)} is {how} times {'the largest' if above else 'smaller than the smallest'} fitted, {words(end)}"


def words(value: float) -> str:
    """Return a number as text, such as 800,384, 1e9 or 0.031."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else "more than 1e308"
    if value == int(value) and abs(value) < 1e8 and not (value and value % 1e6 == 0):
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def _r2(residual: Floats, response: Floats) -> float | None:
    total = float(np.sum((response - response.mean()) ** 2))
    return 1.0 - float(np.sum(residual**2)) / total if total > 1e-18 * float(np.sum(response**2)) else None


def as_dict(fit: Fit) -> dict[str, Any]:
    """Return a fit as plain values for JSON; numbers that are not finite become None."""
    first = {"law": fit.law, "parameters": {name: dataclasses.asdict(one) for name, one in fit.parameters.items()}}
    plain = {name: value for name, value in vars(fit).items() if name not in {"state", *first}}
    trends = {name: dataclasses.asdict(one) for name, one in fit.trends.items()}
    found: dict[str, Any] = _without_nan(first | plain | {"trends": trends, "notes": list(fit.notes)})
    return found


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
