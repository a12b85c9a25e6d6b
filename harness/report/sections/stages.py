"""Sequences of stages: what is known of each stage after every stage, as a heat table, and what that comes to."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.findings.sequences import ENTRY, METRICS
from harness.report import words
from harness.report.content import Cell, ColumnGroup, ColumnView, Section, TableView
from harness.report.evidence import Evidence
from harness.report.sections.heat import KINDS
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
    "The model learned one data set after the other. A row is what it knows after a stage, a column the suite of a stage; on the diagonal"
    " it has just learned that stage. Below the diagonal every field is judged by its change since then, and a probe by its change since"
    " before any stage."
)


def stages(evidence: Evidence) -> Section | None:
    """Return the matrix of each cell that went through stages, and the metrics.

    None where none did.
    """
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
    rows: list[list[Cell | str]] = []
    groups = []
    for cell in cells[:MAX_CELLS]:
        own = entries[entries["cell"] == cell]
        groups += [ColumnGroup(len(rows), evidence.by_cell[cell].short, _seeds(own))] if len(own) else []
        for after, at in own.groupby("after_stage", sort=True):
            stage = "before any stage" if not after else f"after {at['stage'].iloc[0]}"
            fields = at.set_index("suite")
            rows.append([Cell(stage, float(at["after_stage"].iloc[0]), "strong"), *(_field(evidence, fields, suite) for suite in suites)])
    shown = f"{MAX_CELLS} of {len(cells)} ways of training." if len(cells) > MAX_CELLS else ""
    return TableView(
        name="stages_matrix",
        columns=[ColumnView(title="stage"), *(_column(evidence, entries, suite) for suite in suites)],
        rows=rows,
        groups=groups,
        caption="Mean over seeds, shares in points. Bold: just learned. ▼ lost, ▲ gained, = kept within the margin, ? not enough"
        " evidence: the change since the stage was learned, with an interval paired over items; not adjusted for several fields.",
        matrix=True,
        sortable=False,
        shown=f"{shown} All are in stages.csv." if shown else "",
    )


def _seeds(rows: pd.DataFrame) -> str:
    return words.seeds(rows["seeds"].max())


def _column(evidence: Evidence, entries: pd.DataFrame, suite: str) -> ColumnView:
    is_probe = bool(entries[entries["suite"] == suite]["own_stage"].isna().all())
    return ColumnView(title=f"{suite} (probe)" if is_probe else suite, meaning=words.unit_name(evidence.panel_of[suite, "*"]))


def _field(evidence: Evidence, fields: pd.DataFrame, suite: str) -> Cell:
    if suite not in fields.index:
        return Cell("not measured")
    row: Mapping[Hashable, Any] = fields.loc[[suite]].iloc[0].to_dict()
    unit = evidence.panel_of[suite, "*"].unit
    learned = not pd.isna(row["own_stage"]) and row["own_stage"] == row["after_stage"]
    kind = "strong" if learned else KINDS.get("" if pd.isna(row["verdict"]) else str(row["verdict"]), "")
    change = "" if pd.isna(row["change"]) else words.amount(row["change"], unit, sign=True)
    return Cell(words.amount(row["value"], unit), float(row["value"]), kind, f"({change})" if change else "")


def _metrics(evidence: Evidence, frame: pd.DataFrame, cells: Sequence[str]) -> TableView:
    measured = frame[(frame["measure"] != ENTRY) & frame["value"].notna()]
    units = {evidence.panel_of[str(suite), "*"].unit for suite in frame[frame["own_stage"].notna()]["suite"].dropna().unique()}
    unit = units.pop() if len(units) == 1 else DisplayUnit("mixed units", 1.0, 3)
    rows: list[list[Cell | str]] = []
    for cell in cells[:MAX_CELLS]:
        own = measured[measured["cell"] == cell].set_index("measure")
        if len(own):
            rows.append([evidence.by_cell[cell].short, *(_measure(own, name, unit) for name in METRICS), _seeds(own)])
    levels = sorted({words.percent(level) for level in measured["level"].dropna()})
    over = f"{' or '.join(levels)} t intervals over seeds" if levels else "no intervals (fewer than 3 seeds)"
    return TableView(
        name="stages",
        columns=[
            ColumnView(title="way of training"),
            *(ColumnView(title=name, is_number=True, meaning=MEANINGS[name]) for name in METRICS),
            ColumnView(title="seeds"),
        ],
        rows=rows,
        caption=f"Of the matrix above, over the suites of the stages, turned so that a higher entry is better; in {unit.name},"
        f" fg_over_stages in percent. Means over seeds, {over}. The name of a metric says its convention; pointed at, a heading says it.",
        data=frame,
    )


def _measure(own: pd.DataFrame, name: str, unit: DisplayUnit) -> Cell:
    if name not in own.index:
        return Cell(words.UNKNOWN)
    row: Mapping[Hashable, Any] = own.loc[[name]].iloc[0].to_dict()
    shown, sign = PERCENT if name == "fg_over_stages" else unit, name not in {"acc", "learned"}
    value = words.amount(row["value"], shown, sign=sign)
    ends = "" if pd.isna(row["low"]) else f" {words.interval(row['low'], row['high'], shown, sign=sign)}"
    return Cell(value + ends, float(row["value"]))
