"""Other ways to say how much was lost: relative, item by item, adjusted for guessing.

And how far the model moved from its base.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.records.schema import OWN_METRICS
from harness.report import figures, words
from harness.report.content import Cell, ColumnView, Section, TableView
from harness.report.evidence import Evidence

MAX_ROWS = 200
SHARES: dict[str, tuple[str, str]] = {
    "delta_relative": ("relative change (%)", "change divided by the value before; empty near guessing"),
    "fg_over_volumes": ("FG over volumes (%)", "share of the value before that is lost, mean over volumes; positive is worse (2308.08747)"),
    "agreement": ("agreement (%)", "items answered as before, right or wrong"),
    "samplewise_forgetting": ("lost (%)", "items right before and wrong after (2510.17776)"),
    "backward_transfer": ("gained (%)", "items wrong before and right after"),
    "samplewise_forgetting_true": ("lost beyond guessing (%)", "adjusted for guessing; shown no smaller than 0, its interval as it is"),
    "backward_transfer_true": ("gained beyond guessing (%)", "adjusted for guessing; shown no smaller than 0, its interval as it is"),
    "forgetting_ceiling": ("could be lost (%)", "what there is to lose beyond guessing"),
    "progress_lost": ("progress lost (%)", "share of the way from guessing to before that is lost, of a loss (2502.06042)"),
}
CLIPPED = {"samplewise_forgetting_true", "backward_transfer_true"}
ALREADY_PERCENT = {"fg_over_volumes"}


def metrics(evidence: Evidence) -> Section | None:
    """Return the other metrics at each cell's largest volume.

    Those that nothing has are left out.
    """
    frame = evidence.without_doubles(evidence.last)
    names = [name for name in SHARES if name in frame and frame[name].notna().any()]
    rows = frame[frame[names].notna().any(axis=1)] if names else frame.head(0)
    if rows.empty:
        return None
    place = {one.cell: index for index, one in enumerate(evidence.every)}
    ordered = rows.assign(_place=rows["cell"].map(place)).sort_values("_place", kind="stable")
    labels = [
        ColumnView(title=title, is_number=title in {"volume", "seeds"}) for title in ["way of training", "volume", "suite", "task", "seeds"]
    ]
    table = TableView(
        name="metrics",
        columns=[*labels, *(ColumnView(title=SHARES[name][0], is_number=True, meaning=SHARES[name][1]) for name in names)],
        rows=[_row(evidence, row, names) for _, row in ordered.head(MAX_ROWS).iterrows()],
        caption="At the largest volume, means over seeds; intervals are at 95% over items and stand where there is one seed.",
        shown=f"{MAX_ROWS} of {len(ordered)} rows; findings.csv has all." if len(ordered) > MAX_ROWS else "",
        searchable=True,
    )
    return Section(id="metrics", title="Other metrics", tables=[table])


def _row(evidence: Evidence, row: pd.Series, names: list[str]) -> list[Cell | str]:
    cells: list[Cell | str] = [
        evidence.by_cell[str(row["cell"])].short,
        Cell(f"{int(row['volume']):,}", int(row["volume"])),
        str(row["suite"]),
        "all" if row["task"] == "*" else str(row["task"]),
        Cell(words.count(row["seeds"]), words.sortable(row["seeds"])),
    ]
    return cells + [Cell(_share(row, name), words.sortable(row[name])) for name in names]


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
    """Return how far each way of training moved the model from its base: every metric of the divergence suites."""
    table = evidence.table
    rows = table[table["metric"].isin(list(OWN_METRICS["divergence"])) & (table["volume"] > 0).fillna(False) & (table["status"] == "ok")]
    if rows.empty:
        return None
    run_cell = {run: one for one in evidence.every for text in one.rows["run_ids"].dropna() for run in str(text).split(",")}
    rows = rows[rows["run_id"].isin(run_cell)]
    rows = rows.assign(_cell=rows["run_id"].map({run: one.cell for run, one in run_cell.items()}))
    rows = rows[(rows["volume"] == rows.groupby("_cell")["volume"].transform("max")) & (rows["task"] != "*")]
    place = {one.cell: index for index, one in enumerate(evidence.every)}
    rows = rows.assign(_place=rows["_cell"].map(place)).sort_values("_place", kind="stable")
    groups = list(rows.groupby(["_cell", "volume", "suite", "task", "filter", "metric"], sort=False))
    cells = [_moved(evidence, key, group) for key, group in groups[:MAX_ROWS]]
    titles = ["way of training", "volume", "suite", "text", "metric", "value", "seed spread", "seeds", "items"]
    shown = TableView(
        name="divergence",
        columns=[
            ColumnView(title=title, is_number=place in {1, 5, 6, 7, 8}, meaning=_MEANINGS.get(title, ""))
            for place, title in enumerate(titles)
        ],
        rows=cells,
        caption="Distance from the model before training, mean over seeds; intervals are at 95% over items, where there is one seed."
        " Forgetting cross-entropies are the excess over the base's own (2401.05605).",
        shown=f"{MAX_ROWS} of {len(groups)} rows; {evidence.table_file} has all." if len(groups) > MAX_ROWS else "",
        searchable=True,
    )
    view = figures.against_volume(
        "distance", evidence.drawn, evidence.distances, "after", table=evidence.table, title="Distance from the base against volume"
    )
    return Section(id="divergence", title="Distance from the base", figures=[view] if view else [], tables=[shown])


_MEANINGS = {"text": "whose text it is on: gold, or sampled by the base or the tuned model", "seed spread": "standard deviation over seeds"}


def _moved(evidence: Evidence, key: Any, group: pd.DataFrame) -> list[Cell | str]:
    cell, volume, suite, task, text, metric = key
    values = group["value"].astype(float)
    ends = ""
    if len(group) == 1 and group["value_low"].notna().all():
        ends = f" [{float(group['value_low'].iloc[0]):.4g}, {float(group['value_high'].iloc[0]):.4g}]"
    return [
        evidence.by_cell[str(cell)].short,
        Cell(f"{int(volume):,}", int(volume)),
        str(suite) if suite == task else f"{suite}, {task}",
        str(text),
        str(metric),
        Cell(f"{values.mean():.4g}{ends}".replace("-", "−"), float(values.mean())),
        Cell("not measured" if len(values) < 2 else f"{values.std():.2g}", None if len(values) < 2 else float(values.std())),
        Cell(str(len(values)), len(values)),
        Cell(words.count(group["n"].iloc[0]), words.sortable(group["n"].iloc[0])),
    ]
