"""Other metrics of forgetting (relative, item by item, beyond guessing) and distance from base."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.records.schema import OWN_METRICS
from harness.report import figures, tables, words
from harness.report.content import CellView, ColumnView, Section, TableView
from harness.report.evidence import Evidence, at_largest_volume

MAX_ROWS = 200
SHARES: dict[str, tuple[str, str]] = {
    "delta_relative": ("relative change (%)", "change divided by the value before; empty near guessing"),
    "fg_over_volumes": ("FG over volumes (%)", "share of the value before that is lost, mean over volumes; positive is worse (2308.08747)"),
    "agreement": ("agreement (%)", "items with the same answer as before, right or wrong"),
    "samplewise_forgetting": ("lost (%)", "items right before and wrong after (2510.17776)"),
    "backward_transfer": ("gained (%)", "items wrong before and right after"),
    "samplewise_forgetting_true": (
        "lost beyond guessing (%)",
        "adjusted for guessing; values below 0 are shown as 0, intervals are not cut",
    ),
    "backward_transfer_true": ("gained beyond guessing (%)", "adjusted for guessing; values below 0 are shown as 0, intervals are not cut"),
    "forgetting_ceiling": ("could be lost (%)", "largest possible loss beyond guessing"),
    "progress_lost": ("progress lost (%)", "for losses: share of the progress from guessing to before training that is lost (2502.06042)"),
}
CLIPPED = {"samplewise_forgetting_true", "backward_transfer_true"}
ALREADY_PERCENT = {"fg_over_volumes"}


def metrics(evidence: Evidence) -> Section | None:
    """Return the other metrics at each cell's largest volume, without empty columns."""
    frame = evidence.without_duplicates(evidence.last)
    names = [name for name in SHARES if name in frame and frame[name].notna().any()]
    rows = frame[frame[names].notna().any(axis=1)] if names else frame.head(0)
    if rows.empty:
        return None
    ordered = evidence.in_page_order(rows)
    labels = [ColumnView(title=title, is_number=title in {"volume", "seeds"}) for title in ["method", "volume", "suite", "task", "seeds"]]
    table = TableView(
        name="metrics",
        columns=[*labels, *(ColumnView(title=SHARES[name][0], is_number=True, meaning=SHARES[name][1]) for name in names)],
        rows=[_row(evidence, row, names) for _, row in ordered.head(MAX_ROWS).iterrows()],
        caption="At the largest volume, means over seeds; a single seed has 95% intervals over items.",
        shown=words.excerpt(MAX_ROWS, len(ordered), "rows", "findings.csv"),
        searchable=True,
    )
    return Section(id="metrics", title="Other metrics", tables=[table])


def _row(evidence: Evidence, row: pd.Series, names: list[str]) -> list[CellView | str]:
    cells: list[CellView | str] = [
        evidence.by_cell[str(row["cell"])].short,
        words.volume_cell(row["volume"]),
        str(row["suite"]),
        "all" if row["task"] == "*" else str(row["task"]),
        words.count_cell(row["seeds"]),
    ]
    return cells + [CellView(_share(row, name), words.sortable(row[name])) for name in names]


def _share(row: pd.Series, name: str) -> str:
    value = row[name]
    if pd.isna(value):
        return words.UNKNOWN
    scale = 1.0 if name in ALREADY_PERCENT else 100.0
    shown = max(float(value), 0.0) if name in CLIPPED else float(value)
    text = _fixed(scale * shown)
    low, high = (row.get(f"{name}_{end}", pd.NA) for end in ("low", "high"))
    return text if pd.isna(low) or pd.isna(high) else f"{text} [{_fixed(100 * float(low))},\u00a0{_fixed(100 * float(high))}]"


def _fixed(value: float) -> str:
    text = f"{value:.1f}"
    return text.removeprefix("-").replace("-", "−") if float(text) == 0 else text.replace("-", "−")


def divergence(evidence: Evidence) -> Section | None:
    """Return the distance of each method's model from its base, by all divergence metrics."""
    table = evidence.table
    rows = table[table["metric"].isin(list(OWN_METRICS["divergence"])) & (table["volume"] > 0).fillna(False) & (table["status"] == "ok")]
    if rows.empty:
        return None
    cell_of = {run: one.cell for one in evidence.every for run in one.runs}
    rows = rows[rows["run_id"].isin(list(cell_of))]
    rows = at_largest_volume(rows.assign(_cell=rows["run_id"].map(cell_of)), "_cell")
    rows = evidence.in_page_order(rows[rows["task"] != "*"], "_cell")
    groups = list(rows.groupby(["_cell", "volume", "suite", "task", "filter", "metric"], sort=False))
    cells = [_moved(evidence, key, group) for key, group in groups[:MAX_ROWS]]
    titles = ["method", "volume", "suite", "text", "metric", "value", "seed spread", "seeds", "items"]
    shown = TableView(
        name="divergence",
        columns=[
            ColumnView(title=title, is_number=place in {1, 5, 6, 7, 8}, meaning=_MEANINGS.get(title, ""))
            for place, title in enumerate(titles)
        ],
        rows=cells,
        caption="Distance from the model before training, mean over seeds; a single seed has 95% intervals over items. Forgetting"
        " cross-entropies are the excess over the base's own (2401.05605).",
        shown=words.excerpt(MAX_ROWS, len(groups), "rows", evidence.table_file),
        searchable=True,
    )
    view = figures.against_volume(
        "distance", evidence.drawn, evidence.distances, "after", table=evidence.table, title="Distance from the base against volume"
    )
    return Section(id="divergence", title="Distance from the base", figures=[view] if view else [], tables=[shown])


_MEANINGS = {
    "text": "source of the text: gold answers, or sampled from the base or the tuned model",
    "seed spread": "standard deviation over seeds",
}


def _moved(evidence: Evidence, key: Any, group: pd.DataFrame) -> list[CellView | str]:
    cell, volume, suite, task, text, metric = key
    values = group["value"].astype(float)
    ends = ""
    if len(group) == 1 and group["value_low"].notna().all():
        raw = [float(group[name].iloc[0]) for name in ("value_low", "value_high")]
        low, high = tables.possible_ends(raw[0], raw[1], 0.0, tables.unit_of(str(metric), share=False))
        ends = f" [{low:.4g}, {high:.4g}]"
    return [
        evidence.by_cell[str(cell)].short,
        words.volume_cell(volume),
        str(suite) if suite == task else f"{suite}, {task}",
        str(text),
        str(metric),
        CellView(f"{values.mean():.4g}{ends}".replace("-", "−"), float(values.mean())),
        CellView("not measured" if len(values) < 2 else f"{values.std():.2g}", None if len(values) < 2 else float(values.std())),
        CellView(str(len(values)), len(values)),
        words.count_cell(group["n"].iloc[0]),
    ]
