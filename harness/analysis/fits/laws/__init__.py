"""Laws of forgetting: one file each, found by name. A new file that defines ``LAW`` is a new law.

A law is a curve over some columns of a table of points. It is fitted with each of its ``positive``
columns divided by a reference (the geometric mean of its values), so that nothing depends on units;
``shown`` turns what was fitted into the parameters of the formula.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.core.errors import AnalysisError, did_you_mean, explain

Values = Mapping[str, Any]
"""Name → number, or array: of parameters with shape (k, 1), of columns with shape (n,), so that
a curve has shape (k, n)."""


@dataclass(frozen=True)
class Term:
    """One parameter of a law.

    Attributes:
        name: as in the formula and in results.
        unit: of the parameter of the formula.
        starts: values that the search begins at (of linear terms: none, they are solved for).
        low: least value allowed, of what is fitted.
        high: largest value allowed, of what is fitted.
        scale: on which its interval is symmetric. ``log``: positive by construction, and fitted by
            its logarithm. ``signed``: a factor whose size has a logarithm and whose sign is not
            known. ``plain``: as it is.
        linear: whether the curve is a linear function of it.
    """

    name: str
    unit: str
    starts: tuple[float, ...] = ()
    low: float = -float("inf")
    high: float = float("inf")
    scale: Literal["plain", "log", "signed"] = "plain"
    linear: bool = False


def _as_fitted(terms: Values, references: Mapping[str, float]) -> dict[str, Any]:  # noqa: ARG001 - its place in Law takes both
    return {}


def _nothing_idle(columns: Values) -> dict[str, str]:  # noqa: ARG001 - likewise
    return {}


@dataclass(frozen=True, kw_only=True)
class Law:
    """A law, and what it needs.

    Attributes:
        name: as in ``--law``, and the file's.
        formula: of the response, in words of the table.
        source: where it is from.
        terms: its parameters.
        columns: of the table of points, each required.
        positive: of these, those that must be above 0 and are divided by their reference.
        needs: column → how many distinct values the parameters need.
        curve: (terms as fitted, columns divided by their references) → the response.
        shown: (terms as fitted, column → its reference) → the parameters of the formula, for terms
            where the two differ.
        simpler: simpler laws on the same response, by what holds a term still: words → {term: value
            as fitted}. A constant always is one.
        idle: columns → {term: why these points cannot say anything of it}; it then stays where
            ``held`` puts it.
        held: term → value of an idle term.
        notes: what a reader must know of every fit.
    """

    name: str
    formula: str
    source: str
    terms: tuple[Term, ...]
    columns: tuple[str, ...]
    positive: frozenset[str]
    needs: Mapping[str, int]
    curve: Callable[[Values, Values], Any]
    shown: Callable[[Values, Mapping[str, float]], dict[str, Any]] = _as_fitted
    simpler: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    idle: Callable[[Values], dict[str, str]] = _nothing_idle
    held: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    response: str = "forgetting"


def names() -> list[str]:
    """Return the names of all laws."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def named(name: str) -> Law:
    """Return a law by its name. Raises AnalysisError with the names there are."""
    if name not in names():
        raise AnalysisError(explain("law", got=repr(name), allowed=", ".join(names()), fix=did_you_mean(name, names())))
    law: Law = importlib.import_module(f"{__name__}.{name}").LAW
    return law
