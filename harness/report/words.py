"""Numbers in words: units, changes with their intervals, and what an interval is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.report.tables import DisplayUnit, Panel

if TYPE_CHECKING:
    from harness.report.curves import Series

UNKNOWN = "-"
"""Stands where there is no number."""


def amount(value: Any, unit: DisplayUnit, *, sign: bool = False) -> str:
    """Write a number in its unit's decimals with a real minus sign; UNKNOWN where it is missing."""
    if value is None or pd.isna(value):
        return UNKNOWN
    text = f"{float(value) * unit.scale:{'+' if sign else ''}.{unit.decimals}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(low: Any, high: Any, unit: DisplayUnit, *, sign: bool = True) -> str:
    """Write an interval, such as ``[−4.1, +2.0]``; ``[no interval]`` where there is none."""
    ends = [amount(end, unit, sign=sign) for end in (low, high)]
    return "[no interval]" if UNKNOWN in ends else f"[{ends[0]},\u00a0{ends[1]}]"


def change(row: Mapping[str, Any] | pd.Series, unit: DisplayUnit, prefix: str = "delta") -> str:
    """Write a change with its interval, such as ``−12.5 [−16.1, −8.9]``."""
    value = amount(row[prefix if prefix in row else f"{prefix}_delta"], unit, sign=True)
    return value if value == UNKNOWN else f"{value} {interval(row[f'{prefix}_low'], row[f'{prefix}_high'], unit)}"


def unit_name(panel: Panel) -> str:
    """Return a panel's metric with its unit and, where less is better, that."""
    points = panel.unit.name == "points"
    notes = ", ".join(filter(None, ["points" if points else "", "" if panel.higher_is_better else "less is better"]))
    return f"{panel.metric if points else panel.unit.name}" + (f" ({notes})" if notes else "")


def percent(level: Any) -> str:
    """Write a level of confidence, such as ``95%``."""
    return UNKNOWN if pd.isna(level) else f"{100 * float(level):.3g}%"


def seeds(count: Any) -> str:
    """Write a number of seeds."""
    return f"{int(count)} seed{'' if int(count) == 1 else 's'}"


def basis(row: Mapping[str, Any] | pd.Series) -> str:
    """Say what a number rests on, such as ``95% over seeds and items, 3 seeds, 600 items``."""
    over = f"{percent(row['level'])} over {row['varies']}" if not pd.isna(row["varies"]) else "no interval"
    lacking = "" if pd.isna(row["missing"]) or not int(row["missing"]) else f", {seeds(row['missing'])} missing"
    return f"{over}, {seeds(row['seeds'])}{lacking}, {int(row['n']):,} items"


def bars(every: Sequence[Series], *, thin: bool = True) -> str:
    """Say what points and bars of curves are, from the findings they draw.

    ``thin``: whether each seed is drawn, too.
    """
    rows = pd.concat([one.rows for one in every])
    varies = sorted({str(value) for value in rows["varies"].dropna()})
    known = sorted({int(value) for value in rows["seeds"].dropna()})
    many = f"means of {known[0]}" + (f" to {known[-1]}" if len(known) > 1 else "") + " seeds" if known and known[-1] > 1 else "one seed"
    level = percent(rows["level"].dropna().iloc[0]) if rows["level"].notna().any() else ""
    ends = f"bars: {level} intervals over {' or '.join(varies)}" if varies and level else "no intervals"
    return f"points: {many}, {ends}" + ("; thin lines: each seed" if thin and known and known[-1] > 1 else "")


def short_count(value: int) -> str:
    """Write a count with thousands apart, from 100,000 on in thousands or millions."""
    for size, letter in [(1e6, "M"), (1e3, "k")]:
        if value >= 100_000 and value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:,}"


def scientific(value: Any) -> str:
    """Write a large number, such as ``3.2 × 10⁷``."""
    if pd.isna(value):
        return UNKNOWN
    if abs(float(value)) < 1e4:
        return f"{float(value):.3g}"
    mantissa, exponent = f"{float(value):.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return f"{float(mantissa):.3g} × 10{raised}"


def p_value(value: Any) -> str:
    """Write a p-value with two digits that say something, never as 0."""
    if pd.isna(value):
        return UNKNOWN
    return "< 0.0001" if float(value) < 1e-4 else f"{float(value):.2g}"


def with_ends(
    row: Mapping[str, Any] | pd.Series, name: str, unit: DisplayUnit, *, low: str | None = None, high: str | None = None, sign: bool = False
) -> str:
    """Write a column with its interval, which stands in ``NAME_low`` and ``NAME_high`` unless named."""
    value = amount(row[name], unit, sign=sign)
    ends = interval(row[low or f"{name}_low"], row[high or f"{name}_high"], unit, sign=sign)
    return value if value == UNKNOWN else f"{value} {ends}"


def sortable(value: Any) -> float | None:
    """Return what a cell with this number is sorted by; None where it is missing."""
    return None if value is None or pd.isna(value) else float(value)


def count(value: Any) -> str:
    """Write a count with thousands apart."""
    return UNKNOWN if pd.isna(value) else f"{round(float(value)):,}"


def duration(seconds: Any) -> str:
    """Write a time in seconds, minutes or hours."""
    if pd.isna(seconds):
        return UNKNOWN
    for size, name in [(3600.0, "h"), (60.0, "min")]:
        if float(seconds) >= 2 * size:
            return f"{float(seconds) / size:.3g} {name}"
    return f"{float(seconds):.2g} s" if float(seconds) < 1 else f"{float(seconds):.3g} s"
