"""The fitted laws of forgetting: parameters with intervals, held-out error and verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.findings.arms import arm_names
from harness.analysis.fits import judging, laws
from harness.analysis.fits.all_laws import Fitted
from harness.analysis.fits.fitting import Fit
from harness.analysis.fits.intervals import Parameter
from harness.report import words
from harness.report.content import CellView, ColumnView, RowGroup, TableView
from harness.report.curves import label_words
from harness.report.evidence import Evidence

DRAWN = "hill"
"""Law that is drawn where no law of volume is declared: a power law without a plateau misses the
largest volume of forgetting that saturates by more than a prediction without a law does."""

FEWEST_VOLUMES = 4
"""A law with three parameters passes through three volumes, whatever they are."""

MAX_UNIT = 16
ABOUT = {
    "injection": "forgetting by training tokens, model size and share of old data mixed in",
    "shifted_power": "forgetting by trained parameters and steps, towards a plateau",
    "linear": "forgetting by the loss on the new data",
    "kl": "forgetting by the divergence from the base model on the new data",
    "hill": "forgetting by volume, towards a plateau, for each method; all methods are fitted together",
    "saturating_power": "forgetting by volume, towards a plateau, for each method; all methods are fitted together",
    "power": "forgetting by volume, without a plateau, for each method; all methods are fitted together",
}
"""Law → its subject; laws over model sizes first, since they are the most general."""


def by_cell(evidence: Evidence) -> dict[str, Fitted]:
    """Return cell → the law of volume drawn for it; none through too few volumes."""
    return {
        cell.cell: one
        for one in _of_volume(evidence)
        if one.points["volume"].nunique() >= FEWEST_VOLUMES
        for cell in evidence.proper
        if all(words.text(cell.labels[name]) == value for name, value in one.where.items())
    }


def not_drawn(evidence: Evidence) -> str:
    """Return a sentence on laws that are not drawn for want of volumes; empty without any."""
    fitted = _of_volume(evidence)
    few = [one for one in fitted if one.points["volume"].nunique() < FEWEST_VOLUMES]
    if not few:
        return ""
    where = "" if len(few) == len(fitted) else f" for {len(few)} of {len(fitted)} methods"
    return f"No law is drawn{where}: that takes {FEWEST_VOLUMES} volumes or more."


def _of_volume(evidence: Evidence) -> list[Fitted]:
    """Return the fits of the declared law if it is one of volume, else of DRAWN."""
    declared = evidence.declared.law
    drawn = declared if declared in laws.names() and laws.named(declared).columns == ("volume",) else DRAWN
    return [one for one in evidence.fitted if one.law == drawn and one.fit is not None]


def table(evidence: Evidence) -> TableView | None:
    """Return the table of fits, grouped by law."""
    if not evidence.fitted:
        return None
    sizes = {one.model: place for place, one in reversed(list(enumerate(evidence.every)))}
    order = {law: place for place, law in enumerate(ABOUT)}
    every = sorted(
        evidence.fitted,
        key=lambda one: (not one.is_declared, order.get(one.law, len(order)), one.law, sizes.get(one.where.get("model", ""), 0)),
    )
    groups: list[RowGroup] = []
    rows: list[list[CellView | str]] = []
    by_law = {law: [one for one in every if one.law == law] for law in dict.fromkeys(one.law for one in every)}
    unfitted = {law: fits for law, fits in by_law.items() if not any(one.fit or one.is_declared for one in fits)}
    for law, fits in by_law.items():
        if law in unfitted:
            continue
        shared = _shared(fits)
        groups.append(RowGroup(len(rows), f"{law} ({_standing(fits[0])})", _about(law, shared)))
        rows += [_row(one, shared, arm_names(evidence.findings), evidence.unit) for one in fits]
    if unfitted:
        groups.append(RowGroup(len(rows), "laws that these points cannot determine", "Each reason in full: the file of this table."))
        rows.append(_without_fit(unfitted))
    numeric = ["R²"]
    return TableView(
        name="fits",
        columns=[
            ColumnView(
                title=name, is_number=name in numeric, is_prose=name in ("held-out points", "verdict"), meaning=_MEANINGS.get(name, "")
            )
            for name in ["of", "parameters", "R²", "held-out points", "verdict"]
        ],
        rows=rows,
        groups=groups,
        caption=f"Laws of forgetting on {evidence.headline}; positive forgetting is worse, in the metric's own unit. {_declared(evidence)}"
        " Parameters have 90% intervals, which treat the points of a run as one cluster. Error: the law's mean absolute error at the"
        " largest volume or size when it is left out. Naive error, at the same points: of a prediction without a law, that forgetting at"
        " the largest volume equals the method's mean at the volume before, and at the largest size the mean of the other sizes."
        " The difference of the two errors has no interval, so a small one decides nothing.",
        data=pd.DataFrame([line for one in every for line in _lines(one)]),
    )


def _standing(one: Fitted) -> str:
    return "declared beforehand" if one.is_declared else "exploratory: not declared beforehand"


def _declared(evidence: Evidence) -> str:
    law = evidence.declared.law
    if law is None:
        return "The experiment declared no law beforehand, so all are exploratory."
    known = "" if law in laws.names() else ", which does not exist"
    return f"The experiment declared the law {law} beforehand{known}; the others are exploratory."


def _about(law: str, notes: Sequence[str]) -> str:
    known = laws.named(law) if law in laws.names() else None
    formula = f"forgetting = {known.formula}" if known else ""
    names = [*known.columns, *(term.name for term in known.terms)] if known else []
    sentences = [_capitalised(note, names) for note in notes]
    parts = [f"{ABOUT[law][0].upper()}{ABOUT[law][1:]}: {formula}" if law in ABOUT else formula, *sentences]
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def _capitalised(note: str, names: Collection[str]) -> str:
    """Return a sentence with a capital, unless it starts with a column or parameter."""
    first = note.split(" ", 1)[0]
    return note if "_" in first or first in names else f"{note[0].upper()}{note[1:]}"


def _shared(every: Sequence[Fitted]) -> list[str]:
    """Return the notes that all of several fits share, which the heading states once."""
    fits = [one.fit for one in every if one.fit is not None]
    return [note for note in fits[0].notes if all(note in fit.notes for fit in fits)] if len(fits) > 1 else []


def _without_fit(unfitted: Mapping[str, Sequence[Fitted]]) -> list[CellView | str]:
    """Return one row for all laws that have no fit."""
    most = max(len(one.points) for fits in unfitted.values() for one in fits)
    reasons = "; ".join(f"{law} needs {_need(law, fits[0])}" for law, fits in unfitted.items())
    compared = CellView("cannot be compared: there is no fit")
    points = f"{most} point{'s' * (most != 1)}; {reasons}"
    return [", ".join(unfitted), CellView("not fitted"), CellView(words.UNKNOWN), compared, CellView("", note=points)]


def _need(law: str, one: Fitted) -> str:
    """Return what a law lacks in the points that it could not be fitted to."""
    known = laws.named(law)
    if empty := [name for name in known.columns if name not in one.points or one.points[name].isna().all()]:
        return f"{', '.join(empty)}, which no point has"
    few = [f"{least} values of {name}" for name, least in known.needs.items() if one.points[name].nunique() < least]
    return " and ".join(few) or (f"{len(known.terms)} points" if len(one.points) < len(known.terms) else f"other points ({one.refused})")


def _row(one: Fitted, shared: Sequence[str], names: Mapping[tuple[str, str], str], unit: str) -> list[CellView | str]:
    of = " · ".join(filter(None, (label_words(name, names.get((name, value), value)) for name, value in one.where.items()))) or "all"
    if one.fit is None:
        compared = CellView("cannot be compared: there is no fit")
        return [of, CellView("not fitted"), CellView(words.UNKNOWN), compared, CellView("", note=one.refused)]
    fit = one.fit
    notes = "; ".join(note for note in fit.notes if note not in shared)
    verdict, _, rest = str(fit.verdict).partition(" (")
    return [
        CellView(of, note=f"{fit.n} points, {fit.runs} run{'' if fit.runs == 1 else 's'}"),
        CellView("\n".join(f"{name} {_parameter(value, unit)}" for name, value in fit.parameters.items())),
        _number(fit.r2, ".3f"),
        _held_out(fit),
        CellView(verdict, verdict, note=f"({rest}" if rest else "", more=notes),
    ]


def _lines(one: Fitted) -> list[dict[str, Any]]:
    """Return a fit as rows of a file, one per parameter, with every digit."""
    of = ", ".join(f"{name}={value}" for name, value in one.where.items())
    known = {"law": one.law, "declared": one.is_declared, "where": of, "suite": one.suite}
    if one.fit is None:
        return [known | {"verdict": one.refused}]
    fit = one.fit
    quality: dict[str, Any] = {"level": fit.level, "n": fit.n, "runs": fit.runs, "r2": fit.r2, "held_out_error": fit.held_out_error}
    for label, told in fit.compared.items():
        name = label.replace(" ", "_")
        quality |= {f"error_{name}": fit.held_out.get(label), f"naive_{name}": fit.naive.get(label), f"compared_{name}": told}
    return [
        known
        | {"parameter": name, "value": found.value, "low": found.low, "high": found.high, "unit": found.unit}
        | quality
        | {"verdict": "; ".join([fit.verdict, *fit.notes])}
        for name, found in fit.parameters.items()
    ]


_MEANINGS = {
    "held-out points": "the law, fitted without the largest volume or size, against a prediction without a law",
    "R²": "share of the points' variance that the law explains",
}


def _parameter(value: Parameter, of_volume: str) -> str:
    if value.value is None:
        return "not identified"
    ends = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
    named = of_volume if value.unit == "rows" else value.unit
    unit = f" {named}" if named and named != "1" and len(named) <= MAX_UNIT else ""  # longer units are in the file
    return f"{value.value:.3g}{ends}{unit}".replace("-", "−")


def _held_out(fit: Fit) -> CellView:
    """Return the law against the naive baseline at held-out points, with the errors of both."""
    shown = judging.shown(fit.compared, {**fit.held_out, **fit.naive})
    errors = []
    for label in shown:
        each = {"error": fit.held_out.get(label), "naive error": fit.naive.get(label)}
        found = ", ".join(f"{name} {value:.3g}" for name, value in each.items() if value is not None)
        errors += [f"{label}: {found}"] if found else []
    text = "\n".join(fit.compared[label] for label in shown)
    return CellView(text, fit.held_out_error, note="; ".join(errors))


def _number(value: Any, form: str) -> CellView:
    if value is None or pd.isna(value):
        return CellView(words.UNKNOWN)
    return CellView(format(value, form).replace("-", "−"), float(value))
