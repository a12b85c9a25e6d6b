"""A comparison as a page like that of ``harness report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.analysis.statistics.stats import LEVEL
from harness.analysis.table.columns import DESCRIPTIONS, SUITE_TASK
from harness.external import text
from harness.external.gate import Gate
from harness.external.gate_lines import sentences
from harness.external.judge import Comparison, as_shown, dicts, shown
from harness.external.sides import short
from harness.records import provenance
from harness.report import html
from harness.report.content import VERDICT_KINDS, CellView, ColumnView, Content, FigureView, ItemsView, Section, TableView
from harness.report.palette import GREY, ONE_COLOUR

MAX_ITEMS = 2000
"""Changed items on the page, those that lost most confidence; changed_items.csv has all."""

ROW_INCHES = 0.27


def write(comparison: Comparison, gate: Gate | None, folder: Path) -> Path:
    """Write ``index.html`` with tables and figures into a folder, created if it does not exist.

    Other files in the folder are not touched.

    Returns:
        The path of ``index.html``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return html.write(content(comparison, gate), folder)


def content(comparison: Comparison, gate: Gate | None) -> Content:
    """Return the content of the page."""
    rows = comparison.rows
    changed = comparison.items.assign(cell=short(comparison.after.source))
    first = changed.head(MAX_ITEMS)
    files: dict[str, Any] = {"changed_items.csv": comparison.items}
    if len(comparison.others):
        files["other_metrics.csv"] = comparison.others.drop(columns=["role"])
    most = f"The {len(first):,} items that lost most confidence, of {len(changed):,} changed ones; all are in changed_items.csv."
    return Content(
        title="What was lost, what was gained",
        subtitle=f"{comparison.after.name}, compared with {comparison.before.name}",
        headline=[text.headline(rows), *(sentences(gate)[-1:] if gate else [])],
        facts={
            "before": short(comparison.before.source),
            "after": short(comparison.after.source),
            "items": f"{int(rows.loc[rows['task'] != SUITE_TASK, 'n'].sum()):,}",
            "tasks": str(int((rows["task"] != SUITE_TASK).sum())),
            "margin": f"±{comparison.margin:g}",
        },
        sections=[
            _changes(comparison),
            Section(
                id="items",
                title="Changed items",
                intro="Items of 0/1 metrics that were right before and are wrong after, or wrong before and right after.",
                items=ItemsView(rows=first, shown=most if len(first) < len(changed) else "All changed items are shown.")
                if len(first)
                else None,
                notes=[] if len(first) else ["No item of a 0/1 metric changed."],
            ),
            _gate(gate),
            Section(id="how", title="How it was compared", notes=[*text.MEANINGS, *comparison.notes], code=provenance.command()),
        ],
        files=files,
    )


NUMBERS = {
    "n": "n",
    "before": "before",
    "after": "value",
    "lost": "lost",
    "gained": "gained",
    "change": "delta",
    "p": "p_value",
    "agreement": "agreement",
    "lost beyond guessing": "samplewise_forgetting_true",
    "detectable": "detectable",
}
"""Heading → the column it is sorted by."""

MEANINGS = {
    "change": f"after minus before with its {LEVEL:.0%} interval, paired over items",
    "p": "of a task: adjusted for the number of tasks (Holm); of a suite: unadjusted",
    "verdict": "kept if the interval is inside the margin; else lost or gained at p < 0.05 if it excludes 0; else not enough evidence",
    "detectable": "smallest change that 80% of such comparisons would detect",
}


def _changes(comparison: Comparison) -> Section:
    headings = ["suite or task", "metric", *list(NUMBERS)[:6], "p", "verdict", *list(NUMBERS)[7:]]
    columns = [ColumnView(title=name, is_number=name in NUMBERS, meaning=MEANINGS.get(name) or _meaning(name)) for name in headings]
    rows = [_cells(row) for row in dicts(shown(comparison.rows))]
    data = as_shown(comparison.rows)
    caption = f"Changes in the metric's own unit, {LEVEL:.0%} intervals over items; suites are means over tasks with equal weight."
    table = TableView(name="changes", columns=columns, rows=rows, caption=caption, searchable=len(rows) > 20, data=data)
    figures = [_figure(comparison, str(metric)) for metric in comparison.rows["metric"].unique()]
    return Section(id="changes", title="Changes by suite and task", figures=figures, tables=[table])


def _meaning(name: str) -> str:
    return DESCRIPTIONS.get(NUMBERS.get(name, name), "")


def _cells(row: Mapping[str, Any]) -> list[CellView | str]:
    known = {name: None if pd.isna(row[column]) else float(row[column]) for name, column in NUMBERS.items()}
    written = {
        **{name: text.whole(row[column]) for name, column in NUMBERS.items() if name in {"n", "lost", "gained"}},
        "change": text.change(row),
        "p": text.p_text(row),
    }
    numbers = {name: CellView(written.get(name, text.number(row[column])), known[name]) for name, column in NUMBERS.items()}
    verdict = text.verdict_of(row)
    whole = CellView(text.name_of(row).strip(), kind="strong" if row["task"] == SUITE_TASK else "")
    *first, p_cell, agreement, beyond, detectable = numbers.values()
    return [
        whole,
        text.metric_of(row),
        *first,
        p_cell,
        CellView(verdict, verdict, VERDICT_KINDS.get(verdict, "")),
        agreement,
        beyond,
        detectable,
    ]


def _figure(comparison: Comparison, metric: str) -> FigureView:
    """Draw the changes and intervals of a metric, and the margin as a grey band."""
    rows = dicts(shown(comparison.rows[comparison.rows["metric"] == metric]))
    figure = Figure(figsize=(6.8, 1.1 + ROW_INCHES * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvspan(-comparison.margin, comparison.margin, color=GREY, alpha=0.18, linewidth=0)
    axes.axvline(0.0, color=GREY, linewidth=1)
    for place, row in enumerate(rows):
        ends = [end for end in text.ends(row) if _is_known(end)]
        axes.plot(ends, [place] * len(ends), color=ONE_COLOUR, linewidth=1.6)
        is_suite = row["task"] == SUITE_TASK
        axes.plot([float(row["delta"])], [place], color=ONE_COLOUR, marker="D" if is_suite else "o", markersize=6 if is_suite else 4.5)
    axes.set_yticks(range(len(rows)), [text.name_of(row).replace("$", r"\$") for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    better = "" if bool(rows[0]["higher_is_better"]) else "; lower is better"
    axes.set_xlabel(f"change in {metric} (after − before, metric's own unit{better})".replace("$", r"\$"), fontsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=8)
    caption = f"Points: changes (diamonds: suites); bars: {LEVEL:.0%} intervals over items; grey band: ±{comparison.margin:g}, the margin."
    description = "; ".join(f"{text.name_of(row).strip()} {text.change(row)}" for row in rows)
    name = "changes" if metric == str(comparison.rows["metric"].iloc[0]) else f"changes_{_stem(metric)}"
    return FigureView(name=name, title=f"Change in {metric}", description=description, figure=figure, caption=caption)


def _is_known(value: Any) -> bool:
    return not bool(pd.isna(value))


def _stem(metric: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in metric)


def _gate(gate: Gate | None) -> Section:
    return Section(id="gate", title="Gate", notes=sentences(gate) if gate else [])
