"""Words of a page: numbers with units and intervals, what intervals are over, table cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.report.content import CellView
from harness.report.tables import DisplayUnit, Panel, possible_ends

UNKNOWN = "-"
"""Shown in place of a missing number."""


def text(value: Any) -> str:
    """Return a label, verdict or note as text; empty if it is missing."""
    return "" if pd.isna(value) else str(value)


def amount(value: Any, unit: DisplayUnit, *, sign: bool = False) -> str:
    """Return a number in its unit, with a real minus sign; UNKNOWN if missing."""
    if value is None or pd.isna(value):
        return UNKNOWN
    digits = f"{float(value) * unit.scale:{'+' if sign else ''}.{unit.decimals}f}"
    if float(digits) == 0.0:
        digits = digits.lstrip("+-")
    return digits.replace("-", "−")


def interval(low: Any, high: Any, unit: DisplayUnit, *, sign: bool = True) -> str:
    """Return an interval, such as ``[−4.1, +2.0]``; ``[no interval]`` if it is missing."""
    ends = [amount(end, unit, sign=sign) for end in (low, high)]
    return "[no interval]" if UNKNOWN in ends else f"[{ends[0]},\u00a0{ends[1]}]"


def change(row: Mapping[str, Any] | pd.Series, unit: DisplayUnit) -> str:
    """Return a change with its interval, such as ``−12.5 [−16.1, −8.9]``."""
    return with_ends(row, "delta", unit, before=row["before"], sign=True)


def verdict(row: Mapping[str, Any] | pd.Series, name: str = "verdict", varies: str = "varies") -> str:
    """Return a verdict with what it holds for, such as ``lost (this run)``; empty without one."""
    found, where = text(row[name]), held_by(row, varies)
    return f"{found} ({where})" if where and found not in {"", "not enough evidence"} else found


def contrast(row: Mapping[str, Any] | pd.Series, unit: DisplayUnit, *, judged: bool = True) -> str:
    """Return the change minus that of the control, such as ``−9.1 [−12.0, −6.2] worse``.

    Not judged, it is without the verdict.
    """
    return f"{with_ends(row, 'contrast', unit, sign=True)} {contrast_verdict(row) if judged else ''}".rstrip()


def contrast_verdict(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the verdict of a contrast with what it holds for, such as ``worse (these runs)``."""
    return verdict(row, "contrast_verdict", "contrast_varies")


def counts(of: Mapping[str, int], total: int) -> str:
    """Return counts of several verdicts in words, as by ``verdicts.counted``."""
    listed_counts = ", ".join(f"{number} {name}" for name, number in of.items())
    return listed_counts + (adjusted(total) if {"undecided", "kept", "alike"} & set(of) else "")


def adjusted(total: int) -> str:
    """Return in words that counted tests are adjusted, as by ``verdicts.counted``."""
    return f" (tests adjusted for {total} methods, Holm)"


def in_these_runs(varies: pd.Series) -> str:
    """Return in words that verdicts hold for the runs alone, where some have too few seeds.

    Args:
        varies: the samples that the interval of each method's verdict is over.
    """
    few = int((varies == "items").fillna(value=False).sum())
    return "" if not few else " in these runs" if few == len(varies) else f" ({few} of them: in these runs)"


def held_by(row: Mapping[str, Any] | pd.Series, varies: str = "varies") -> str:
    """Return ``this run`` or ``these runs``, which alone a verdict over items holds for.

    Empty where the verdict holds for further seeds too.
    """
    if text(row[varies]) != "items":
        return ""
    return "this run" if int(row["seeds"]) == 1 else "these runs"


def unit_name(panel: Panel) -> str:
    """Return a panel's metric with its unit, marked if lower is better."""
    points = panel.unit.name == "points"
    notes = ", ".join(filter(None, ["points" if points else "", "" if panel.higher_is_better else "lower is better"]))
    return f"{panel.metric if points else panel.unit.name}" + (f" ({notes})" if notes else "")


def percent(level: Any) -> str:
    """Return a confidence level, such as ``95%``."""
    return UNKNOWN if pd.isna(level) else f"{100 * float(level):.3g}%"


def level_of(rows: pd.DataFrame) -> str:
    """Return the confidence level of the first interval in rows; UNKNOWN without intervals."""
    known = rows["level"].dropna()
    return percent(known.iloc[0]) if len(known) else UNKNOWN


def levels_of(rows: pd.DataFrame) -> str:
    """Return all confidence levels in rows, such as ``90% or 95%``; empty without intervals."""
    return " or ".join(sorted({percent(level) for level in rows["level"].dropna()}))


def seeds(count: Any) -> str:
    """Return a number of seeds, such as ``3 seeds``."""
    return f"{int(count)} seed{'' if int(count) == 1 else 's'}"


def basis(row: Mapping[str, Any] | pd.Series) -> str:
    """Return a finding's basis, such as ``95% over seeds and items, 3 seeds, 600 items``."""
    over = f"{percent(row['level'])} over {row['varies']}" if not pd.isna(row["varies"]) else "no interval"
    lacking = "" if pd.isna(row["missing"]) or not int(row["missing"]) else f", {seeds(row['missing'])} missing"
    return f"{over}, {seeds(row['seeds'])}{lacking}, {int(row['n']):,} items"


def difference_basis(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the basis of a difference, such as ``95% over seeds and items, 3 seeds``."""
    return f"{percent(row['level'])} over {row['varies']}, {seeds(row['seeds'])}"


def shared_basis(rows: pd.DataFrame) -> str:
    """Return the basis that all differences in rows share; empty if they have several."""
    bases = {difference_basis(row) for _, row in rows.iterrows() if not pd.isna(row["difference"])}
    return bases.pop() if len(bases) == 1 else ""


def bars(rows: pd.DataFrame, *, thin: bool = True) -> str:
    """Return the meaning of points and bars of curves, from the findings that they draw.

    Args:
        rows: the findings of all curves.
        thin: whether each seed is drawn as a thin line.
    """
    varies = sorted({str(value) for value in rows["varies"].dropna()})
    known = sorted({int(value) for value in rows["seeds"].dropna()})
    many = f"means of {known[0]}" + (f" to {known[-1]}" if len(known) > 1 else "") + " seeds" if known and known[-1] > 1 else "one seed"
    level = level_of(rows)
    ends = f"bars: {level} intervals over {' or '.join(varies)}" if varies and level != UNKNOWN else "no intervals"
    return f"points: {many}, {ends}" + ("; thin lines: each seed" if thin and known and known[-1] > 1 else "")


def listed(names: Sequence[str], most: int) -> str:
    """Return the first names with commas, and the number of the others."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def drawn(count: int, total: int, things: str, file: str = "") -> str:
    """Return a sentence on the part that a figure draws; empty if it draws everything."""
    where = f"; all are in {file}" if file else ""
    return f"{count} of {total} {things} are drawn{where}." if count < total else ""


def excerpt(most: int, total: int, things: str, file: str) -> str:
    """Return a sentence on the part that a table shows; empty if it shows everything."""
    return f"{most} of {total} {things}; all are in {file}." if total > most else ""


def short_count(value: int) -> str:
    """Return a count with thousands separators, from 100,000 on in thousands or millions."""
    for size, letter in [(1e6, "M"), (1e3, "k")]:
        if value >= 100_000 and value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:,}"


def scientific(value: Any) -> str:
    """Return a large number, such as ``3.2 × 10⁷``."""
    if pd.isna(value):
        return UNKNOWN
    if abs(float(value)) < 1e4:
        return f"{float(value):.3g}"
    mantissa, exponent = f"{float(value):.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return f"{float(mantissa):.3g} × 10{raised}"


def p_value(value: Any) -> str:
    """Return a p-value with two significant digits, never as 0."""
    if pd.isna(value):
        return UNKNOWN
    return "< 0.0001" if float(value) < 1e-4 else f"{float(value):.2g}"


def with_ends(
    row: Mapping[str, Any] | pd.Series,
    name: str,
    unit: DisplayUnit,
    *,
    low: str | None = None,
    high: str | None = None,
    before: Any = None,
    turned: float = 1.0,
    sign: bool = False,
) -> str:
    """Return a column's value with its interval, cut to what is possible.

    Args:
        row: with these columns.
        name: of the column.
        unit: in which it is shown.
        low: column of the interval's lower end; None: ``NAME_low``.
        high: column of the interval's upper end; None: ``NAME_high``.
        before: value from which a change starts; None for a difference, as in ``possible_ends``.
        turned: −1 for a change with the opposite sign.
        sign: whether a plus sign is shown.
    """
    value = amount(row[name], unit, sign=sign)
    if value == UNKNOWN:
        return value
    ends = possible_ends(row[low or f"{name}_low"], row[high or f"{name}_high"], before, unit, sign=turned)
    return f"{value} {interval(*ends, unit, sign=sign)}"


def sortable(value: Any) -> float | None:
    """Return the sort key of a number; None if it is missing."""
    return None if value is None or pd.isna(value) else float(value)


def count(value: Any) -> str:
    """Return a count with thousands separators; UNKNOWN if it is missing."""
    return UNKNOWN if pd.isna(value) else f"{round(float(value)):,}"


def volume_cell(value: Any) -> CellView:
    """Return the table cell of a volume."""
    return CellView(f"{int(value):,}", int(value))


def count_cell(value: Any, note: str = "") -> CellView:
    """Return the table cell of a count."""
    return CellView(count(value), sortable(value), note=note)


def amount_cell(value: Any, unit: DisplayUnit, *, sign: bool = False) -> CellView:
    """Return the table cell of a number in its unit's decimals."""
    return CellView(amount(value, unit, sign=sign), sortable(value))


def duration(seconds: Any) -> str:
    """Return a time in seconds, minutes or hours; UNKNOWN if it is missing."""
    if pd.isna(seconds):
        return UNKNOWN
    for size, name in [(3600.0, "h"), (60.0, "min")]:
        if float(seconds) >= 2 * size:
            return f"{float(seconds) / size:.3g} {name}"
    return f"{float(seconds):.2g} s" if float(seconds) < 1 else f"{float(seconds):.3g} s"
