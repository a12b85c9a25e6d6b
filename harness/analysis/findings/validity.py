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
"""Checks of a cell, from the worst to the best."""

_CHECKS = np.array([TOO_HIGH, NOT_SETTLED, PASSED], dtype=object)
_ROUNDING = 1e-9
_MEASURED = ["delta", "delta_low", "delta_high", "p_value", "p_mid"]


def checks(found: pd.DataFrame) -> pd.DataFrame:
    """Return the check of each cell that has a control.

    Args:
        found: findings, with ``is_control`` and the labels of the cells; ``control_check`` is not
            read.

    Returns:
        One row per cell, indexed by it: ``control`` (its cell), ``volume``, ``control_check``, and
        the row of the control that decides it: ``suite``, ``task``, ``delta``, ``delta_low``,
        ``delta_high``, ``margin``. That is the largest loss of those too high, else the interval
        that reaches the farthest, each relative to its margin.
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
    judged = joined.assign(**_judged(joined)).sort_values(["_check", "_beyond"], ascending=[True, False], kind="stable")
    worst = judged.drop_duplicates("cell").set_index("cell")
    worst = worst.assign(control_check=_CHECKS[worst["_check"].to_numpy(dtype=int)])
    ordered = [cell for cell in labels.index if cell in worst.index]
    return worst.loc[ordered, ["control", "volume", "control_check", "suite", "task", "delta", "delta_low", "delta_high", "margin"]]


def _read(found: pd.DataFrame) -> pd.DataFrame:
    """Return the probe rows that can lose; the row of a suite of one task is left out."""
    rows = found[(found["role"] == "probe").fillna(value=False) & found["margin"].notna() & found["delta"].notna()]
    leaves = rows["task"] != SUITE_TASK
    several = leaves.groupby([rows["cell"], rows["volume"], rows["suite"]]).transform("sum") > 1
    return rows[leaves | several]


def _judged(joined: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return ``_check`` (place in ``_CHECKS``) and ``_beyond`` (in margins) of each row."""
    up = joined["higher_is_better"].to_numpy(dtype=bool)
    margin, p_value = numbers(joined, "margin"), unadjusted(joined)
    loss = np.where(up, -numbers(joined, "delta"), numbers(joined, "delta"))
    end = np.where(up, -numbers(joined, "delta_low"), numbers(joined, "delta_high"))
    adjusted, _ = holm(p_value, joined["cell"].factorize()[0].astype(np.int64))
    too_high = (loss > margin + _ROUNDING) & (adjusted < SIGNIFICANT)
    within = end <= margin  # false where there is no interval
    beyond = np.where(too_high, loss, np.where(np.isnan(end), np.inf, end)) / margin
    return {"_check": np.where(too_high, 0, np.where(within, 2, 1)), "_beyond": beyond}
