"""Small tables of a claim, written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.claims.tables import FINDINGS, PAIRS, Tables
from harness.analysis.findings import equal_gain, finding_columns

PLAIN = {
    "model": "m",
    "tuning": "full",
    "suite": "probe",
    "task": "*",
    "role": "probe",
    "metric": "acc",
    "higher_is_better": True,
    "chance": 0.0,
    "volume": 8,
    "is_control": False,
    "before": 1.0,
    "learning_rate": 0.001,
}


def finding(arm: str, delta: float, stderr: float = 0.01, df: float = 4.0, **more: Any) -> dict[str, Any]:
    """Return a row of the findings; its cell is named like its arm."""
    ends = {"delta_low": delta - 2 * stderr, "delta_high": delta + 2 * stderr}
    return PLAIN | {"cell": arm, "arm": arm, "delta": delta, "stderr": stderr, "df": df, **ends} | more


def tables(findings: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]] = (), **about: Any) -> Tables:
    """Return small tables; columns that no row has are empty."""
    frames = [
        pd.DataFrame({name: [row.get(name) for row in rows] for name in columns}, dtype=object).astype(
            {name: dtypes[name] for name in columns}
        )
        for rows, columns, dtypes in ((findings, FINDINGS, finding_columns.COLUMNS), (pairs, PAIRS, equal_gain.COLUMNS))
    ]
    return Tables(findings=frames[0], equal_gain=frames[1], about=about)
