"""Runs whose learning rate was not searched."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from harness.analysis.findings.cells import is_control

_OF_RATE = ["model", "tuning", "objective", "data"]


def untuned(table: pd.DataFrame, control: Mapping[str, str]) -> tuple[int, int, int]:
    """Count runs by the search of their learning rate.

    Runs of a method that the experiment trains at several rates are not untuned: the rate is what
    varies. Controls are not counted: they use the rate of the method that they control.

    Returns:
        Runs at a rate that was not searched, runs at the rate that was searched for the same
        training without their mitigation, and all runs.
    """
    runs = table[table["lr_tuned"].notna() & ~is_control(table, control)].drop_duplicates("run_id")
    keys = pd.MultiIndex.from_frame(runs[[*_OF_RATE, "learning_rate"]])
    tuned = runs["lr_tuned"].astype(bool).to_numpy()
    borrowed = ~tuned & keys.isin(keys[tuned])
    same = [*_OF_RATE, "mitigation", "anchor", "trajectory", "epochs"]
    varied = (runs.groupby(same, dropna=False)["learning_rate"].transform("nunique") > 1).to_numpy(dtype=bool)
    return int((~tuned & ~borrowed & ~varied).sum()), int(borrowed.sum()), len(runs)
