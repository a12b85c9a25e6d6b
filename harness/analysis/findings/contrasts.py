"""Difference between independent and shared trajectories of otherwise equal cells.

On a shared trajectory, volumes are checkpoints of one run at a constant rate; with independent
trajectories, each volume is a run with its own schedule and decay. The difference shows whether the
cheaper shared curve can replace the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.analysis.findings import validity
from harness.analysis.findings.estimates import ItemChanges
from harness.analysis.findings.pairing import difference, stacked, together
from harness.analysis.findings.paths import mean
from harness.analysis.statistics.stats import LEVEL
from harness.analysis.table.columns import SUITE_TASK, specified

ALIKE = ["model", "params_total", "tuning", "objective", "mitigation", "data", "anchor", "epochs", "learning_rate", "variant", "dtype"]
"""Labels that are equal on both sides."""

_ROW = ["volume", "role", "suite", "task", "metric", "filter"]

_SPECIFICATION = """
shared_cell       string   id of the cell whose volumes are checkpoints of one run
independent_cell  string   id of the cell whose volumes are separate runs
higher_is_better  boolean  whether higher values of the metric are better
shared_delta      Float64  change on the shared trajectory, in the metric's unit; negative is worse if higher_is_better
independent_delta Float64  change of the independent runs, in the metric's unit; negative is worse if higher_is_better
difference        Float64  independent_delta minus shared_delta, over the seeds compared, in the metric's unit
stderr            Float64  standard error of difference
df                Float64  degrees of freedom of the t interval of difference
low               Float64  lower end of the interval of difference
high              Float64  upper end of the interval of difference
level             Float64  confidence level of the interval, in 0..1
varies            string   samples that the interval is over: items, or seeds and items
seeds             Int64    number of paired seeds; where seeds are not paired, the number of the side with fewer
note              string   reason why there is no difference, or which seeds are left out
"""
_OWN, DESCRIPTIONS = specified(_SPECIFICATION)
"""For the columns that only this table has: column → dtype, and column → description."""

COLUMNS = [*ALIKE, *_ROW, *_OWN]
"""Columns, in order."""

Row = dict[str, Any]


def trajectories(
    findings: pd.DataFrame, table: pd.DataFrame, changes: ItemChanges, level: float = LEVEL, *, any_rate: bool = False
) -> pd.DataFrame:
    """Return the changes of independent runs minus those of the shared run.

    Args:
        findings: as returned by ``harness.analysis.findings.findings.findings``.
        table: the tidy table that the findings were made from.
        changes: item changes of the same experiment.
        level: confidence level of the intervals.
        any_rate: whether cells whose learning rate is too high are compared too.

    Returns:
        One row per volume, suite and task, columns as in COLUMNS; empty where no cell was run both
        ways.
    """
    seeds = table.drop_duplicates("run_id").set_index("run_id")["seed"]
    seed_of = {str(run_id): int(seed) for run_id, seed in seeds.dropna().items()}
    leaves: dict[tuple[str, int, str], list[str]] = {}
    for cell, volume, suite, task in findings[["cell", "volume", "suite", "task"]].itertuples(index=False, name=None):
        if task != SUITE_TASK:
            leaves.setdefault((str(cell), int(volume), str(suite)), []).append(str(task))
    rows: list[Row] = []
    both = _run_both_ways(findings if any_rate else findings[~validity.is_too_high(findings)])
    for _, group in both[both["delta"].notna()].groupby([*ALIKE, *_ROW], dropna=False, sort=False):
        sides = {kind: side for kind, side in group.groupby("trajectory") if len(side) == 1}
        if {"shared", "independent"} <= set(sides):
            shared, independent = sides["shared"].iloc[0], sides["independent"].iloc[0]
            rows.append(_row(shared, independent, changes, seed_of, leaves, level))
    types = {name: _OWN.get(name) or findings[name].dtype for name in COLUMNS}
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}, dtype=object).astype(types)


def _run_both_ways(findings: pd.DataFrame) -> pd.DataFrame:
    """Return the findings of cells with an equal cell on the other trajectory."""
    cells = findings.drop_duplicates("cell")
    count = cells.groupby(ALIKE, dropna=False)["trajectory"].transform("nunique")
    return findings[findings["cell"].isin(cells["cell"][count > 1])]


def _row(
    shared: pd.Series,
    independent: pd.Series,
    changes: ItemChanges,
    seed_of: dict[str, int],
    leaves: dict[tuple[str, int, str], list[str]],
    level: float,
) -> Row:
    row: Row = {name: shared[name] for name in [*ALIKE, *_ROW, "higher_is_better"]}
    row |= {"shared_cell": shared["cell"], "independent_cell": independent["cell"], "level": level}
    row |= {"shared_delta": shared["delta"], "independent_delta": independent["delta"]}
    suite, task, volume = str(shared["suite"]), str(shared["task"]), int(shared["volume"])
    tasks = [(suite, name) for name in (leaves[str(shared["cell"]), volume, suite] if task == SUITE_TASK else [task])]
    runs = [{seed_of[run_id]: run_id for run_id in str(side["run_ids"]).split(",")} for side in (independent, shared)]
    common = together(list(runs[0]), list(runs[1]))
    chosen: list[Sequence[int]] = [sorted(side) if common is None else common for side in runs]
    sides = [stacked(changes, [side[seed] for seed in of], volume, tasks) for side, of in zip(runs, chosen, strict=True)]
    first, second = sides
    if isinstance(first, str) or isinstance(second, str):
        return row | {"note": first if isinstance(first, str) else second}
    if first.items != second.items:
        return row | {"note": "the two trajectories were measured on different items"}
    found = difference(first.values, second.values, first.clusters, level, paired=common is not None)
    row |= {"independent_delta": mean(first.values), "shared_delta": mean(second.values)}  # over the seeds that are compared
    alone = [sorted(set(side) - set(of)) for side, of in zip(runs, chosen, strict=True)]
    notes = [f"{name}: seed {', '.join(map(str, of))} left out" for name, of in zip(("independent", "shared"), alone, strict=True) if of]
    row |= {"note": "; ".join(notes) or None}
    ends = {"stderr": found.stderr, "df": found.df, "low": found.low, "high": found.high}
    known = {name: None if value != value else value for name, value in ends.items()}
    return row | known | {"difference": found.value, "varies": found.varies, "seeds": min(len(of) for of in chosen)}
