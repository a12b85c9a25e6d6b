"""Costs of each method (time, operations, tokens, memory) next to its gain and loss."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.analysis.table.columns import ACTED
from harness.config.identity import training_id
from harness.report import words
from harness.report.content import CellView, ColumnView, Section, TableView
from harness.report.curves import Series
from harness.report.evidence import IDLE, Evidence
from harness.report.sections import cost_figure

MAX_ROWS = 200
TITLES = {
    "method": "",
    "gained": "change on the first target suite",
    "lost": "change on the headline suite; positive is worse",
    "volume": "distinct target rows",
    "parameters trained": "parameters that training may change",
    "steps": "optimizer steps",
    "tokens": "target and anchor tokens",
    "anchor tokens": "tokens of the anchor",
    "anchor tokens with a loss": "supervised tokens of the anchor",
    "anchor's share of the loss": "weight of anchor rows in the training loss: their share of a step's supervised tokens, mean over steps",
    "generated tokens": "tokens that models generated for the run, before and during training, accepted or not",
    "extra tokens": "tokens of forward passes outside training and generation: reference model, Fisher information, scoring",
    "accepted": f"share of rows with an accepted generated text; below {100 * ACTED:.0f}%, the method did not act",
    "training time": "without evaluation",
    "operations": "floating-point operations, estimated by transformers",
    "memory (GB)": "peak memory of the process",
}

MAY_BE_CONSTANT = ["volume", "steps", "anchor tokens", "anchor tokens with a loss", "anchor's share of the loss"]
MAY_BE_CONSTANT += ["generated tokens", "extra tokens", "accepted"]
"""Columns that the caption names where they are the same for all methods."""


def costs(evidence: Evidence) -> Section | None:
    """Return the costs of each method up to its largest volume, and their total."""
    if not evidence.every:
        return None
    rows, count = [_row(evidence, one) for one in evidence.every[:MAX_ROWS]], len(evidence.every)
    titles, same = list(TITLES), []
    for title in MAY_BE_CONSTANT:
        place = titles.index(title)
        texts = {cell.text if isinstance(cell, CellView) else cell for cell in (row[place] for row in rows)}
        if len(rows) > 1 and len(texts) == 1:
            same.append(f"{title} {texts.pop()}")
            titles.pop(place)
            rows = [[cell for at, cell in enumerate(row) if at != place] for row in rows]
    constants = f" The same for all: {', '.join(same)}." if same else ""
    view = cost_figure.loss_by_cost(evidence)
    table = TableView(
        name="costs",
        columns=[ColumnView(title=title, is_number=title != "method", meaning=TITLES[title]) for title in titles],
        rows=rows,
        caption="Up to the largest volume, means over seeds; operations are floating-point operations. Gain and loss are in the unit of"
        f" their suite; their intervals are in the findings.{constants}",
        shown=words.excerpt(MAX_ROWS, count, "methods", "findings.csv"),
    )
    return Section(id="costs", title="What it cost", intro=_total(evidence), figures=[view] if view else [], tables=[table])


def _total(evidence: Evidence) -> str:
    table = evidence.table[["run_id", "volume", "wall_seconds", "flops"]]
    measured = table[
        (table["volume"] > 0).fillna(False) & (table["run_id"].map(training_id) == table["run_id"])
    ]  # derived runs share a training
    ends = measured.sort_values("volume", kind="stable").drop_duplicates("run_id", keep="last")
    seconds, operations = ends["wall_seconds"].astype(float).sum(), ends["flops"].astype(float).sum()
    return (
        f"Training all {len(ends):,} runs took {words.duration(seconds)} and {words.scientific(operations)} floating-point operations,"
        " without evaluation."
    )


def _row(evidence: Evidence, one: Series) -> list[CellView | str]:
    row = one.last.iloc[0]
    counts = ["params_trainable", "steps", "train_tokens", "anchor_tokens", "anchor_supervised_tokens"]
    return [
        one.short,
        _oriented(evidence, one, next((panel.suite for panel in evidence.targets), None), better=True),
        _oriented(evidence, one, evidence.headline, better=False),
        words.volume_cell(row["volume"]),
        *(words.count_cell(row[name]) for name in counts),
        _percent(row["anchor_loss_share"]),
        *(words.count_cell(row[name]) for name in ["generated_tokens", "extra_tokens"]),
        _percent(row["acceptance"], note=IDLE if one.cell in evidence.idle else ""),
        CellView(words.duration(row["wall_seconds"]), words.sortable(row["wall_seconds"])),
        CellView(words.scientific(row["flops"]), words.sortable(row["flops"])),
        CellView(
            words.UNKNOWN if pd.isna(row["peak_memory_bytes"]) else f"{float(row['peak_memory_bytes']) / 1e9:.2f}",
            words.sortable(row["peak_memory_bytes"]),
        ),
    ]


def _percent(share: Any, note: str = "") -> CellView:
    text = words.UNKNOWN if pd.isna(share) else f"{100 * float(share):.0f}%"
    return CellView(text, words.sortable(share), note=note)


def _oriented(evidence: Evidence, one: Series, suite: str | None, *, better: bool) -> CellView:
    """Return the cell of a change, oriented so that positive is better, or worse."""
    rows = one.on(suite) if suite else one.rows.head(0)
    rows = rows[rows["volume"] == one.rows["volume"].max()]
    if rows.empty:
        return CellView(words.UNKNOWN)
    panel = evidence.panel_of[str(suite), "*"]
    value = float(rows["delta"].iloc[0]) * panel.sign * (1 if better else -1)
    return CellView(f"{words.amount(value, panel.unit)}", value)
