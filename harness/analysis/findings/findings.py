"""Findings: the change of each cell, volume and task over seeds, with interval and verdict.

The tidy table has rows for each run; here the runs that differ only in seed are combined. One seed
has its own interval and p-value, over items. Two seeds: the items' means over both, still over
items alone. Three or more: over seeds and items (``two_level``). Where the item changes are
missing, or the seeds were measured on different items, the interval is left empty.

The verdict depends on the margin first: a change known to be within ±margin is negligible, however
small its p-value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.findings.cells import Cells, cells, controls
from harness.analysis.findings.estimates import ROW, ItemChanges, estimates
from harness.analysis.findings.finding_columns import COLUMNS, COSTS, SUITE_TASK, TRUE_SHARES
from harness.analysis.statistics import two_level
from harness.analysis.statistics.detectable import detectable
from harness.analysis.statistics.multiple import holm
from harness.analysis.statistics.stats import LEVEL, Floats
from harness.analysis.table.columns import ACTED
from harness.records.schema import OWN_METRICS, Declared

SIGNIFICANT = 0.05
KEPT, LOST, GAINED, UNKNOWN = "kept", "lost", "gained", "not enough evidence"

POOLED, OWN = "pooled", "own"
"""Spread between seeds that an interval takes."""

_SHARED = ["role", "metric", "filter", "higher_is_better"]
_MEANS = ["chance", "before", "value", "delta", "lost", "gained", "agreement", "numeric_spread", "delta_relative", "fg_over_volumes"]
_MEANS += ["samplewise_forgetting", "backward_transfer", *TRUE_SHARES, "forgetting_ceiling", "progress_lost", *COSTS]
_ONE_SEED = ["delta_low", "delta_high", "p_value", "p_mid", *(f"{name}_{end}" for name in TRUE_SHARES for end in ("low", "high"))]


def findings(table: pd.DataFrame, changes: ItemChanges, declared: Declared) -> pd.DataFrame:
    """Return the findings of an experiment, for primary metrics and volumes above 0.

    Args:
        table: the tidy table.
        changes: item changes of its runs.
        declared: the experiment's declarations.

    Returns:
        Columns as in ``finding_columns.COLUMNS``; cells in the table's order, then by volume, each
        suite's own row before its tasks.
    """
    every = cells(table)
    rows = _measured(table, every)
    frame = _means(rows).merge(every.labels, left_on="cell", right_index=True, how="left")
    frame = frame.assign(**_intervals(frame, rows, changes))
    frame["level"] = np.where(frame["delta_low"].notna(), LEVEL, np.nan)
    frame["missing"] = [len(every.seeds[cell]) for cell in frame["cell"]] - frame["seeds"]
    frame["is_headline"] = (frame["suite"] == declared.headline) & (frame["role"] == "probe") & (frame["task"] == SUITE_TASK)
    frame = _with_controls(judge(frame, declared), every, declared)
    frame = frame.assign(**{name: frame["cell"].map(of) for name, of in _written(table, every).items()})
    runs = table.drop_duplicates("run_id")
    frame["arm"] = frame["cell"].map(runs["arm"].groupby(runs["run_id"].map(every.of_run)).first())
    return pd.DataFrame({name: frame[name].astype(object) for name in COLUMNS}).astype(COLUMNS)


def judge(frame: pd.DataFrame, declared: Declared) -> pd.DataFrame:
    """Add verdicts to any table of changes.

    The columns added are ``tests``, ``p_holm``, ``margin``, ``verdict`` and ``detectable``. Holm's
    family is the leaf probe tasks of one ``cell`` and ``volume`` (without these columns, all rows
    are one family). Divergence suites measure the distance of a model from its base, which can only
    grow: they have no verdict and are in no family.

    Args:
        frame: table with ``delta stderr df delta_low delta_high p_value role suite task metric
            higher_is_better``.
        declared: declarations with the margins.

    Returns:
        The frame with a new index and the columns in the dtypes of ``finding_columns``; missing
        values are ``pd.NA``.
    """
    frame = frame.reset_index(drop=True)
    low, high, p_value = (_numbers(frame, name) for name in ("delta_low", "delta_high", "p_value"))
    judged = ~frame["metric"].isin(list(OWN_METRICS["divergence"])).to_numpy(dtype=bool)
    family = judged & (frame["role"] == "probe").to_numpy(dtype=bool) & (frame["task"] != SUITE_TASK).to_numpy(dtype=bool)
    families = (
        frame.groupby(["cell", "volume"], dropna=False).ngroup().to_numpy(dtype=np.int64) if {"cell", "volume"} <= set(frame) else None
    )
    adjusted, tests = holm(np.where(family, p_value, np.nan), families)
    margin = np.array([declared.margins.get(suite, declared.margin) for suite in frame["suite"]], dtype=np.float64)
    decisive = np.where(family, adjusted, p_value)
    better = (_numbers(frame, "delta") > 0) == frame["higher_is_better"].to_numpy(dtype=bool, na_value=True)
    verdict = np.where(decisive < SIGNIFICANT, np.where(better, GAINED, LOST), UNKNOWN).astype(object)
    verdict[(low >= -margin) & (high <= margin)] = KEPT
    verdict[~judged | np.isnan(low) | np.isnan(high)] = None
    freedom = _numbers(frame, "df")
    found = detectable((high - low) / 2, np.where(np.isnan(freedom), np.inf, freedom), np.maximum(tests, 1))
    return frame.assign(
        p_holm=pd.array(adjusted, dtype="Float64"),
        tests=pd.Series(tests, dtype="Int64").where(tests > 0),
        margin=pd.array(np.where(judged, margin, np.nan), dtype="Float64"),
        verdict=pd.array(verdict, dtype="string"),
        detectable=pd.array(np.where(judged, found, np.nan), dtype="Float64"),
    )


def _measured(table: pd.DataFrame, every: Cells) -> pd.DataFrame:
    """Return the rows of primary metrics at volumes above 0, each with its cell.

    If a seed was measured twice, the first row with a change is kept.
    """
    rows = table[table["primary"].fillna(value=False) & (table["volume"] > 0).fillna(value=False) & table["suite"].notna()]
    rows = rows.assign(cell=rows["run_id"].map(every.of_run).astype(object), _has=rows["delta"].notna())  # pandas 2 maps no rows to floats
    rows = rows.sort_values("_has", ascending=False, kind="stable").drop_duplicates([*ROW, "seed"])
    place = {cell: i for i, cell in enumerate(every.labels.index)}
    suites = {suite: i for i, suite in enumerate(dict.fromkeys(table["suite"].dropna()))}
    order = {"_cell": rows["cell"].map(place), "_suite": rows["suite"].map(suites), "_leaf": rows["task"] != SUITE_TASK}
    rows = rows.assign(**order).sort_values(["_cell", "volume", "_suite", "_leaf", "task", "seed"], kind="stable", ignore_index=True)
    return rows.assign(_row=rows.groupby(ROW, sort=False).ngroup())


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per group of seeds: shared columns, counts, and means over seeds.

    Means and counts are over seeds that have a change.
    """
    frame = rows.drop_duplicates("_row").set_index("_row")[[*ROW, *_SHARED]]
    found = rows[rows["_has"]]
    groups = pd.DataFrame({name: _numbers(found, name) for name in _MEANS}).groupby(found["_row"].to_numpy())
    means = groups.mean().rename(columns={"value": "after"})
    by_row = found.groupby("_row", sort=False)
    seeds = by_row.size().reindex(frame.index, fill_value=0)
    frame = frame.join(means).assign(
        seeds=seeds, seed_spread=groups["delta"].std(), n=by_row["n"].first(), run_ids=pd.Series(_joined(found), dtype=object)
    )
    near = found["near_chance"].dropna().astype(float).groupby(found["_row"]).max()
    return frame.assign(near_chance=near.reindex(frame.index).map({1.0: True, 0.0: False}).astype("boolean"))


def _written(table: pd.DataFrame, every: Cells) -> dict[str, pd.Series]:
    """Return the columns of generated rows by cell, mean over its runs, and ``acted``."""
    names = ["acceptance", "edit_rate", "target_nats", "acted"]
    runs = table.drop_duplicates("run_id")[["run_id", *names]]
    means = {name: runs[name].astype("Float64").groupby(runs["run_id"].map(every.of_run)).mean() for name in names}
    enough = means["acceptance"] >= ACTED - 1e-9  # rounding: the mean of 0.1, 0.2 and 0.3 is below 0.2
    return means | {"acted": enough | (means["acted"] == 1)}  # each run acted: an objective that generates rows, at any acceptance


def _joined(found: pd.DataFrame) -> dict[int, str]:
    runs: dict[int, list[str]] = {}
    for row, run_id in zip(found["_row"].tolist(), found["run_id"].tolist(), strict=True):
        runs.setdefault(row, []).append(run_id)
    return {row: ",".join(of) for row, of in runs.items()}


def _intervals(frame: pd.DataFrame, rows: pd.DataFrame, changes: ItemChanges) -> dict[str, Any]:
    """Return the columns of intervals: the table's for one seed, of ``estimates`` for more."""
    has = rows[rows["_has"]]
    one = has.drop_duplicates("_row").set_index("_row").reindex(frame.index)
    alone = (frame["seeds"] == 1).to_numpy(dtype=bool)
    columns: dict[str, Any] = {name: np.where(alone, _numbers(one, name), np.nan) for name in _ONE_SEED}
    columns |= {name: np.full(len(frame), np.nan) for name in ("stderr", "df", "seed_spread_pooled")}
    varies, used = np.full(len(frame), None, dtype=object), np.full(len(frame), None, dtype=object)
    varies[alone & ~np.isnan(columns["delta_low"])] = two_level.ITEMS
    seed_of = dict(zip(has["run_id"].tolist(), has["seed"].tolist(), strict=True))
    for at, (found, spread) in estimates(frame, changes, seed_of).items():
        columns["stderr"][at], columns["df"][at] = found.stderr, found.df
        if not alone[at] and found.low == found.low:
            columns["delta_low"][at], columns["delta_high"][at], varies[at] = found.low, found.high, found.varies
            columns["p_value"][at] = found.p_value
        if spread is not None:
            columns["seed_spread_pooled"][at], used[at] = np.sqrt(spread.pool), POOLED if spread.pooled else OWN
    return columns | {"varies": varies, "spread_used": used}


def _with_controls(frame: pd.DataFrame, every: Cells, declared: Declared) -> pd.DataFrame:
    """Add the change of each cell's control."""
    is_control, of_cell = controls(every.labels, declared.control)
    names = {"delta": "control_delta", "delta_low": "control_low", "delta_high": "control_high"}
    theirs = frame[[*ROW, *names]].rename(columns=names | {"cell": "_control"})
    frame = frame.assign(is_control=frame["cell"].map(is_control), _control=frame["cell"].map(of_cell).astype(object))
    return frame.merge(theirs.astype({"_control": object}), on=["_control", *ROW[1:]], how="left")


def _numbers(frame: pd.DataFrame, name: str) -> Floats:
    """Return a column as float64, NaN where it is empty."""
    values: npt.NDArray[np.float64] = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return values
