"""One run read off at every volume, beside a run of its own for each volume: what the cheaper way hides."""

from __future__ import annotations

import pandas as pd

from harness.report import figures, words
from harness.report.content import Cell, ColumnGroup, ColumnView, Section, TableView
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
    intro = (
        "Shared: the volumes are checkpoints of one run at a constant rate. Independent: each volume is a run with its own schedule and"
        " decay. The difference says how far the cheaper shared curve may be read as the other."
    )
    return Section(
        id="trajectories",
        title="Shared and independent trajectories",
        intro=intro,
        figures=[view] if view else [],
        tables=[_table(evidence, frame)],
    )


def _table(evidence: Evidence, frame: pd.DataFrame) -> TableView:
    """Return the suites' own rows, the headline suite first, those of a pair of cells together."""
    wholes = frame[frame["task"] == "*"]
    suites = sorted(dict.fromkeys(wholes["suite"]), key=lambda suite: suite != evidence.headline)
    place = {one.cell: index for index, one in enumerate(evidence.every)}
    wholes = wholes.assign(_pair=wholes["shared_cell"].map(place), _suite=wholes["suite"].map(suites.index))
    wholes = wholes.sort_values(["_pair", "_suite", "volume"], kind="stable").head(MAX_ROWS)
    pairs = wholes["shared_cell"].tolist()
    groups = [ColumnGroup(at, evidence.by_cell[cell].short) for at, cell in enumerate(pairs) if at == 0 or cell != pairs[at - 1]]
    bases = {_basis(row) for _, row in wholes.iterrows() if not pd.isna(row["difference"])}
    over = f" Intervals: {bases.pop()}." if len(bases) == 1 else ""
    titles = ["suite", "volume", "shared", "independent", "independent − shared"]
    return TableView(
        name="trajectories",
        columns=[ColumnView(title=title, is_number=title != "suite") for title in titles],
        rows=[_row(evidence, row, has_basis=not over) for _, row in wholes.iterrows()],
        groups=groups,
        caption=f"Change since before training on either trajectory, and their difference with its interval, by suite.{over}"
        " Single tasks are in trajectories.csv.",
        data=frame,
    )


def _basis(row: pd.Series) -> str:
    return f"{words.percent(row['level'])} over {row['varies']}, {words.seeds(row['seeds'])}"


def _row(evidence: Evidence, row: pd.Series, *, has_basis: bool) -> list[Cell | str]:
    panel = evidence.panel_of[str(row["suite"]), str(row["task"])]
    unit = panel.unit
    note = "" if pd.isna(row["note"]) else str(row["note"])
    basis = note if pd.isna(row["difference"]) else _basis(row) if has_basis else ""
    suite = f"{row['suite']}{' (headline)' if str(row['suite']) == evidence.headline else ''}, {words.unit_name(panel)}"
    return [
        suite,
        Cell(f"{int(row['volume']):,}", int(row["volume"])),
        Cell(words.amount(row["shared_delta"], unit, sign=True), words.sortable(row["shared_delta"])),
        Cell(words.amount(row["independent_delta"], unit, sign=True), words.sortable(row["independent_delta"])),
        Cell(words.with_ends(row, "difference", unit, low="low", high="high", sign=True), words.sortable(row["difference"]), "", basis),
    ]
