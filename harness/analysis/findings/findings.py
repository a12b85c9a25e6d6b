"""Findings: the change of each cell, volume and task over seeds, with interval and verdict.

The tidy table has rows for each run; here the runs that differ only in seed are combined. One seed
has its own interval and p-value, over items. Two seeds: the items' means over both, still over
items alone. Three or more: over seeds and items (``two_level``). Where the item changes are
missing, or the seeds were measured on different items, the interval is left empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.findings import control_contrasts, validity
from harness.analysis.findings.cells import Cells, cells, controls
from harness.analysis.findings.estimates import ROW, ItemChanges, estimates
from harness.analysis.findings.finding_columns import COLUMNS, COSTS, SUITE_TASK, TRUE_SHARES
from harness.analysis.findings.verdicts import judge as judge
from harness.analysis.findings.verdicts import numbers as _numbers
from harness.analysis.statistics import two_level
from harness.analysis.statistics.pooled import Spread
from harness.analysis.statistics.stats import LEVEL
from harness.analysis.table.columns import ACTED
from harness.records.schema import Declared

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
    frame = control_contrasts.with_contrasts(frame, changes.get, declared, _spreads(frame))
    frame["control_check"] = frame["cell"].map(validity.checks(frame)["control_check"]).astype("string")
    frame = frame.assign(**{name: frame["cell"].map(of) for name, of in _written(table, every).items()})
    runs = table.drop_duplicates("run_id")
    frame["arm"] = frame["cell"].map(runs["arm"].groupby(runs["run_id"].map(every.of_run)).first())
    return pd.DataFrame({name: frame[name].astype(object) for name in COLUMNS}).astype(COLUMNS)


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
    columns |= {name: np.full(len(frame), np.nan) for name in ("stderr", "df", "seed_spread_pooled", "seed_spread_used")}
    varies, used = np.full(len(frame), None, dtype=object), np.full(len(frame), None, dtype=object)
    spreads: list[Spread | None] = [None] * len(frame)
    varies[alone & ~np.isnan(columns["delta_low"])] = two_level.ITEMS
    seed_of = dict(zip(has["run_id"].tolist(), has["seed"].tolist(), strict=True))
    for at, (found, spread) in estimates(frame, changes, seed_of).items():
        columns["stderr"][at], columns["df"][at] = found.stderr, found.df
        if not alone[at] and found.low == found.low:
            columns["delta_low"][at], columns["delta_high"][at], varies[at] = found.low, found.high, found.varies
            columns["p_value"][at] = found.p_value
        if spread is not None:
            spreads[at] = spread
            columns["seed_spread_pooled"][at], columns["seed_spread_used"][at] = np.sqrt(spread.pool), np.sqrt(spread.variance)
            used[at] = POOLED if spread.pooled else OWN
    return columns | {"varies": varies, "spread_used": used, "_spread": pd.Series(spreads, frame.index, dtype=object)}


def _spreads(frame: pd.DataFrame) -> dict[control_contrasts.Place, Spread | None]:
    """Return the variance between seeds of each finding, by cell, volume, suite and task."""
    return dict(zip(frame[ROW].itertuples(index=False, name=None), frame["_spread"], strict=True))


def _with_controls(frame: pd.DataFrame, every: Cells, declared: Declared) -> pd.DataFrame:
    """Add the change of each cell's control, its cell and its runs."""
    is_control, of_cell = controls(every.labels, declared.control)
    names = {"delta": "control_delta", "run_ids": "_control_runs"}
    theirs = frame[[*ROW, *names]].rename(columns=names | {"cell": "_control"})
    frame = frame.assign(is_control=frame["cell"].map(is_control), _control=frame["cell"].map(of_cell).astype(object))
    return frame.merge(theirs.astype({"_control": object}), on=["_control", *ROW[1:]], how="left")
