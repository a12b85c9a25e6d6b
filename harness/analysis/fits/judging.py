"""Judgement of a fit: enough points, comparison with simpler laws, error on held-out points."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.fits import estimate, jackknife, laws, support
from harness.analysis.fits.estimate import Model, Points, Solution
from harness.analysis.fits.intervals import Parameter
from harness.analysis.fits.laws import Law, Term
from harness.analysis.fits.points import LARGEST
from harness.analysis.fits.solver import Booleans, Floats, Numbers
from harness.analysis.fits.support import Trend
from harness.core.errors import AnalysisError, explain


def _mean(term: laws.Values, column: laws.Values) -> Floats:  # noqa: ARG001 - a curve takes both
    return term["mean"]


CONSTANT = Law(
    name="constant",
    formula="mean",
    source="",
    terms=(Term("mean", "response", linear=True),),
    columns=(),
    positive=frozenset(),
    needs={},
    curve=_mean,
)


def require_enough(law: Law, points: Points, held: Mapping[str, float]) -> None:
    """Raise AnalysisError where the columns have too few distinct values for the parameters."""
    named = ", ".join(term.name for term in law.terms if term.name not in held)
    for name, least in law.needs.items():
        found = len(np.unique(points.columns[name]))
        if found < least:
            got, allowed = f"{found} distinct value{'' if found == 1 else 's'}", f"at least {least}, for {named}"
            raise AnalysisError(explain(f"{law.name}: column {name}", got=got, allowed=allowed, fix=f"more values of {name}"))
    least = len(law.terms) - len(held)
    places = len(np.unique(np.stack([points.columns[name] for name in law.columns]), axis=1).T)
    if places < least:
        got = f"{places} distinct rows"
        where = f"{law.name}: columns {', '.join(law.columns)}"
        raise AnalysisError(explain(where, got=got, allowed=f"at least {least}, for {named}", fix="points at more places"))


def aic(fitted: Model, theta: Floats, points: Points) -> float | None:
    """Return 2·(parameters and variances) − 2 log likelihood, with runs as clusters.

    None unless there are more points than parameters.
    """
    if len(points.response) <= len(fitted.free):
        return None
    residual = points.response - fitted.curve(points.columns)(theta[None])[0]
    floor = 1e-18 * float(np.mean(points.response**2)) + 1e-300
    twice, variances = jackknife.deviance(residual, points.error, points.cluster, floor)
    return twice + 2 * (len(fitted.free) + variances) if math.isfinite(twice) else None


def alternatives(law: Law, points: Points, held: Mapping[str, float]) -> dict[str, float]:
    """Return the AIC of each simpler law on the same points, a constant included."""
    simpler: dict[str, tuple[Law, Mapping[str, float]]] = {"constant": (CONSTANT, {})}
    simpler |= {name: (law, {**held, **still}) for name, still in law.simpler.items() if still.keys() - held.keys()}
    found = {}
    for name, (other, still) in simpler.items():
        fitted = estimate.build(other, points, still)
        value = aic(fitted, estimate.best(fitted, points).theta, points)
        if value is not None:
            found[name] = value
    return found


def not_excluded(law: Law, parameters: Mapping[str, Parameter]) -> list[str]:
    """Return the simpler laws whose fixed value is inside its parameter's interval.

    Simpler laws without a column are judged by the column's trend instead.
    """
    found = []
    for name, still in law.simpler.items():
        ends = [(parameters[term], value) for term, value in still.items()]
        if len(ends) == 1 and (one := ends[0][0]).low is not None and one.high is not None and one.low <= ends[0][1] <= one.high:
            found.append(name)
    return found


def verdict(solution: Solution, trends: Mapping[str, Trend], simpler: Sequence[str], r2: float | None) -> str:
    """Return the verdict on a fit in words.

    Args:
        solution: the fit.
        trends: as returned by ``support.trends``.
        simpler: as returned by ``not_excluded``.
        r2: share of the response's variance that the law explains; None where it does not vary.
    """
    if not solution.converged:
        return "not converged: the search stopped before it found the best parameters"
    found = support.in_words(trends, r2)
    return "; ".join([found, *(f"{name} is not excluded" for name in simpler)]) if found.startswith("supported") else found


NAIVE = {"largest size": "the mean of the other sizes", "largest volume": "the last volume"}
"""Held-out points → the naive prediction of them, which takes no law."""


@dataclass(frozen=True)
class HeldOut:
    """Errors at held-out points, of a law and of the naive baseline.

    Attributes:
        errors: "largest size", "largest volume" → mean absolute error of a fit to the other points;
            with ", share of the response" the same divided by the mean absolute response there.
        naive: "largest size", "largest volume" → that of the naive baseline at the same points.
        compared: "largest size", "largest volume" → comparison of the two in words.
        notes: remarks on errors that are missing.
    """

    errors: dict[str, float]
    naive: dict[str, float]
    compared: dict[str, str]
    notes: list[str]


def held_out(law: Law, points: Points, predicted: Callable[[str, Points, Points], Floats] | None = None) -> HeldOut:
    """Return the errors at the largest size and at the largest volume.

    Args:
        law: the law.
        points: the points.
        predicted: what is held out, the other points and the points held out to predictions of
            these; by default those of a fit by least squares.
    """
    found, rounding = HeldOut({}, {}, {}, []), 1e-9 * float(np.mean(np.abs(points.response))) + 1.0 / LARGEST
    for label, choices in {"largest size": support.SIZES, "largest volume": support.VOLUMES}.items():
        column = next((name for name in choices if name in points.columns and np.isfinite(points.columns[name]).all()), None)
        if column is None or len(np.unique(points.columns[column])) < 2:
            found.compared[label] = f"cannot be compared: {'one' if column else 'no known'} {label.split()[1]}"
            continue
        largest = points.columns[column] == points.columns[column].max()
        rest, there = points.where(~largest), points.where(largest)
        naive = _other_sizes(points, largest) if label == "largest size" else _volume_before(points, largest, points.columns[column])
        if not isinstance(naive, str):
            found.naive[label] = float(np.mean(np.abs(there.response - naive)))
        held = {name: law.held[name] for name in law.idle(rest.columns)}
        try:
            require_enough(law, rest, held)
        except AnalysisError as error:
            found.notes.append(f"{label} cannot be held out: {error}")
            found.compared[label] = "cannot be compared: too few other points for the law"
            continue
        guess = predicted(label, rest, there) if predicted else _least_squares(law, rest, there, held)
        miss = float(np.mean(np.abs(there.response - guess)))
        found.errors[label] = miss
        size = float(np.mean(np.abs(there.response)))
        told = f"cannot be compared: {naive}" if isinstance(naive, str) else _against(miss, found.naive[label], rounding, NAIVE[label])
        found.compared[label] = told
        if size > 0:
            found.errors[f"{label}, share of the response"] = miss / size
    return found


def _least_squares(law: Law, rest: Points, there: Points, held: Mapping[str, float]) -> Floats:
    """Return the curve at ``there`` of a fit to the other points."""
    fitted = estimate.build(law, rest, held)
    guess: Floats = fitted.curve(there.columns)(estimate.best(fitted, rest).theta[None])[0]
    return guess


def _against(error: float, naive: float, rounding: float, name: str) -> str:
    """Return a comparison of errors in words; errors that agree in three digits are equal."""
    if f"{error:.3g}" == f"{naive:.3g}" or max(error, naive) <= rounding:
        return f"predicts as well as {name}"
    return f"predicts {'worse' if error > naive else 'better'} than {name}, by {abs(error - naive):.3g}"


def shown(compared: Mapping[str, str], errors: Collection[str]) -> list[str]:
    """Return the held-out points to show: those with an error of law or baseline, else all."""
    return [label for label in compared if label in errors] or list(compared)


def _volume_before(points: Points, largest: Booleans, volume: Floats) -> Floats | str:
    """Return the mean of each held-out point's cell at the volume before, shape (held out,).

    A cell is the runs of one size and share of old data: those for which a law predicts the same.
    """
    cells = _cells(points)
    last = {cell: float(np.max(volume[(cells == cell) & ~largest], initial=-np.inf)) for cell in np.unique(cells[largest])}
    if missing := sum(value == -np.inf for value in last.values()):
        return f"{missing} of {len(last)} cells have no smaller volume"
    means = {cell: float(points.response[(cells == cell) & (volume == value)].mean()) for cell, value in last.items()}
    return np.array([means[cell] for cell in cells[largest]])


def _cells(points: Points) -> Numbers:
    """Return the number of each point's cell: its size, and the share of old data of its run."""
    share = points.columns.get("inject_fraction", np.zeros(len(points.response)))
    by_run = np.bincount(points.cluster, share) / np.bincount(points.cluster)
    keys = np.stack([support.sizes_of(points), support.rounded(by_run)[points.cluster]])
    return np.unique(keys, axis=1, return_inverse=True)[1].ravel()


def _other_sizes(points: Points, largest: Booleans) -> Floats | str:
    """Return the mean of the other sizes' means, shape (held out,).

    It is at each held-out point's volume and share of old data, where these are known.
    """
    at, sizes = support.conditions(points), support.sizes_of(points)
    found: dict[tuple[float, ...], dict[int, list[float]]] = {}
    for i in np.flatnonzero(~largest):
        found.setdefault(at[i], {}).setdefault(int(sizes[i]), []).append(float(points.response[i]))
    there = [at[i] for i in np.flatnonzero(largest)]
    if missing := sum(one not in found for one in there):
        return f"no other size has the volume of {missing} of {len(there)} held-out points"
    means = {one: float(np.mean([np.mean(values) for values in of.values()])) for one, of in found.items()}
    return np.array([means[one] for one in there])


def require_comparable(law: Law, points: pd.DataFrame) -> None:
    """Raise AnalysisError where a law over sizes meets learning rates that do not compare.

    They compare where each size's rate was searched, or all sizes have equal rates; within a
    tuning, since each has its own. Points without ``learning_rate`` are taken as they are.
    """
    size = next((name for name in support.SIZES if name in law.columns and name in points.columns), None)
    if size is None or "learning_rate" not in points.columns:
        return
    columns = {name: points[name] if name in points.columns else pd.Series(index=points.index, dtype=object) for name in _RATES}
    known = pd.DataFrame(columns | {"size": points[size]}).dropna(subset=["learning_rate", "size"])
    known["lr_tuned"] = [text in ("True", "true", "1", "1.0") for text in known["lr_tuned"].astype("string").fillna("")]
    for _, part in known.groupby(known["tuning"].astype("string").fillna("")):
        rates = {f"{of:.4g}": tuple(sorted(found)) for of, found in part.groupby("size")["learning_rate"].unique().items()}
        guessed = part.loc[~part["lr_tuned"], "size"].nunique()
        if guessed and len(set(rates.values())) > 1:
            told = [f"{' and '.join(f'{rate:g}' for rate in found)} at {size} {of}" for of, found in list(rates.items())[:4]]
            got = f"{'; '.join(told)}{'; …' if len(rates) > 4 else ''}: not searched for {guessed} of {len(rates)} sizes"
            allowed = "rates searched for every size, or equal ones"
            fix = "search them (harness learning-rates), or --where learning_rate=RATE"
            raise AnalysisError(explain(f"{law.name}: learning rates of the sizes", got=got, allowed=allowed, fix=fix))


_RATES = ("learning_rate", "lr_tuned", "tuning")
