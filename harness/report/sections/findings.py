"""All findings as a table: change, interval, verdict, and changes without new training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.analysis.findings.findings import OWN, POOLED
from harness.analysis.findings.verdicts import p_of
from harness.report import words
from harness.report.content import VERDICT_KINDS, CellView, ColumnView, Section, TableView
from harness.report.evidence import Evidence
from harness.report.tables import DisplayUnit

MAX_ROWS = 400

_FEW = 5
"""Number of methods below which one that varies more than the others hardly stands out."""

TITLES = {
    "method": "",
    "volume": "distinct target rows",
    "suite": "",
    "task": "all: the suite, which is the mean of its tasks with equal weight",
    "before": "mean over seeds, at volume 0",
    "change": "after minus before, mean over seeds, with its interval",
    "unit": "",
    "verdict": "kept: the interval is inside the margin; otherwise lost or gained if the adjusted p is below 0.05; this run: of one"
    " seed, so it holds for that run and not for the method; did not act: too little generated text was accepted, so this is no result"
    " of the method",
    "p": "of no change, of one seed McNemar's mid-p where there is one; for tasks of probes, adjusted (Holm) over the tasks of this method"
    " and volume",
    "lost": "items right before and wrong after, mean over seeds",
    "gained": "items wrong before and right after, mean over seeds",
    "items": "of one seed",
    "seeds": "",
    "over": "sources of variation that the interval covers",
    "seed spread": "standard deviation of the change over this cell's seeds",
    "pooled": "the same as the suite's other cells suggest; used: the spread that the interval takes, which is the"
    " cell's own where it is far above the other cells or alone: then over all its volumes, in proportion to the items that changed there",
    "rounding": "largest change of the score when volume 0 is measured again in other batches and with other threads",
    "against control": "change minus that of the same-data control, with its interval and verdict: worse, better or alike (inside the"
    " margin), decided as the change itself is",
    "detectable": "smallest true change that such a test detects with probability 0.8",
}
NUMBERS = {
    "volume",
    "before",
    "change",
    "p",
    "lost",
    "gained",
    "items",
    "seeds",
    "seed spread",
    "pooled",
    "rounding",
    "against control",
    "detectable",
}


def findings(evidence: Evidence) -> Section | None:
    """Return the table of findings; of more than MAX_ROWS, those at the largest volumes."""
    frame = evidence.findings
    if frame.empty:
        return None
    rows, shown = evidence.without_duplicates(frame), ""
    if len(rows) > MAX_ROWS:
        rows = evidence.without_duplicates(evidence.last).head(MAX_ROWS)
        shown = f"{len(rows)} of {len(frame)} findings, those at the largest volumes; all are in findings.csv."
    ordered = evidence.in_page_order(rows, by=["volume"])
    table = TableView(
        name="findings",
        columns=[ColumnView(title=title, is_number=title in NUMBERS, meaning=meaning) for title, meaning in TITLES.items()],
        rows=[_row(evidence, row) for _, row in ordered.iterrows()],
        caption=f"Changes with {words.levels_of(frame) or 'no'} intervals. p of a task, and therefore its verdict, is adjusted (Holm) for"
        " the number of tasks at its point; intervals are not. A suite of one task has one row. Click a heading to sort."
        f"{_limit(frame)}",
        searchable=True,
        data=frame,
        shown=shown,
    )
    return Section(id="findings", title="All findings", tables=[table])


def _limit(frame: pd.DataFrame) -> str:
    """Return a sentence where pooled spreads are known to cover less than 95%; else nothing."""
    volumes, cells = frame["volume"].nunique(), frame["cell"].nunique()
    if (frame["spread_used"] == POOLED).any() and (volumes == 1 or cells < _FEW):
        over = f"{cells} methods" if cells < _FEW else "methods that have one volume each"
        return (
            f" Spreads between seeds are pooled over {over}: should one method vary several times as much as the others, its interval"
            " holds the change less often than 95% (METHOD.md, section 12)."
        )
    return ""


def _row(evidence: Evidence, row: pd.Series) -> list[CellView | str]:
    one, panel = evidence.by_cell[str(row["cell"])], evidence.panel_of[str(row["suite"]), str(row["task"])]
    unit, verdict = panel.unit, words.text(row["verdict"])
    p, withheld = p_of(row), evidence.withheld(one.cell)
    judged = CellView(words.verdict(row) or words.UNKNOWN, verdict, VERDICT_KINDS.get(verdict, ""), evidence.mark(one.cell))
    judged = CellView(withheld, withheld, "unclear") if withheld else judged
    return [
        CellView(one.short),
        words.volume_cell(row["volume"]),
        str(row["suite"]) + (" (headline)" if str(row["suite"]) == evidence.headline else ""),
        "all" if row["task"] == "*" else str(row["task"]),
        words.amount_cell(row["before"], unit),
        CellView(words.change(row, unit), words.sortable(row["delta"])),
        words.unit_name(panel),
        judged,
        CellView(words.p_value(p), words.sortable(p)),
        CellView(_mean(row["lost"]), words.sortable(row["lost"])),
        CellView(_mean(row["gained"]), words.sortable(row["gained"])),
        words.count_cell(row["n"]),
        words.count_cell(row["seeds"], note=f"{int(row['missing'])} missing" if _is_positive(row["missing"]) else ""),
        words.UNKNOWN if pd.isna(row["varies"]) else str(row["varies"]),
        _spread(row["seed_spread"], unit, _used(row, unit)),
        _spread(row["seed_spread_pooled"], unit, "used" if words.text(row["spread_used"]) == POOLED else ""),
        words.amount_cell(row["numeric_spread"], unit),
        CellView(
            "not measured" if pd.isna(row["contrast"]) else words.contrast(row, unit, judged=not withheld), words.sortable(row["contrast"])
        ),
        words.amount_cell(row["detectable"], unit),
    ]


def _spread(value: Any, unit: DisplayUnit, note: str) -> CellView:
    text = "not measured" if pd.isna(value) else words.amount(value, unit)
    return CellView(text, words.sortable(value), note=note)


def _used(row: pd.Series, unit: DisplayUnit) -> str:
    """Return in words that the interval takes the cell's own spread; empty if it does not."""
    if words.text(row["spread_used"]) != OWN:
        return ""
    used = words.amount(row["seed_spread_used"], unit)
    return "used" if used == words.amount(row["seed_spread"], unit) else f"used: {used}, by all its volumes"


def _mean(value: Any) -> str:
    return words.UNKNOWN if pd.isna(value) else f"{float(value):.1f}".removesuffix(".0")


def _is_positive(value: Any) -> bool:
    return not pd.isna(value) and int(value) > 0
