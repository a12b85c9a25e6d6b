"""Sequences of stages: performance on each stage after every stage, and metrics of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.findings.sequences import ENTRY, METRICS
from harness.report import words
from harness.report.content import VERDICT_KINDS, CellView, ColumnView, RowGroup, Section, TableView
from harness.report.evidence import Evidence
from harness.report.tables import DisplayUnit

MAX_CELLS = 24
MEANINGS = {
    "acc": "mean over the stages, after the last",
    "learned": "mean over the stages, each right after it was learned",
    "bwt_tminus1": "after the last stage minus after its own, mean over the T − 1 earlier stages (1706.08840)",
    "fwt_tminus1": "before its own stage minus before any, mean over stages 2 to T",
    "forget_max_excl_last": "the best after stages 1 to T − 1 minus after the last, mean over the T − 1 earlier stages (1801.10112)",
    "forget_first_minus_last": "after its own stage minus after the last, mean over the T − 1 earlier stages",
    "fg_over_stages": "percent lost since its own stage, mean over the stages after it, then over the T − 1 earlier stages (2308.08747)",
}
PERCENT = DisplayUnit("percent", 1.0, 1)

INTRO = (
    "The model learned one data set after the other. A row is the model after a stage, a column the suite of a stage; on the diagonal it"
    " has just learned that stage. Fields below the diagonal are judged by their change since then, probes by their change since before"
    " any stage."
)


def stages(evidence: Evidence) -> Section | None:
    """Return matrix and metrics of the cells that went through stages; None without such cells."""
    frame = evidence.sequences
    if frame.empty:
        return None
    cells = [one.cell for one in evidence.every if one.cell in set(frame["cell"])]
    tables = [_matrix(evidence, frame, cells), _metrics(evidence, frame, cells)]
    notes = [f"{evidence.by_cell[cell].short}: {note}" for cell, note in _notes(frame, cells)]
    return Section(id="stages", title="Stages", intro=INTRO, tables=[table for table in tables if table.rows], notes=notes)


def _notes(frame: pd.DataFrame, cells: Sequence[str]) -> list[tuple[str, str]]:
    noted = frame[frame["note"].notna()].drop_duplicates("cell").set_index("cell")["note"]
    return [(cell, str(noted[cell])) for cell in cells if cell in noted.index]


def _matrix(evidence: Evidence, frame: pd.DataFrame, cells: Sequence[str]) -> TableView:
    entries = frame[(frame["measure"] == ENTRY) & frame["value"].notna()]
    suites = list(dict.fromkeys(entries.sort_values("own_stage", kind="stable", na_position="last")["suite"]))
    rows: list[list[CellView | str]] = []
    groups = []
    for cell in cells[:MAX_CELLS]:
        own = entries[entries["cell"] == cell]
        groups += [RowGroup(len(rows), evidence.by_cell[cell].short, _seeds(own))] if len(own) else []
        for after, at in own.groupby("after_stage", sort=True):
            stage = "before any stage" if not after else f"after {at['stage'].iloc[0]}"
            fields = at.set_index("suite")
            rows.append(
                [CellView(stage, float(at["after_stage"].iloc[0]), "strong"), *(_field(evidence, fields, suite) for suite in suites)]
            )
    return TableView(
        name="stages_matrix",
        columns=[ColumnView(title="stage"), *(_column(evidence, entries, suite) for suite in suites)],
        rows=rows,
        groups=groups,
        caption="Mean over seeds, shares in points. Bold: just learned. ▼ lost, ▲ gained, = kept (inside the margin), ? not enough"
        " evidence: verdicts on the change since the stage was learned, with intervals paired over items; not adjusted for the number of"
        " fields.",
        matrix=True,
        sortable=False,
        shown=words.excerpt(MAX_CELLS, len(cells), "methods", "stages.csv"),
    )


def _seeds(rows: pd.DataFrame) -> str:
    return words.seeds(rows["seeds"].max())


def _column(evidence: Evidence, entries: pd.DataFrame, suite: str) -> ColumnView:
    is_probe = bool(entries[entries["suite"] == suite]["own_stage"].isna().all())
    return ColumnView(title=f"{suite} (probe)" if is_probe else suite, meaning=words.unit_name(evidence.panel_of[suite, "*"]))


def _field(evidence: Evidence, fields: pd.DataFrame, suite: str) -> CellView:
    if suite not in fields.index:
        return CellView("not measured")
    row: Mapping[Hashable, Any] = fields.loc[[suite]].iloc[0].to_dict()
    unit = evidence.panel_of[suite, "*"].unit
    learned = not pd.isna(row["own_stage"]) and row["own_stage"] == row["after_stage"]
    kind = "strong" if learned else VERDICT_KINDS.get(words.text(row["verdict"]), "")
    change = "" if pd.isna(row["change"]) else words.amount(row["change"], unit, sign=True)
    return CellView(words.amount(row["value"], unit), float(row["value"]), kind, f"({change})" if change else "")


def _metrics(evidence: Evidence, frame: pd.DataFrame, cells: Sequence[str]) -> TableView:
    measured = frame[(frame["measure"] != ENTRY) & frame["value"].notna()]
    units = {evidence.panel_of[str(suite), "*"].unit for suite in frame[frame["own_stage"].notna()]["suite"].dropna().unique()}
    unit = units.pop() if len(units) == 1 else DisplayUnit("mixed units", 1.0, 3)
    rows: list[list[CellView | str]] = []
    for cell in cells[:MAX_CELLS]:
        own = measured[measured["cell"] == cell].set_index("measure")
        if len(own):
            rows.append([evidence.by_cell[cell].short, *(_measure(own, name, unit) for name in METRICS), _seeds(own)])
    levels = words.levels_of(measured)
    over = f"{levels} t intervals over seeds" if levels else "no intervals (fewer than 3 seeds)"
    return TableView(
        name="stages",
        columns=[
            ColumnView(title="method"),
            *(ColumnView(title=name, is_number=True, meaning=MEANINGS[name]) for name in METRICS),
            ColumnView(title="seeds"),
        ],
        rows=rows,
        caption=f"Metrics of the matrix above, over the suites of the stages, oriented so that a higher entry is better; in {unit.name},"
        f" fg_over_stages in percent. Means over seeds, {over}. Point at a heading for the definition of its metric.",
        data=frame,
    )


def _measure(own: pd.DataFrame, name: str, unit: DisplayUnit) -> CellView:
    if name not in own.index:
        return CellView(words.UNKNOWN)
    row = own.loc[[name]].iloc[0]
    shown, sign = PERCENT if name == "fg_over_stages" else unit, name not in {"acc", "learned"}
    value = words.amount(row["value"], shown, sign=sign)
    if pd.isna(row["low"]):
        return CellView(value, float(row["value"]))
    before = None if sign else 0.0
    return CellView(words.with_ends(row, "value", shown, low="low", high="high", before=before, sign=sign), float(row["value"]))
