"""The laws fitted to what was forgotten: parameters with their intervals, how well each predicts what it has not seen, what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.findings.arms import arm_names
from harness.analysis.fits import laws
from harness.report import words
from harness.report.content import Cell, ColumnGroup, ColumnView, TableView
from harness.report.curves import label_words
from harness.report.evidence import Evidence

POWER = "power"
MAX_UNIT = 16
ABOUT = {
    "injection": "forgetting by tokens trained on, model size and share of old data mixed in",
    "shifted_power": "forgetting by parameters trained and steps, towards a plateau",
    "linear": "forgetting by the loss on the new data",
    "kl": "forgetting by the divergence from the base model on the new data",
    POWER: "forgetting by volume, of each way of training by itself",
}
"""Law → what it relates; laws over sizes first, as they say most."""


def by_cell(evidence: Evidence) -> dict[str, Any]:
    """Return the power law of each cell that it was fitted to."""
    found = {}
    for one in evidence.fitted:
        if one.law == POWER and one.fit is not None:
            for cell in evidence.proper:
                if all(_text(cell.labels[name]) == value for name, value in one.where.items()):
                    found[cell.cell] = one
    return found


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def table(evidence: Evidence) -> TableView | None:
    """Return the table of fits, law by law."""
    if not evidence.fitted:
        return None
    sizes = {one.model: place for place, one in reversed(list(enumerate(evidence.every)))}
    order = {law: place for place, law in enumerate(ABOUT)}
    every = sorted(evidence.fitted, key=lambda one: (order.get(one.law, len(order)), one.law, sizes.get(one.where.get("model", ""), 0)))
    groups: list[ColumnGroup] = []
    rows: list[list[Cell | str]] = []
    for law in dict.fromkeys(one.law for one in every):
        fits = [one for one in every if one.law == law]
        shared = _shared(fits)
        groups.append(ColumnGroup(len(rows), law, _about(law, shared)))
        rows += [_row(one, shared, arm_names(evidence.findings)) for one in fits]
    numeric = ["R²", "held-out error"]
    return TableView(
        name="fits",
        columns=[
            ColumnView(title=name, is_number=name in numeric, is_prose=name == "verdict", meaning=_MEANINGS.get(name, ""))
            for name in ["of", "parameters", *numeric, "verdict"]
        ],
        rows=rows,
        groups=groups,
        caption=f"Laws of forgetting on {evidence.headline}; forgetting is positive where it is worse, in the metric's own unit."
        " Parameters stand with 90% intervals, in which the points of a run count as one. Held-out error: the mean absolute error on the"
        " largest volume, or size, when it is left out, the larger of the two.",
        data=pd.DataFrame([line for one in every for line in _lines(one)]),
    )


def _about(law: str, notes: Sequence[str]) -> str:
    formula = f"forgetting = {laws.named(law).formula}" if law in laws.names() else ""
    parts = [f"{ABOUT[law][0].upper()}{ABOUT[law][1:]}: {formula}" if law in ABOUT else formula, *map(_capital, notes)]
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def _capital(note: str) -> str:
    """Begin a sentence with a capital, but leave a name of a column as it is."""
    return note if "_" in note.split(" ", 1)[0] else f"{note[0].upper()}{note[1:]}"


def _shared(every: Sequence[Any]) -> list[str]:
    """Return the notes that all of several fits have, which are said once."""
    fits = [one.fit for one in every if one.fit is not None]
    return [note for note in fits[0].notes if all(note in fit.notes for fit in fits)] if len(fits) > 1 else []


def _row(one: Any, shared: Sequence[str], names: Mapping[tuple[str, str], str]) -> list[Cell | str]:
    of = " · ".join(filter(None, (label_words(name, names.get((name, value), value)) for name, value in one.where.items()))) or "all"
    if one.fit is None:
        return [of, Cell("not fitted"), Cell(words.UNKNOWN), Cell(words.UNKNOWN), Cell("", note=one.refused)]
    fit = one.fit
    notes = "; ".join(note for note in fit.notes if note not in shared)
    verdict, _, rest = str(fit.verdict).partition(" (")
    return [
        Cell(of, note=f"{fit.n} points, {fit.runs} run{'' if fit.runs == 1 else 's'}"),
        Cell("\n".join(f"{name} {_parameter(value)}" for name, value in fit.parameters.items())),
        _number(fit.r2, ".3f"),
        _number(fit.held_out_error, ".3g"),
        Cell(verdict, verdict, note=f"({rest}" if rest else "", more=notes),
    ]


def _lines(one: Any) -> list[dict[str, Any]]:
    """Return a fit as rows of a file, one a parameter, with every digit."""
    of = ", ".join(f"{name}={value}" for name, value in one.where.items())
    known = {"law": one.law, "where": of, "suite": one.suite}
    if one.fit is None:
        return [known | {"verdict": one.refused}]
    fit = one.fit
    about = {"level": fit.level, "n": fit.n, "runs": fit.runs, "r2": fit.r2, "held_out_error": fit.held_out_error, "aic": fit.aic}
    return [
        known
        | {"parameter": name, "value": found.value, "low": found.low, "high": found.high, "unit": found.unit}
        | about
        | {"verdict": "; ".join([fit.verdict, *fit.notes])}
        for name, found in fit.parameters.items()
    ]


_MEANINGS = {
    "held-out error": "mean absolute error on the largest volume, or size, left out; the larger of the two, in the metric's unit",
    "R²": "share of the variance of the points that the law explains",
}


def _parameter(value: Any) -> str:
    if value.value is None:
        return "not identified"
    ends = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
    unit = f" {value.unit}" if value.unit and value.unit != "1" and len(value.unit) <= MAX_UNIT else ""  # longer ones are in the file
    return f"{value.value:.3g}{ends}{unit}".replace("-", "−")


def _number(value: Any, form: str) -> Cell:
    if value is None or pd.isna(value):
        return Cell(words.UNKNOWN)
    return Cell(format(value, form).replace("-", "−"), float(value))
