"""Every finding as a row: the change, its interval, its verdict, and what it stands above."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.report import words
from harness.report.content import Cell, ColumnView, Section, TableView
from harness.report.evidence import IDLE, Evidence
from harness.report.sections.heat import KINDS

MAX_ROWS = 400

TITLES = {
    "way of training": "",
    "volume": "target rows seen once",
    "suite": "",
    "task": "all: the suite, its tasks with equal weight",
    "before": "mean over seeds, at volume 0",
    "change": "after minus before, mean over seeds, with its interval",
    "unit": "",
    "verdict": "kept: the interval lies within the margin; else lost or gained: adjusted p below 0.05; did not act: too little"
    " of what was written was accepted, so that it is no result of the method",
    "p": "of no change; of tasks of probes adjusted by Holm over the tasks of this cell and volume",
    "lost": "items right before and wrong after, mean over seeds",
    "gained": "items wrong before and right after, mean over seeds",
    "items": "of one seed",
    "seeds": "",
    "over": "what the interval is over",
    "seed spread": "standard deviation of the change over seeds",
    "control": "change of the same-data control, with its interval",
    "detectable": "smallest true change that such a test finds with probability 0.8",
}
NUMBERS = {"volume", "before", "change", "p", "lost", "gained", "items", "seeds", "seed spread", "control", "detectable"}


def findings(evidence: Evidence) -> Section | None:
    """Return the table of findings: all of them up to MAX_ROWS, else those at the largest volumes."""
    frame = evidence.findings
    if frame.empty:
        return None
    rows, shown = evidence.without_doubles(frame), ""
    if len(rows) > MAX_ROWS:
        rows = evidence.without_doubles(evidence.last).head(MAX_ROWS)
        shown = f"{len(rows)} of {len(frame)} findings, those at the largest volumes; all of them are in the files."
    place = {one.cell: index for index, one in enumerate(evidence.every)}
    ordered = rows.assign(_place=rows["cell"].map(place)).sort_values(["_place", "volume"], kind="stable")
    levels = sorted({words.percent(level) for level in frame["level"].dropna()})
    table = TableView(
        name="findings",
        columns=[ColumnView(title=title, is_number=title in NUMBERS, meaning=meaning) for title, meaning in TITLES.items()],
        rows=[_row(evidence, row) for _, row in ordered.iterrows()],
        caption=f"Changes with {' or '.join(levels) or 'no'} intervals. p of a task, and so its"
        " verdict, is adjusted (Holm) for the tasks of its point; intervals are not. A suite of one task has one row. A click on a heading"
        " sorts.",
        searchable=True,
        data=frame,
        shown=shown,
    )
    return Section(id="findings", title="All findings", tables=[table])


def _row(evidence: Evidence, row: pd.Series) -> list[Cell | str]:
    one, panel = evidence.by_cell[str(row["cell"])], evidence.panel_of[str(row["suite"]), str(row["task"])]
    unit, verdict = panel.unit, "" if pd.isna(row["verdict"]) else str(row["verdict"])
    p = row["p_value"] if pd.isna(row["p_holm"]) else row["p_holm"]
    control = words.change(row, unit, "control")
    return [
        Cell(one.short),
        Cell(f"{int(row['volume']):,}", int(row["volume"])),
        str(row["suite"]) + (" (headline)" if str(row["suite"]) == evidence.headline else ""),
        "all" if row["task"] == "*" else str(row["task"]),
        Cell(words.amount(row["before"], unit), words.sortable(row["before"])),
        Cell(words.change(row, unit), words.sortable(row["delta"])),
        words.unit_name(panel),
        Cell(verdict or words.UNKNOWN, verdict, KINDS.get(verdict, ""), IDLE if one.cell in evidence.idle else ""),
        Cell(words.p_value(p), words.sortable(p)),
        Cell(_mean(row["lost"]), words.sortable(row["lost"])),
        Cell(_mean(row["gained"]), words.sortable(row["gained"])),
        Cell(words.count(row["n"]), words.sortable(row["n"])),
        Cell(
            words.count(row["seeds"]),
            words.sortable(row["seeds"]),
            "",
            f"{int(row['missing'])} missing" if _is_some(row["missing"]) else "",
        ),
        words.UNKNOWN if pd.isna(row["varies"]) else str(row["varies"]),
        Cell("not measured" if pd.isna(row["seed_spread"]) else words.amount(row["seed_spread"], unit), words.sortable(row["seed_spread"])),
        Cell("not measured" if control == words.UNKNOWN else control, words.sortable(row["control_delta"])),
        Cell(words.amount(row["detectable"], unit), words.sortable(row["detectable"])),
    ]


def _mean(value: Any) -> str:
    return words.UNKNOWN if pd.isna(value) else f"{float(value):.1f}".removesuffix(".0")


def _is_some(value: Any) -> bool:
    return not pd.isna(value) and int(value) > 0
