"""Collapsed seeds, and how rare a collapse must be for a few seeds to miss it."""

from __future__ import annotations

import math

import numpy as np
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
    if named(evidence) or not any((_rows(evidence, panel)["_there"] > 0).any() for panel in _panels(evidence)):
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
    rows = _rows(evidence, panel)
    ordered = rows.assign(_turned=rows["delta"].astype(float) * panel.sign).sort_values("_turned", kind="stable")
    places = ordered.groupby("_cell", sort=False).cumcount()
    worst, other = (ordered[places == place].set_index("_cell") for place in (0, 1))
    compared = worst.loc[[cell for cell in rows["_cell"].unique() if cell in other.index]]
    apart = other["_turned"].loc[compared.index] - compared["_turned"]
    found = []
    far = compared[(compared["_there"] > 0) & (apart >= FAR * compared["_there"])]
    for (cell, row), next_worst in zip(far.iterrows(), other["delta"].loc[far.index], strict=True):
        lost, next_lost = (words.amount(delta, panel.unit, sign=True) for delta in (row["delta"], next_worst))
        name, seed = evidence.by_cell[str(cell)].short, int(row["seed"])
        found.append(f"{name}, seed {seed} ({panel.suite} {lost} {panel.unit.name}, the next seed {next_lost})")
    return found


def _rows(evidence: Evidence, panel: Panel) -> pd.DataFrame:
    """Return the changes of all runs at their cell's largest volume, controls left out.

    Column ``_there`` is what there was to lose; 0 if unknown, as for nats without a level of
    guessing.
    """
    table = panel.rows(evidence.table)
    cell_of = {run: one.cell for one in evidence.proper for run in one.runs}
    rows = table[table["run_id"].isin(list(cell_of)) & table["delta"].notna() & (table["volume"] > 0).fillna(value=False)]
    guess = rows["chance"].astype("Float64").fillna(panel.unit.least).to_numpy(dtype=np.float64)
    there = (rows["before"].to_numpy(dtype=np.float64, na_value=np.nan) - guess) * panel.sign
    rows = rows.assign(_cell=rows["run_id"].map(cell_of), _there=np.where((there > 0) & (there < math.inf), there, 0.0))
    return at_largest_volume(rows, "_cell")
