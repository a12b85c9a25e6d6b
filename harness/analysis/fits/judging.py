"""Judgement of a fit: enough points, comparison with simpler laws, error on held-out points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats as distributions

from harness.analysis.fits import estimate, jackknife, laws
from harness.analysis.fits.estimate import Model, Points, Solution
from harness.analysis.fits.laws import Law, Term
from harness.analysis.fits.solver import Floats
from harness.core.errors import AnalysisError, explain

MIN_GAIN = 2.0
"""Smallest difference by which a law's AIC must be below a constant's to be supported.

Within 2, the constant still has substantial support (Burnham & Anderson 2002, section 2.6). With
few points a larger difference is required, that of an F test of size FALSE.
"""

FALSE = 0.05
"""Share of planted constants that may be called a law.

Measured on 200 each (± 1.5 percentage points) by ``benchmarks/calibration/fits.py``: with 5 to 8
points a straight line 3.5 to 7.0%, a power 3.5 to 6.0%, kl 0 to 2.5%; a power on cells of 15 to 40
points 3.0 to 4.0%.
"""

SIZES = ("params_total", "params_trainable")
VOLUMES = ("volume", "train_tokens", "steps")


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


def least_gain(law: Law, points: Points, held: Mapping[str, float]) -> float | None:
    """Return how much lower than a constant's AIC a law's must be, at least MIN_GAIN.

    None with too few points to distinguish the two. An F test of p parameters against one finds a
    gain of n log(1 + (p − 1) F / (n − p)) − 2 (p − 1) in FALSE of all constants. n counts distinct
    places once per run, since repeated rows add no information on the shape.
    """
    size = len(law.terms) - len(held)
    places = np.stack([points.cluster.astype(float), *(points.columns[name] for name in law.columns)])
    n, more = len(np.unique(places, axis=1).T), size - 1
    if n <= size + 2:
        return None
    quantile = float(distributions.f.ppf(1.0 - FALSE, more, n - size))
    return max(MIN_GAIN, n * math.log1p(more * quantile / (n - size)) - 2 * more)


def verdict(solution: Solution, own: float | None, others: Mapping[str, float], bar: float | None) -> str:
    """Return the verdict on a fit in words.

    Args:
        solution: the fit.
        own: its AIC; None where there is none.
        others: simpler law → its AIC.
        bar: as returned by ``least_gain``.
    """
    if not solution.converged:
        return "not converged: the search stopped before it found the best parameters"
    if own is None:
        return "not judged: no more points than parameters"
    if bar is None:
        return f"not judged: too few points to distinguish from a constant (more than {len(solution.theta) + 2} are needed)"
    gain = others["constant"] - own
    compared = f"AIC {abs(gain):.1f} {'below' if gain >= 0 else 'above'} a constant's"
    if gain < bar:
        return f"not distinguishable from a constant ({compared}; {bar:.3g} below is required)"
    name, least = min(others.items(), key=lambda item: item[1])
    if least <= own:
        return f"supported ({compared}), but {name} fits as well with fewer parameters (AIC {own - least:.1f} lower)"
    return f"supported ({compared})"


def held_out(
    law: Law, points: Points, predicted: Callable[[str, Points, Points], Floats] | None = None
) -> tuple[dict[str, float], list[str]]:
    """Return the errors at the largest size and at the largest volume.

    Each is that of a fit to the other points. Also return notes on errors that are missing.

    Args:
        law: the law.
        points: the points.
        predicted: what is held out, the other points and the points held out to predictions of
            these; by default those of a fit by least squares.
    """
    found: dict[str, float] = {}
    notes = []
    for label, choices in {"largest size": SIZES, "largest volume": VOLUMES}.items():
        column = next((name for name in choices if name in points.columns and np.isfinite(points.columns[name]).all()), None)
        if column is None or len(np.unique(points.columns[column])) < 2:
            continue
        largest = points.columns[column] == points.columns[column].max()
        rest, there = points.where(~largest), points.where(largest)
        idle = law.idle(rest.columns)
        held = {name: law.held[name] for name in idle}
        try:
            require_enough(law, rest, held)
        except AnalysisError as error:
            notes.append(f"{label} cannot be held out: {error}")
            continue
        if predicted is None:
            fitted = estimate.build(law, rest, held)
            guess = fitted.curve(there.columns)(estimate.best(fitted, rest).theta[None])[0]
        else:
            guess = predicted(label, rest, there)
        miss = float(np.mean(np.abs(there.response - guess)))
        found[label] = miss
        size = float(np.mean(np.abs(there.response)))
        if size > 0:
            found[f"{label}, share of the response"] = miss / size
    return found, notes
