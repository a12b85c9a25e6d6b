"""Collapsed seeds, and how rare a collapse must be for a few seeds to miss it."""

from __future__ import annotations

import math

import pandas as pd

from harness.analysis.table.columns import SUITE_TASK
from harness.report import words
from harness.report.evidence import Evidence, at_largest_volume
from harness.report.tables import Panel

FAR = 0.25
"""Share of what there was to lose by which a collapsed seed lost more than every other seed."""

MAX_NAMED = 4


def named(evidence: Evidence) -> list[str]:
    """Return a sentence that names the collapsed seeds; nothing without one.

    A seed collapsed on a probe suite if it lost more than every other seed of its method, by at
    least FAR of the distance from before training to guessing.
    """
    found = [text for panel in _panels(evidence) for text in _collapsed(evidence, panel)]
    if not found:
        return []
    return [f"Collapsed, far worse than the other seeds of its method: {words.listed(found, MAX_NAMED)}."]


def unseen(evidence: Evidence) -> list[str]:
    """Return a sentence on collapses that this number of seeds does not show.

    With k seeds, a collapse in a share q of runs is not seen in (1 − q)^k of methods. Where none of
    k runs collapsed, the exact 95% upper limit of q is 1 − 0.05^(1/k) (Clopper & Pearson 1934).
    """
    counts = evidence.findings[~evidence.findings["is_control"].fillna(value=False)].groupby("cell")["seeds"].max().dropna()
    if not _panels(evidence) or counts.empty or not int(counts.max()):
        return []
    least = int(counts[counts > 0].min())
    miss = "misses" if least == 1 else "miss"
    found = f"Rare collapses: {words.seeds(least)} {miss} a collapse that hits one run in ten {100 * 0.9**least:.0f}% of the time."
    if named(evidence) or not any(_there(row, panel) for panel in _panels(evidence) for _, row in _rows(evidence, panel).iterrows()):
        return [found]
    if least == 1:
        return [f"{found} One seed cannot show that it is an exception."]
    styles = {one.cell: one.style_name for one in evidence.every}
    runs = counts.groupby(counts.index.map(styles)).sum().sort_values(kind="stable")
    together, style = int(runs.iloc[-1]), runs.index[-1]
    more = f"; the {together} runs of {style} together, those of more than {_limit(together)}" if together > least else ""
    return [
        f"{found} No run here lost far more than the other seeds of its method (by a quarter of what there was to lose)."
        f" The {words.seeds(least)} of a method exclude only collapses of more than {_limit(least)} of its runs (95% limit){more}."
    ]


def _limit(runs: int) -> str:
    return f"{100 * (1 - 0.05 ** (1 / runs)):.0f}%"


def _panels(evidence: Evidence) -> list[Panel]:
    """Return the probe suites as wholes: the headline alone where there is one."""
    suites = [evidence.headline] if evidence.headline else list(dict.fromkeys(panel.suite for panel in evidence.probes))
    return [evidence.panel_of[suite, SUITE_TASK] for suite in suites if (suite, SUITE_TASK) in evidence.panel_of]


def _collapsed(evidence: Evidence, panel: Panel) -> list[str]:
    found = []
    for cell, group in _rows(evidence, panel).groupby("_cell", sort=False):
        ordered = group.assign(_turned=group["delta"].astype(float) * panel.sign).sort_values("_turned", kind="stable")
        if len(ordered) > 1 and _is_far(ordered.iloc[0], ordered.iloc[1], panel):
            worst, other = (words.amount(row["delta"], panel.unit, sign=True) for row in (ordered.iloc[0], ordered.iloc[1]))
            name, seed = evidence.by_cell[str(cell)].short, int(ordered.iloc[0]["seed"])
            found.append(f"{name}, seed {seed} ({panel.suite} {worst} {panel.unit.name}, the next seed {other})")
    return found


def _rows(evidence: Evidence, panel: Panel) -> pd.DataFrame:
    """Return the changes of all runs at their cell's largest volume, controls left out."""
    table = panel.rows(evidence.table)
    cell_of = {run: one.cell for one in evidence.proper for run in one.runs}
    rows = table[table["run_id"].isin(list(cell_of)) & table["delta"].notna() & (table["volume"] > 0).fillna(value=False)]
    return at_largest_volume(rows.assign(_cell=rows["run_id"].map(cell_of)), "_cell")


def _there(row: pd.Series, panel: Panel) -> float:
    """Return what there was to lose; 0 if unknown, as for nats without a level of guessing."""
    guess = panel.unit.least if pd.isna(row["chance"]) else float(row["chance"])
    there = (float(row["before"]) - guess) * panel.sign
    return there if 0 < there < math.inf else 0.0


def _is_far(worst: pd.Series, other: pd.Series, panel: Panel) -> bool:
    there = _there(worst, panel)
    return there > 0 and float(other["_turned"] - worst["_turned"]) >= FAR * there
