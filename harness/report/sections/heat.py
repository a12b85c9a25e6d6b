"""Where it was lost: task against way of training, each field a verdict in words, sign and hatch."""

from __future__ import annotations

import pandas as pd

from harness.report import words
from harness.report.content import Cell, ColumnView, Section, TableView
from harness.report.evidence import Evidence

MAX_ROWS = 60
MAX_COLUMNS = 16
KINDS = {"lost": "lost", "gained": "gained", "kept": "kept", "not enough evidence": "unclear"}


def heat(evidence: Evidence) -> Section | None:
    """Return the heat map of the tasks of every probe and target suite, at each cell's largest volume."""
    keys = [key for key, panel in evidence.panel_of.items() if panel.role == "probe"]
    keys = sorted(keys, key=lambda key: (key[0] != evidence.headline, key[0]))
    single = {suite for suite in {key[0] for key in keys} if len([key for key in keys if key[0] == suite]) <= 2}
    keys = [key for key in keys if key[0] not in single or key[1] == "*"]  # a suite of one task is that task
    every = evidence.every
    if not keys or not every:
        return None
    rows = []
    for one in every[:MAX_ROWS]:
        last = one.rows[one.rows["volume"] == one.rows["volume"].max()].set_index(["suite", "task"])
        note = f"{int(one.rows['volume'].max()):,} rows" + (", control" if one.is_control else "")
        rows.append([Cell(one.short, one.short, "strong", note), *(_field(evidence, last, key) for key in keys[:MAX_COLUMNS])])
    columns = [ColumnView(title="way of training")]
    for suite, task in keys[:MAX_COLUMNS]:
        name = suite if task == "*" else task
        columns.append(ColumnView(title=name, is_number=False, meaning=f"{suite}, {words.unit_name(evidence.panel_of[suite, task])}"))
    shown = []
    if len(every) > MAX_ROWS:
        shown.append(f"{MAX_ROWS} of {len(every)} ways of training.")
    if len(keys) > MAX_COLUMNS:
        shown.append(f"{MAX_COLUMNS} of {len(keys)} suites and tasks.")
    table = TableView(
        name="heat",
        columns=columns,
        rows=rows,
        caption="Change at the largest volume, in points (other metrics in their own unit). ▼ lost, ▲ gained, = kept within the"
        " margin, ? not enough evidence. Tasks are adjusted (Holm) over the tasks of a way of training; intervals stand in the findings.",
        matrix=True,
        sortable=True,
        shown=" ".join([*shown, "All are in findings.csv."] if shown else []),
    )
    return Section(id="where", title="Where it was lost", tables=[table])


def _field(evidence: Evidence, last: pd.DataFrame, key: tuple[str, str]) -> Cell:
    if key not in last.index:
        return Cell("not measured")
    row = last.loc[[key]].iloc[0]
    if pd.isna(row["delta"]):
        return Cell("not measured")
    unit = evidence.panel_of[key].unit
    kind = KINDS.get("" if pd.isna(row["verdict"]) else str(row["verdict"]), "")
    return Cell(words.amount(row["delta"], unit, sign=True), float(row["delta"]), kind)
