"""Laws of forgetting, one file each.

To add a law, add one file ``NAME.py`` here. ``harness fit --law NAME`` and the page then find it by
its file name; nothing is registered. The file must define ``LAW``, a ``Law`` with these fields:

- ``name``: the file name without ``.py``.
- ``formula``: the response as text in the words of the table, such as ``c * volume^k``.
- ``source``: the paper and its equation, or "ours: …". Name what is unverified.
- ``terms``: one ``Term`` per parameter. A nonlinear term needs ``starts``, the values at which the
  search begins, each between ``low`` and ``high``. A linear term (``linear=True``) needs none,
  since it is solved for. A term with the scale ``log`` needs a ``low`` above 0.
- ``columns``: the columns of the points that the curve reads, out of ``points.PREDICTORS``, or any
  others that the user's file has.
- ``positive``: those columns that must be above 0. The curve gets them divided by a reference, the
  geometric mean of their values, so that no parameter depends on units.
- ``needs``: column → number of distinct values that the parameters need.
- ``curve``: a function (terms, columns) → response. Terms have shape (k, 1), columns (n,), the
  response (k, n); plain arithmetic and NumPy functions broadcast.

The other fields are optional:

- ``shown``: (terms, column → reference) → values of the formula's parameters. It is needed for each
  term whose value changes when columns are divided by their references: for c * volume^k, c is
  fitted at the reference, so ``shown`` returns ``{"c": c * reference["volume"] ** -k}``.
- ``simpler``: name → {term: fixed value}, simpler laws to compare with. A constant is always one.
- ``idle`` and ``held``: terms that some points cannot determine, and the values to hold them at.
- ``notes``: remarks to print with every fit.
- ``response``: the column that is fitted, ``forgetting`` by default.
- ``shape``: term → ``Prior``, for laws of one cell: all terms but a linear one, which scales the
  curve. Such laws can be fitted to several cells together (``pooling``).
- ``plateau``: the linear term, if it is what forgetting tends to.

``power.py`` is a short example; ``injection.py`` has the optional fields too. On the page a law is
fitted to all points that agree in the labels ``all_laws.WAYS``; ``all_laws.SCOPES`` has exceptions.
The tests in ``tests/analysis/fits/test_fitting.py`` run for every law: add its formula and columns
to ``FORMULAS`` and ``FORMULAS_COLUMNS`` there, and true parameters to ``TRUE``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.core.errors import AnalysisError, did_you_mean, explain

Floats = npt.NDArray[np.float64]

Values = Mapping[str, Floats]
"""Name → array: parameters with shape (k, 1), columns with shape (n,), so that a curve has shape
(k, n)."""


@dataclass(frozen=True)
class Term:
    """One parameter of a law.

    Attributes:
        name: name in the formula and in results.
        unit: unit of the parameter in the formula.
        starts: values at which the search begins; none for linear terms, which are solved for.
        low: smallest fitted value allowed.
        high: largest fitted value allowed.
        scale: scale on which the interval is symmetric. ``log``: the logarithm, for parameters that
            are positive by construction; they are fitted by it. ``signed``: the logarithm of the
            size, for factors of unknown sign. ``plain``: the parameter itself.
        linear: whether the curve is a linear function of the parameter.
    """

    name: str
    unit: str
    starts: tuple[float, ...] = ()
    low: float = -float("inf")
    high: float = float("inf")
    scale: Literal["plain", "log", "signed"] = "plain"
    linear: bool = False


@dataclass(frozen=True)
class Prior:
    """Weak prior of a term that gives a curve its shape, on the scale on which it is fitted.

    Attributes:
        mean: mean over all cells anywhere, of the logarithm for terms with the scale ``log``; the
            columns are divided by their references.
        sd: standard deviation about it.
        step: distance of neighbouring values in the first grid.
        widest: largest standard deviation that the cells of one experiment may have; the smallest
            is one step.
    """

    mean: float
    sd: float
    step: float
    widest: float


def _as_fitted(terms: Values, references: Mapping[str, float]) -> dict[str, Floats]:  # noqa: ARG001 - Law.shown takes both
    return {}


def _nothing_idle(columns: Values) -> dict[str, str]:  # noqa: ARG001 - Law.idle takes them
    return {}


@dataclass(frozen=True, kw_only=True)
class Law:
    """A law of forgetting; the package docstring says how to write one.

    Attributes:
        name: name for ``--law``, equal to the file's name.
        formula: formula of the response, in the words of the table.
        source: paper and equation.
        terms: parameters.
        columns: columns of the points that are required.
        positive: those columns that must be above 0 and are divided by their reference.
        needs: column → number of distinct values that the parameters need.
        curve: (fitted terms, columns divided by their references) → response.
        shown: (fitted terms, column → reference) → parameters of the formula, for the terms whose
            fitted value is another.
        simpler: simpler laws for the same response: name → {term: fitted value held fixed}. A
            constant is always one.
        idle: columns → {term: reason why these points do not determine it}; the term is then held
            at its value in ``held``.
        held: term → fitted value where it is idle.
        notes: remarks for the reader of every fit.
        response: column that is fitted.
        shape: term → prior, for all terms but one linear one, if the law can be fitted to several
            cells together.
        plateau: name of the linear term, if it is what the response tends to; else empty.
    """

    name: str
    formula: str
    source: str
    terms: tuple[Term, ...]
    columns: tuple[str, ...]
    positive: frozenset[str]
    needs: Mapping[str, int]
    curve: Callable[[Values, Values], Floats]
    shown: Callable[[Values, Mapping[str, float]], dict[str, Floats]] = _as_fitted
    simpler: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    idle: Callable[[Values], dict[str, str]] = _nothing_idle
    held: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    response: str = "forgetting"
    shape: Mapping[str, Prior] = field(default_factory=dict)
    plateau: str = ""


def names() -> list[str]:
    """Return the names of all laws."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def named(name: str) -> Law:
    """Return a law by its name; raises AnalysisError that lists the known names."""
    if name not in names():
        raise AnalysisError(explain("law", got=repr(name), allowed=", ".join(names()), fix=did_you_mean(name, names())))
    law: Law = importlib.import_module(f"{__name__}.{name}").LAW
    return law
