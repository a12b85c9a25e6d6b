"""One run read off at every volume, beside a run of its own for each volume: what the cheaper way hides."""

from __future__ import annotations

import pandas as pd

from harness.report import figures, words
from harness.report.content import Cell, ColumnView, Section, TableView
from harness.report.evidence import Evidence

MAX_ROWS = 200


def trajectories(evidence: Evidence) -> Section | None:
    """Return the difference between independent runs and a shared one, where both were run."""
    frame = evidence.trajectories
    if frame.empty:
        return None
    cells = {*frame["shared_cell"], *frame["independent_cell"]}
    every = [one for one in evidence.every if one.cell in cells]
    shown = [panel for panel in evidence.probes if panel.task == "*" or panel.label == panel.suite][:1]
    view = figures.against_volume("trajectories", every, shown, "delta", table=evidence.table, title="Shared and independent trajectories")
    frame = frame.sort_values(["params_total", "model", "tuning", "volume"], kind="stable")
    rows = [_row(evidence, row) for _, row in frame.head(MAX_ROWS).iterrows()]
    titles = ["way of training", "volume", "suite", "task", "shared", "independent", "independent − shared", "unit"]
    table = TableView(
        name="trajectories",
        columns=[
            ColumnView(title=title, is_number=title in {"volume", "shared", "independent", "independent − shared"}) for title in titles
        ],
        rows=rows,
        caption="Change since before training on either trajectory, and the difference with its interval.",
        data=frame,
        shown=f"{MAX_ROWS} of {len(frame)} rows; all of them are in the files." if len(frame) > MAX_ROWS else "",
    )
    intro = (
        "Shared: the volumes are checkpoints of one run at a constant rate. Independent: each volume is a run with its own schedule and"
        " decay. The difference says how far the cheaper shared curve may be read as the other."
    )
    return Section(
        id="trajectories", title="Shared and independent trajectories", intro=intro, figures=[view] if view else [], tables=[table]
    )


def _row(evidence: Evidence, row: pd.Series) -> list[Cell | str]:
    unit = evidence.panel_of[str(row["suite"]), str(row["task"])].unit
    note = "" if pd.isna(row["note"]) else str(row["note"])
    basis = note if pd.isna(row["difference"]) else f"{words.percent(row['level'])} over {row['varies']}, {words.seeds(row['seeds'])}"
    return [
        evidence.by_cell[str(row["shared_cell"])].short,
        Cell(f"{int(row['volume']):,}", int(row["volume"])),
        str(row["suite"]),
        "all" if row["task"] == "*" else str(row["task"]),
        Cell(words.amount(row["shared_delta"], unit, sign=True), words.sortable(row["shared_delta"])),
        Cell(words.amount(row["independent_delta"], unit, sign=True), words.sortable(row["independent_delta"])),
        Cell(words.with_ends(row, "difference", unit, low="low", high="high", sign=True), words.sortable(row["difference"]), "", basis),
        unit.name,
    ]
