"""Validity of a cell's learning rate: what its same-data control lost.

The control trains on data that the model knows already, at the cell's learning rate, so what it
loses is lost to training as such. It is read at the cell's largest volume, on each probe task and
on the mean of each probe suite of several tasks. The check of a cell is

- ``too high`` if one of these lost more than its margin and that change differs from 0 (p below
  0.05, Holm over all of them);
- ``not settled`` if none did, and an interval reaches beyond the margin or a change is missing;
- ``passed`` if every interval ends before the margin.

Divergence suites measure a distance, which is no loss: they are not read.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.analysis.findings.cells import LABELS, controlled
from harness.analysis.findings.finding_columns import SUITE_TASK
from harness.analysis.findings.verdicts import SIGNIFICANT, numbers, unadjusted
from harness.analysis.statistics.multiple import holm

TOO_HIGH, NOT_SETTLED, PASSED = "too high", "not settled", "passed"
CHECKS = [TOO_HIGH, NOT_SETTLED, PASSED]
"""Checks of a cell, from the worst to the best."""

_ROUNDING = 1e-9
_MEASURED = ["before", "delta", "delta_low", "delta_high", "p_value", "p_mid"]

_COLUMNS = ["control", "volume", "control_check", "suite", "task", "before", "delta", "delta_low", "delta_high", "margin", "beyond"]


def checks(found: pd.DataFrame) -> pd.DataFrame:
    """Return the check of each cell that has a control.

    Args:
        found: findings, with ``is_control`` and the labels of the cells; ``control_check`` is not
            read.

    Returns:
        One row per cell, indexed by it: ``control`` (its cell), ``volume``, ``control_check``, and
        the row of the control that decides it: ``suite``, ``task``, ``before``, ``delta``,
        ``delta_low``, ``delta_high``, ``margin``. That is the largest loss of those too high, else
        the interval that reaches the farthest, in margins (``beyond``; infinite where one is
        missing).
    """
    labels = found.drop_duplicates("cell").set_index("cell")
    is_control = labels["is_control"].fillna(value=False).astype(bool)
    control = controlled(labels.reindex(columns=LABELS), is_control) if is_control.any() else {}
    rows = _read(found)
    asked = rows[rows["cell"].isin(list(control))]
    asked = asked[asked["volume"] == asked.groupby("cell")["volume"].transform("max")]
    asked = asked.assign(control=asked["cell"].map(control).astype(object))
    theirs = rows.rename(columns={"cell": "control"})[["control", "volume", "suite", "task", *_MEASURED]]
    kept = ["cell", "control", "volume", "suite", "task", "margin", "higher_is_better"]
    joined = asked[kept].merge(theirs, on=["control", "volume", "suite", "task"], how="left").reset_index(drop=True)
    judged = joined.assign(**_judged(joined)).sort_values(["_check", "beyond"], ascending=[True, False], kind="stable")
    worst = judged.drop_duplicates("cell").set_index("cell")
    worst = worst.assign(control_check=[CHECKS[place] for place in worst["_check"]])
    ordered = [cell for cell in labels.index if cell in worst.index]
    return worst.loc[ordered, _COLUMNS]


def ranked(rows: pd.DataFrame, *, any_rate: bool) -> pd.Series:
    """Return whether the cell of each row may be ranked and compared with others.

    Not: controls, methods that did not act, and cells whose learning rate is too high.

    Args:
        rows: with ``is_control``, ``acted`` and ``control_check``, as findings.
        any_rate: whether cells whose rate is too high may be, as ``Declared.any_rate`` has it.
    """
    proper = ~rows["is_control"].fillna(value=False).astype(bool) & rows["acted"].fillna(value=True).astype(bool)
    return proper if any_rate else proper & ~is_too_high(rows)


def is_too_high(rows: pd.DataFrame) -> pd.Series:
    """Return whether the learning rate of each row's cell is too high."""
    return (rows["control_check"] == TOO_HIGH).fillna(value=False).astype(bool)


def runs_too_high(found: pd.DataFrame) -> set[str]:
    """Return the runs of the cells whose learning rate is too high."""
    names = found.loc[is_too_high(found), "run_ids"].dropna().unique()
    return {run_id for of in names for run_id in str(of).split(",")}


def _read(found: pd.DataFrame) -> pd.DataFrame:
    """Return the probe rows that can lose; the row of a suite of one task is left out."""
    rows = found[(found["role"] == "probe").fillna(value=False) & found["margin"].notna() & found["delta"].notna()]
    leaves = rows["task"] != SUITE_TASK
    several = leaves.groupby([rows["cell"], rows["volume"], rows["suite"]]).transform("sum") > 1
    return rows[leaves | several]


def _judged(joined: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return ``_check`` (place in CHECKS) and ``beyond`` of each row."""
    up = joined["higher_is_better"].to_numpy(dtype=bool)
    margin, p_value = numbers(joined, "margin"), unadjusted(joined)
    loss = np.where(up, -numbers(joined, "delta"), numbers(joined, "delta"))
    end = np.where(up, -numbers(joined, "delta_low"), numbers(joined, "delta_high"))
    adjusted, _ = holm(p_value, joined["cell"].factorize()[0].astype(np.int64))
    too_high = (loss > margin + _ROUNDING) & (adjusted < SIGNIFICANT)
    within = end <= margin  # false where there is no interval
    beyond = np.where(too_high, loss, np.where(np.isnan(end), np.inf, end)) / margin
    return {"_check": np.where(too_high, 0, np.where(within, 2, 1)), "beyond": beyond}
