"""Verdicts on changes: the margin first, then a test adjusted for the number of tasks.

The verdict depends on the margin first: a change known to be within ±margin is negligible, however
small its p-value. One seed of 0/1 items without clusters is decided by McNemar's mid-p, which keeps
to the level of 5% without the caution of the exact test (Fagerland, Lydersen & Laake 2013, BMC
Medical Research Methodology 13:91); everything else by its ``p_value``. A change is lost or gained
only if its interval excludes 0 too: the permutation test of few clusters is less cautious than it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.findings.finding_columns import SUITE_TASK
from harness.analysis.statistics.detectable import detectable
from harness.analysis.statistics.multiple import holm
from harness.analysis.statistics.stats import Floats
from harness.records.schema import OWN_METRICS, Declared

SIGNIFICANT = 0.05
KEPT, LOST, GAINED, UNKNOWN = "kept", "lost", "gained", "not enough evidence"
WORSE, BETTER, ALIKE = "worse", "better", "alike"
"""Verdicts on a contrast, such as with a control, in place of the first three."""

CALLED = (LOST, GAINED, WORSE, BETTER)
"""Verdicts that rest on a test of no change."""


def judge(frame: pd.DataFrame, declared: Declared) -> pd.DataFrame:
    """Add verdicts to any table of changes.

    The columns added are ``tests``, ``p_holm``, ``margin``, ``verdict`` and ``detectable``. Holm's
    family is the leaf probe tasks of one ``cell`` and ``volume`` (without these columns, all rows
    are one family). Divergence suites measure the distance of a model from its base, which can only
    grow: they have no verdict and are in no family.

    Args:
        frame: table with ``delta stderr df delta_low delta_high p_value role suite task metric
            higher_is_better``, and ``p_mid`` where there is one.
        declared: declarations with the margins.

    Returns:
        The frame with a new index and the columns in the dtypes of ``finding_columns``; missing
        values are ``pd.NA``.
    """
    frame = frame.reset_index(drop=True)
    low, high, p_value = numbers(frame, "delta_low"), numbers(frame, "delta_high"), unadjusted(frame)
    judged = ~frame["metric"].isin(list(OWN_METRICS["divergence"])).to_numpy(dtype=bool)
    family = judged & (frame["role"] == "probe").to_numpy(dtype=bool) & (frame["task"] != SUITE_TASK).to_numpy(dtype=bool)
    families = (
        frame.groupby(["cell", "volume"], dropna=False).ngroup().to_numpy(dtype=np.int64) if {"cell", "volume"} <= set(frame) else None
    )
    adjusted, tests = holm(np.where(family, p_value, np.nan), families)
    margin = np.array([declared.margins.get(suite, declared.margin) for suite in frame["suite"]], dtype=np.float64)
    decisive = np.where(family, adjusted, p_value)
    better = (numbers(frame, "delta") > 0) == frame["higher_is_better"].to_numpy(dtype=bool, na_value=True)
    called = (decisive < SIGNIFICANT) & ~((low <= 0) & (high >= 0))
    verdict = np.where(called, np.where(better, GAINED, LOST), UNKNOWN).astype(object)
    verdict[(low >= -margin) & (high <= margin)] = KEPT
    verdict[~judged | np.isnan(low) | np.isnan(high)] = None
    freedom = numbers(frame, "df")
    found = detectable((high - low) / 2, np.where(np.isnan(freedom), np.inf, freedom), np.maximum(tests, 1))
    return frame.assign(
        p_holm=pd.array(adjusted, dtype="Float64"),
        tests=pd.Series(tests, dtype="Int64").where(tests > 0),
        margin=pd.array(np.where(judged, margin, np.nan), dtype="Float64"),
        verdict=pd.array(verdict, dtype="string"),
        detectable=pd.array(np.where(judged, found, np.nan), dtype="Float64"),
    )


def unadjusted(frame: pd.DataFrame) -> Floats:
    """Return the p-value that a verdict without a family rests on: ``p_mid``, else ``p_value``."""
    exact = numbers(frame, "p_value")
    middle = numbers(frame, "p_mid") if "p_mid" in frame else np.full(len(frame), np.nan)
    return np.where(np.isnan(middle), exact, middle)


def p_of(row: Mapping[str, Any] | pd.Series) -> Any:
    """Return the p-value of a row's verdict: ``p_holm``, else ``p_mid``, else ``p_value``."""
    return next((row[name] for name in ("p_holm", "p_mid") if not pd.isna(row[name])), row["p_value"])


def counted(found: Sequence[Any] | pd.Series, p_values: Floats) -> list[str]:
    """Return the verdicts of several cells on one suite, as they may be counted.

    Where the test of every cell finds a change, the counts are of these verdicts: that all cells
    changed is claimed falsely with a probability of at most 5%, however many they are. Any other
    count names some cells and not others, so the tests are adjusted (Holm) over all that are
    counted.

    Args:
        found: verdict of each cell; missing ones count as not enough evidence.
        p_values: unadjusted p-value of each cell, NaN where there is none, shape (n,).

    Returns:
        The verdicts, in which those that adjusted tests do not bear are ``not enough evidence``.
    """
    own = verdicts_of(found)
    if all(verdict in CALLED for verdict in own):
        return own
    adjusted, _ = holm(p_values)
    return [UNKNOWN if verdict in CALLED and not p < SIGNIFICANT else verdict for verdict, p in zip(own, adjusted, strict=True)]


def verdicts_of(found: Sequence[Any] | pd.Series) -> list[str]:
    """Return verdicts as text; missing ones are ``not enough evidence``."""
    return [UNKNOWN if pd.isna(verdict) else str(verdict) for verdict in found]


def numbers(frame: pd.DataFrame, name: str) -> Floats:
    """Return a column as float64, NaN where it is empty."""
    values: npt.NDArray[np.float64] = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return values
