"""What was lost and what was learned, against the volume of data; the laws fitted to it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report import figures, words
from harness.report.content import Cell, ColumnView, Section, TableView
from harness.report.evidence import Evidence

POWER = "power"


def forgetting(evidence: Evidence) -> Section | None:
    """Return the curves of what was known before, with the laws fitted to them."""
    view = figures.against_volume(
        "forgetting",
        evidence.every,
        evidence.probes,
        "delta",
        table=evidence.table,
        fits=fits_by_cell(evidence),
        title="Change on what the model knew before",
    )
    if view is None:
        return None
    table = fits(evidence)
    return Section(
        id="forgetting",
        title="What was forgotten",
        intro="Down is worse. Each panel is a suite, the mean of its tasks with equal weight, or one of its tasks.",
        figures=[view],
        tables=[table] if table else [],
    )


def learning(evidence: Evidence) -> Section | None:
    """Return the curves of the targets."""
    view = figures.against_volume(
        "learning", evidence.every, evidence.targets, "after", table=evidence.table, title="Value on what is being learned"
    )
    return None if view is None else Section(id="learning", title="What was learned", figures=[view])


def fits_by_cell(evidence: Evidence) -> dict[str, Any]:
    """Return the power law of each cell that it was fitted to."""
    found = {}
    for one in evidence.fitted:
        if one.law == POWER and one.fit is not None:
            for cell in evidence.every:
                if not cell.is_control and all(_text(cell.labels[name]) == value for name, value in one.where.items()):
                    found[cell.cell] = one
    return found


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def fits(evidence: Evidence) -> TableView | None:
    """Return the table of fits: parameters with 90% intervals, held-out error, and what is to be thought of each."""
    if not evidence.fitted:
        return None
    sizes = {one.model: place for place, one in enumerate(evidence.every)}
    drawn_first = sorted(evidence.fitted, key=lambda one: (one.law != POWER, one.law, sizes.get(one.where.get("model", ""), 0)))
    numeric = ["R²", "held-out error", "ΔAIC", "n", "runs"]
    names = ["law", "of", "parameters", *numeric, "verdict"]
    prose = {"parameters", "verdict"}
    return TableView(
        name="fits",
        columns=[
            ColumnView(title=name, is_number=name in numeric, is_prose=name in prose, meaning=_MEANINGS.get(name, "")) for name in names
        ],
        rows=[_row(one) for one in drawn_first],
        caption=f"Laws of forgetting of {evidence.headline} (positive is worse, in the metric's own unit), with 90% intervals of each"
        " parameter; the points of a run count as one.",
        data=pd.DataFrame([line for one in drawn_first for line in _lines(one)]),
    )


def _row(one: Any) -> list[Cell | str]:
    of = ", ".join(f"{name} {value}" for name, value in one.where.items()) or "all"
    if one.fit is None:
        return [one.law, of, *[Cell(words.UNKNOWN)] * 6, Cell("not fitted", note=one.refused)]
    fit = one.fit
    best = min(fit.alternatives.values(), default=None)
    against = None if best is None or fit.aic is None else fit.aic - best
    return [
        one.law,
        of,
        Cell("; ".join(f"{name} {_parameter(value)}" for name, value in fit.parameters.items())),
        _number(fit.r2, ".3f"),
        _number(fit.held_out_error, ".3g"),
        _number(against, "+.1f"),
        _number(fit.n, "d"),
        _number(fit.runs, "d"),
        Cell(fit.verdict, note=" ".join(fit.notes)),
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
    "ΔAIC": "Akaike's criterion less that of the best simpler law on the same points; negative: this law is better",
    "R²": "share of the variance of the points that the law explains",
}


def _parameter(value: Any) -> str:
    if value.value is None:
        return "not identified"
    ends = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
    unit = f" {value.unit}" if value.unit and value.unit != "1" else ""
    return f"{value.value:.3g}{ends}{unit}".replace("-", "−")


def _number(value: Any, form: str) -> Cell:
    if value is None or pd.isna(value):
        return Cell(words.UNKNOWN)
    return Cell(format(value, form).replace("-", "−"), float(value))
