"""What it cost: time, floating-point operations, tokens and memory, beside what it bought."""

from __future__ import annotations

import pandas as pd

from harness.config.identity import training_id
from harness.report import words
from harness.report.content import Cell, ColumnView, Section, TableView
from harness.report.curves import Series
from harness.report.evidence import IDLE, Evidence
from harness.report.sections import cost_figure

MAX_ROWS = 200
TITLES = {
    "way of training": "",
    "gained": "change on the first target suite",
    "lost": "change on the headline suite, positive is worse",
    "volume": "target rows seen once",
    "parameters trained": "that training may move",
    "steps": "optimizer steps",
    "tokens": "target and anchor tokens",
    "anchor tokens": "of these, the anchor's",
    "generated tokens": "that models wrote for the run, before training and in it, thrown away or not",
    "extra tokens": "of forward passes beside training's own and beside writing: reference model, Fisher, scoring",
    "accepted": "share of rows for which something that models wrote was accepted; below 20% the method did not act",
    "training time": "without evaluation",
    "operations": "floating-point operations, as transformers estimates them",
    "memory (GB)": "peak, of the process",
}


def costs(evidence: Evidence) -> Section | None:
    """Return what each way of training cost up to its largest volume, means over seeds, and what all runs took."""
    if not evidence.every:
        return None
    rows, count = [_row(evidence, one) for one in evidence.every[:MAX_ROWS]], len(evidence.every)
    titles, same = list(TITLES), []
    for title in ["volume", "steps", "anchor tokens", "generated tokens", "extra tokens", "accepted"]:  # the same everywhere: no column
        place = titles.index(title)
        texts = {cell.text if isinstance(cell, Cell) else cell for cell in (row[place] for row in rows)}
        if len(rows) > 1 and len(texts) == 1:
            same.append(f"{title} {texts.pop()}")
            titles.pop(place)
            rows = [[cell for at, cell in enumerate(row) if at != place] for row in rows]
    everywhere = f" Everywhere: {', '.join(same)}." if same else ""
    view = cost_figure.loss_by_cost(evidence)
    table = TableView(
        name="costs",
        columns=[ColumnView(title=title, is_number=title != "way of training", meaning=TITLES[title]) for title in titles],
        rows=rows,
        caption="Up to the largest volume, means over seeds; operations are floating-point operations. Gain and loss are in the unit of"
        f" their suite, with intervals in the findings.{everywhere}",
        shown=f"{MAX_ROWS} of {count} ways of training; findings.csv has all." if count > MAX_ROWS else "",
    )
    return Section(id="costs", title="What it cost", intro=_total(evidence), figures=[view] if view else [], tables=[table])


def _total(evidence: Evidence) -> str:
    table = evidence.table[["run_id", "volume", "wall_seconds", "flops"]]
    measured = table[(table["volume"] > 0).fillna(False) & (table["run_id"].map(training_id) == table["run_id"])]  # derived: same training
    ends = measured.sort_values("volume", kind="stable").drop_duplicates("run_id", keep="last")
    seconds, operations = ends["wall_seconds"].astype(float).sum(), ends["flops"].astype(float).sum()
    return (
        f"Training of all {len(ends):,} runs took {words.duration(seconds)} and {words.scientific(operations)} floating-point operations,"
        " evaluation not counted."
    )


def _row(evidence: Evidence, one: Series) -> list[Cell | str]:
    last = one.rows[one.rows["volume"] == one.rows["volume"].max()]
    row = last.iloc[0]
    numbers = ["params_trainable", "steps", "train_tokens", "anchor_tokens", "generated_tokens", "extra_tokens"]
    return [
        one.short,
        _oriented(evidence, one, next((panel.suite for panel in evidence.targets), None), better=True),
        _oriented(evidence, one, evidence.headline, better=False),
        Cell(f"{int(row['volume']):,}", int(row["volume"])),
        *(Cell(words.count(row[name]), words.sortable(row[name])) for name in numbers),
        _accepted(evidence, one, row),
        Cell(words.duration(row["wall_seconds"]), words.sortable(row["wall_seconds"])),
        Cell(words.scientific(row["flops"]), words.sortable(row["flops"])),
        Cell(
            words.UNKNOWN if pd.isna(row["peak_memory_bytes"]) else f"{float(row['peak_memory_bytes']) / 1e9:.2f}",
            words.sortable(row["peak_memory_bytes"]),
        ),
    ]


def _accepted(evidence: Evidence, one: Series, row: pd.Series) -> Cell:
    share = row["acceptance"]
    text = words.UNKNOWN if pd.isna(share) else f"{100 * float(share):.0f}%"
    return Cell(text, words.sortable(share), "", IDLE if one.cell in evidence.idle else "")


def _oriented(evidence: Evidence, one: Series, suite: str | None, *, better: bool) -> Cell:
    rows = one.on(suite) if suite else one.rows.head(0)
    rows = rows[rows["volume"] == one.rows["volume"].max()]
    if rows.empty:
        return Cell(words.UNKNOWN)
    panel = evidence.panel_of[str(suite), "*"]
    value = float(rows["delta"].iloc[0]) * (1 if panel.higher_is_better else -1) * (1 if better else -1)
    return Cell(f"{words.amount(value, panel.unit)}", value)
