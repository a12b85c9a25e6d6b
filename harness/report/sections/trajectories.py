"""Shared trajectories compared with independent ones: the error of the cheaper design."""

from __future__ import annotations

import pandas as pd

from harness.report import figures, words
from harness.report.content import CellView, ColumnView, RowGroup, Section, TableView
from harness.report.evidence import Evidence

MAX_ROWS = 200


def trajectories(evidence: Evidence) -> Section | None:
    """Return the differences between independent and shared runs; None if either is missing."""
    frame = evidence.trajectories
    if frame.empty:
        return None
    cells = {*frame["shared_cell"], *frame["independent_cell"]}
    every = [one for one in evidence.every if one.cell in cells]
    shown = [panel for panel in evidence.probes if panel.task == "*" or panel.label == panel.suite][:1]
    view = figures.against_volume("trajectories", every, shown, "delta", table=evidence.table, title="Shared and independent trajectories")
    intro = (
        "Shared: the volumes are checkpoints of one run at a constant learning rate. Independent: each volume is a separate run with its"
        " own schedule and decay. The difference shows how well the cheaper shared curve approximates the independent one."
    )
    return Section(
        id="trajectories",
        title="Shared and independent trajectories",
        intro=intro,
        figures=[view] if view else [],
        tables=[_table(evidence, frame)],
    )


def _table(evidence: Evidence, frame: pd.DataFrame) -> TableView:
    """Return the table of whole suites: by pair of cells, then the headline suite first."""
    wholes = frame[frame["task"] == "*"]
    suites = sorted(dict.fromkeys(wholes["suite"]), key=lambda suite: suite != evidence.headline)
    wholes = wholes.assign(_suite=wholes["suite"].map(suites.index))
    wholes = evidence.in_page_order(wholes, "shared_cell", by=["_suite", "volume"]).head(MAX_ROWS)
    pairs = wholes["shared_cell"].tolist()
    groups = [RowGroup(at, evidence.by_cell[cell].short) for at, cell in enumerate(pairs) if at == 0 or cell != pairs[at - 1]]
    basis = words.shared_basis(wholes)
    titles = ["suite", "volume", "shared", "independent", "independent − shared"]
    return TableView(
        name="trajectories",
        columns=[ColumnView(title=title, is_number=title != "suite") for title in titles],
        rows=[_row(evidence, row, has_basis=not basis) for _, row in wholes.iterrows()],
        groups=groups,
        caption="Change since before training on each trajectory, and their difference with its interval, by suite."
        f"{f' Intervals: {basis}.' if basis else ''} Single tasks are in trajectories.csv.",
        data=frame,
    )


def _row(evidence: Evidence, row: pd.Series, *, has_basis: bool) -> list[CellView | str]:
    panel = evidence.panel_of[str(row["suite"]), str(row["task"])]
    unit = panel.unit
    note = words.text(row["note"])
    basis = note if pd.isna(row["difference"]) else words.difference_basis(row) if has_basis else ""
    suite = f"{row['suite']}{' (headline)' if str(row['suite']) == evidence.headline else ''}, {words.unit_name(panel)}"
    return [
        suite,
        words.volume_cell(row["volume"]),
        words.amount_cell(row["shared_delta"], unit, sign=True),
        words.amount_cell(row["independent_delta"], unit, sign=True),
        CellView(
            words.with_ends(row, "difference", unit, low="low", high="high", sign=True), words.sortable(row["difference"]), note=basis
        ),
    ]
