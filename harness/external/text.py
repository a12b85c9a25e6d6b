"""A comparison as text for readers, and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.findings.verdicts import p_of
from harness.analysis.statistics.stats import LEVEL
from harness.analysis.table.columns import SUITE_TASK
from harness.external.gate import Gate
from harness.external.gate_lines import sentences
from harness.external.judge import MISSING, Comparison, as_shown, dicts, shown, suite_rows, task_rows
from harness.report.tables import possible_ends, unit_of

COLUMNS = ["suite / task", "metric", "n", "before", "after", "lost", "gained", f"net [{LEVEL:.0%}]", "p", "verdict", "agree", "lost*"]
LEFT = {0, 1, 9}
"""Columns of names, aligned left."""

MEANINGS = [
    "net: after minus before, in the metric's own unit, over the same items; the interval is over items."
    " Suites: means over tasks with equal weight.",
    "p of a task: adjusted for the number of tasks (Holm); of a suite: unadjusted. agree: share of items with the same answer.",
    "lost*: share of items lost beyond what guessing explains; below 0: fewer were lost than guessing loses; empty without a level of"
    " guessing.",
]


def lines(comparison: Comparison, gate: Gate | None) -> str:
    """Return a comparison as a table with explanations and notes."""
    rows = comparison.rows
    head = [f"before: {comparison.before.name}", f"after:  {comparison.after.name}", ""]
    table = aligned([COLUMNS, *(cells(row) for row in dicts(shown(rows)))])
    margin = f"verdict: kept if the interval is inside ±{comparison.margin:g}, else lost or gained at p < 0.05"
    margin += " if the interval excludes 0, else not enough evidence."
    notes = [f"note: {note}" for note in comparison.notes]
    return "\n".join([*head, *table, "", *MEANINGS, margin, floor(rows), *notes, *(["", *sentences(gate)] if gate else [])]) + "\n"


def judged(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of suites, and of tasks outside any suite."""
    return [row for row in dicts(rows) if row["task"] == SUITE_TASK or row["task"] == row["suite"]]


def headline(rows: pd.DataFrame) -> str:
    """Return one sentence on the verdicts of all suites."""
    suites: dict[str, list[str]] = {}
    for row in judged(rows):
        suites.setdefault(verdict_of(row), []).append(str(row["suite"]))
    words = {"lost": "lost on", "gained": "gained on", "kept": "kept", "not enough evidence": "not enough evidence on"}
    order = [*words, "no interval"]
    whole = "; ".join(f"{words.get(name, 'no interval for')} {', '.join(suites[name])}" for name in order if name in suites)
    return f"{whole[0].upper()}{whole[1:]}."


def sentence(row: Mapping[str, Any]) -> str:
    """Return one sentence on a row: values, change with its interval, items."""
    counts = "" if pd.isna(row["lost"]) else f"; {int(row['lost']):,} items lost and {int(row['gained']):,} gained"
    return (
        f"{name_of(row).strip()}: {metric_of(row)} {number(row['before'])} before, {number(row['value'])} after,"
        f" {change(row)} ({LEVEL:.0%} over {int(row['n']):,} items{counts})."
    )


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row of the table as text."""
    return [
        name_of(row),
        metric_of(row),
        whole(row["n"]),
        number(row["before"]),
        number(row["value"]),
        whole(row["lost"]),
        whole(row["gained"]),
        change(row),
        p_text(row),
        verdict_of(row),
        "" if pd.isna(row["agreement"]) else f"{float(row['agreement']):.3f}",
        number(row["samplewise_forgetting_true"]),
    ]


def floor(rows: pd.DataFrame) -> str:
    """Return a sentence on the changes without training: rounding, as far as it was measured."""
    moves = rows["numeric_spread"].dropna()
    rounding = f"moves a value of BEFORE by up to {float(moves.max()):.4f}" if len(moves) else "not measured"
    return f"floor: rounding alone (other batches and threads) {rounding}; variation between training runs not measured."


def name_of(row: Mapping[str, Any]) -> str:
    """Return a row's suite or task; tasks are indented under their suite."""
    if row["task"] == SUITE_TASK:
        missing = [] if pd.isna(row[MISSING]) else str(row[MISSING]).split(", ")
        return f"{row['suite']} (without {len(missing)} of its tasks)" if missing else str(row["suite"])
    return str(row["task"]) if row["task"] == row["suite"] else f"  {row['task']}"


def metric_of(row: Mapping[str, Any]) -> str:
    """Return a row's metric and filter."""
    return str(row["metric"]) if row["filter"] == "none" else f"{row['metric']},{row['filter']}"


def p_text(row: Mapping[str, Any]) -> str:
    """Return the p-value of a row's verdict with two digits; empty if it is missing."""
    p = p_of(row)
    return "" if pd.isna(p) else f"{float(p):.2g}"


def verdict_of(row: Mapping[str, Any]) -> str:
    """Return a row's verdict in words."""
    return "no interval" if pd.isna(row["verdict"]) else str(row["verdict"])


def change(row: Mapping[str, Any]) -> str:
    """Return a row's change with its interval."""
    low, high = ends(row)
    interval = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{float(row['delta']):+.3f}{interval}"


def ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the ends of the interval of a row's change, cut to what a share can be, or NaN."""
    if pd.isna(row["delta_low"]):
        return math.nan, math.nan
    unit = unit_of(str(row["metric"]), share=not (pd.isna(row["lost"]) and pd.isna(row["chance"])))
    low, high = possible_ends(row["delta_low"], row["delta_high"], row["before"], unit)
    return float(low), float(high)


def number(value: Any) -> str:
    """Return a value with three decimals; empty if it is missing."""
    return "" if pd.isna(value) else f"{float(value):.3f}"


def whole(value: Any) -> str:
    """Return a count; empty if it is missing."""
    return "" if pd.isna(value) else f"{int(value):,}"


def aligned(table: Sequence[Sequence[str]], left: Collection[int] = LEFT) -> list[str]:
    """Return rows of text as lines of aligned columns: those in ``left`` left, others right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    pad = [str.ljust if i in left else str.rjust for i in range(len(widths))]
    rows = [[fill(text, width) for fill, text, width in zip(pad, row, widths, strict=True)] for row in table]
    return ["  ".join(row).rstrip() for row in rows]


def values(comparison: Comparison, gate: Gate | None) -> dict[str, Any]:
    """Return a comparison as plain values for JSON; missing values are None."""
    return {
        "before": {"source": comparison.before.source, "model": comparison.before.model},
        "after": {"source": comparison.after.source, "model": comparison.after.model},
        "level": LEVEL,
        "margin": comparison.margin,
        "suites": records(suite_rows(comparison.rows)),
        "tasks": records(task_rows(comparison.rows)),
        "other_metrics": records(comparison.others),
        "notes": list(comparison.notes),
        "gate": gate.as_dict() if gate else None,
    }


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as plain values for JSON; missing values are None."""
    plain = as_shown(frame).astype(object)
    return dicts(plain.where(plain.notna(), None))


def as_json(comparison: Comparison, gate: Gate | None) -> str:
    """Return a comparison as JSON."""
    return json.dumps(values(comparison, gate), indent=2, ensure_ascii=False, allow_nan=False, default=float) + "\n"
