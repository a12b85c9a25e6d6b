"""Sequences of stages: scores on each stage after every stage, and their metrics.

R[t, j] is the score on the suite of stage j after stage t, for t = 0…T (0: before any stage) and
j = 1…T. Higher is better: the sign of a loss is reversed. The names of the metrics include their
convention, since papers and code of the same name differ:

- ``acc``: mean of R[T, j] over j.
- ``learned``: mean of R[j, j] over j.
- ``bwt_tminus1``: mean of R[T, j] − R[j, j] over the T − 1 earlier stages (the authors' own code
  divides by T).
- ``fwt_tminus1``: mean of R[j−1, j] − R[0, j] over j ≥ 2; the reference is the model before any
  stage, not a random one.
- ``forget_max_excl_last``: mean over j < T of the largest R[t, j], t = 1…T−1, minus R[T, j]; may be
  below 0.
- ``forget_first_minus_last``: mean over j < T of R[j, j] − R[T, j], the first time the stage was
  learned minus the last.
- ``fg_over_stages``: mean over j < T of the mean over t > j of 100 (R[j, j] − R[t, j]) / |R[j, j]|,
  percent. In the paper the reference is the score at the start, R[0, j]; for probe suites that is
  the column ``fg_over_volumes`` of the table.

Sources: Lopez-Paz & Ranzato 2017, arXiv 1706.08840 (ACC, BWT, FWT); Chaudhry et al. 2018, arXiv
1801.10112 (forgetting, maximum over all stages but the last); Luo et al. 2023, arXiv 2308.08747,
equation 1 (FG).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.findings.cells import cells
from harness.analysis.findings.estimates import ItemChanges
from harness.analysis.findings.pairing import stacked
from harness.analysis.findings.verdicts import GAINED, KEPT, LOST, UNKNOWN
from harness.analysis.statistics import two_level
from harness.analysis.statistics.stats import LEVEL, Floats
from harness.analysis.table.columns import SUITE_TASK, specified
from harness.records.schema import OWN_METRICS, Declared

ENTRY = "R"
"""Name of the measure of an entry of the matrix."""

_SPECIFICATION = """
cell              string   id of the cell (runs that differ only in their seed), as in the findings
model             string   start model
params_total      Int64    number of parameters of the model
tuning            string   tuning: which weights are trained, such as full or lora
objective         string   training objective, such as sft or dpo
mitigation        string   mitigation of forgetting, or none
data              string   data of the stages
measure           string   R: an entry of the matrix; otherwise the name of a metric, which includes its convention
after_stage       Int64    of an entry: number of stages learned; 0 is before any stage
stage             string   of an entry: the last of these stages
suite             string   of an entry: suite that was measured
own_stage         Int64    of an entry: number of the stage that the suite belongs to; empty for a suite of no stage
value             Float64  mean over seeds: an entry in the metric's unit, a metric of R with higher being better
low               Float64  lower end of the t interval of value over seeds; empty with fewer than 3 seeds
high              Float64  upper end of the t interval of value over seeds; empty with fewer than 3 seeds
level             Float64  confidence level of the interval, in 0..1
seeds             Int64    number of seeds that have every entry; the others are left out
change            Float64  of an entry after its own stage: value minus that after its own stage; for other suites, minus that before any
change_low        Float64  lower end of the interval of change, paired over items, and over seeds if there are at least 3
change_high       Float64  upper end of the interval of change
verdict           string   of the change: kept inside ±margin; else lost or gained if its interval excludes 0; not adjusted
note              string   seeds that were left out, or reason why there is no value
"""
COLUMNS, DESCRIPTIONS = specified(_SPECIFICATION)
"""Column → dtype, in order, and column → description with unit and sign."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Stages:
    """Stages of a run: names, equal to their suites', and target rows at their ends."""

    names: tuple[str, ...]
    ends: tuple[int, ...]


def stages_of(config: Mapping[str, Any]) -> Stages | None:
    """Return the stages of a run; None where its data are not a sequence.

    ``config`` is its resolved configuration as plain values.
    """
    data = config.get("data")
    names = data.get("stages") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not names:
        return None
    rows = list(data["stage_rows"])
    return Stages(tuple(names), tuple(itertools.accumulate(rows if len(rows) > 1 else rows * len(names))))


def acc(r: Floats) -> float:
    """Return the mean score over all stages after the last.

    ``r`` has shape (T + 1, T), as in all functions here.
    """
    return float(r[-1].mean())


def learned(r: Floats) -> float:
    """Return the mean score of each stage right after it was learned."""
    return float(np.diagonal(r[1:]).mean())


def bwt_tminus1(r: Floats) -> float:
    """Return the backward transfer over the T − 1 earlier stages; negative is forgetting."""
    return float((r[-1] - np.diagonal(r[1:]))[:-1].mean())


def fwt_tminus1(r: Floats) -> float:
    """Return the forward transfer: the gain on stages 2…T before they were learned."""
    return float((np.diagonal(r) - r[0])[1:].mean())


def forget_max_excl_last(r: Floats) -> float:
    """Return the forgetting of Chaudhry et al.: best score after stages 1…T−1 minus last."""
    return float((r[1:-1].max(axis=0) - r[-1])[:-1].mean())


def forget_first_minus_last(r: Floats) -> float:
    """Return the score right after a stage was learned minus the last score."""
    return -bwt_tminus1(r)


def fg_over_stages(r: Floats) -> float:
    """Return the percent lost since a stage was learned, mean over the stages after it.

    NaN where the score right after learning a stage was 0.
    """
    count, drops = r.shape[1], []
    for stage in range(count - 1):
        first = r[stage + 1, stage]
        if first == 0.0:
            return math.nan
        drops.append(100.0 * float(np.mean((first - r[stage + 2 :, stage]) / abs(first))))
    return float(np.mean(drops))


METRICS: Mapping[str, Callable[[Floats], float]] = {
    function.__name__: function
    for function in (acc, learned, bwt_tminus1, fwt_tminus1, forget_max_excl_last, forget_first_minus_last, fg_over_stages)
}


def sequences(
    table: pd.DataFrame, changes: ItemChanges, declared: Declared, stages: Mapping[str, Stages], level: float = LEVEL
) -> pd.DataFrame:
    """Return the matrix R and its metrics for every cell with stages.

    Args:
        table: the tidy table.
        changes: item changes of its runs.
        declared: declarations with the margins of the verdicts.
        stages: run id → its stages.
        level: confidence level of the intervals.

    Returns:
        Columns as in COLUMNS: for each cell, one row per entry, then one per metric. Empty where
        there are no stages.
    """
    every, rows = cells(table), list[Row]()
    asked = table[table["run_id"].isin(list(stages)) & table["primary"].fillna(value=False) & (table["status"] == "ok")]
    for cell, group in asked.groupby(asked["run_id"].map(every.of_run), sort=False):
        of_cell = {stages[run] for run in group["run_id"].unique()}
        if len(of_cell) == 1:
            labels = every.labels.loc[str(cell)]
            same = {"cell": cell} | {name: labels[name] for name in COLUMNS if name in labels.index}
            made = _Cell(group, changes, declared, of_cell.pop(), level).rows()
            rows += [same | row for row in made]
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}, dtype=object).astype(COLUMNS)


class _Cell:
    """Runs of a cell at the ends of stages: rows of suites and leaf tasks."""

    def __init__(self, rows: pd.DataFrame, changes: ItemChanges, declared: Declared, stages: Stages, level: float) -> None:
        self.changes, self.declared, self.stages, self.level = changes, declared, stages, level
        self.leaves = rows[rows["task"] != SUITE_TASK]
        rows = rows[rows["task"] == SUITE_TASK]
        rows = rows[rows["volume"].isin([0, *stages.ends]) & ~rows["metric"].isin(list(OWN_METRICS["divergence"]))]
        suites = list(dict.fromkeys(rows["suite"]))
        self.probes = [suite for suite in suites if suite not in stages.names]
        self.better = {str(row.suite): bool(row.higher_is_better) for row in rows.drop_duplicates("suite").itertuples()}
        columns = [rows[name].tolist() for name in ["run_id", "seed", "suite", "volume", "value"]]
        self.seed_of: dict[str, int] = dict(zip(*columns[:2], strict=True))
        self.known: dict[tuple[str, str, int], float] = {(run, suite, at): value for run, _, suite, at, value in zip(*columns, strict=True)}
        places = [(suite, volume) for suite in stages.names for volume in (0, *stages.ends)]
        by_seed = {seed: run for run, seed in reversed(self.seed_of.items())}
        self.runs = [run for _, run in sorted(by_seed.items()) if all((run, *place) in self.known for place in places)]
        lacking = sorted(set(by_seed) - {self.seed_of[run] for run in self.runs})
        self.note = f"seed {', '.join(map(str, lacking))} left out, which lacks a stage or its suite" if lacking else None

    def rows(self) -> list[Row]:
        """Return the entries, stage by stage, and the metrics."""
        if not self.runs:
            return [{"measure": ENTRY, "seeds": 0, "note": "no seed has the suites of all stages at every stage's end"}]
        volumes = (0, *self.stages.ends)
        entries = [self._entry(suite, at, volume) for at, volume in enumerate(volumes) for suite in (*self.stages.names, *self.probes)]
        matrices = [self._matrix(run) for run in self.runs]
        measured = [{"measure": name} | self._over_seeds([metric(r) for r in matrices]) for name, metric in METRICS.items()]
        return [row | {"note": self.note} for row in [*(entry for entry in entries if entry), *measured]]

    def _matrix(self, run: str) -> Floats:
        names, volumes = self.stages.names, (0, *self.stages.ends)
        signs = [1.0 if self.better[name] else -1.0 for name in names]
        return np.array([[sign * self.known[run, name, at] for name, sign in zip(names, signs, strict=True)] for at in volumes])

    def _entry(self, suite: str, at: int, volume: int) -> Row:
        values = [self.known[run, suite, volume] for run in self.runs if (run, suite, volume) in self.known]
        if len(values) < len(self.runs):
            return {}
        own = self.stages.names.index(suite) + 1 if suite in self.stages.names else None
        row: Row = {
            "measure": ENTRY,
            "after_stage": at,
            "stage": self.stages.names[at - 1] if at else None,
            "suite": suite,
            "own_stage": own,
        }
        since = own or 0
        change = self._change(suite, (0, *self.stages.ends)[since], volume) if at > since else {}
        over = self._over_seeds(values)
        return row | (over if at else {"value": values[0], "seeds": over["seeds"]}) | change  # before any stage all seeds are one model

    def _over_seeds(self, values: Sequence[float]) -> Row:
        """Return a mean over seeds with its t interval."""
        count, mean = len(values), float(np.mean(values))
        row: Row = {"value": None if math.isnan(mean) else mean, "seeds": count}
        if count < two_level.MIN_SEEDS or math.isnan(mean):
            return row
        half = two_level.quantile(0.5 + self.level / 2, count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
        return row | {"low": mean - half, "high": mean + half, "level": self.level}

    def _change(self, suite: str, start: int, volume: int) -> Row:
        """Return a suite's change from one volume to another, paired by item, with its verdict."""
        tasks = self._tasks(suite, volume)
        later = stacked(self.changes, self.runs, volume, tasks)
        earlier = stacked(self.changes, self.runs, start, tasks) if start else None
        if not tasks or isinstance(later, str) or isinstance(earlier, str) or (earlier and earlier.items != later.items):
            return {}
        values = later.values if earlier is None else [b - a for a, b in zip(earlier.values, later.values, strict=True)]
        found = two_level.estimate(values, later.clusters, self.level)
        if math.isnan(found.low):
            return {"change": found.value}
        ends = {"change": found.value, "change_low": found.low, "change_high": found.high}
        return ends | {"verdict": self._verdict(suite, found)}

    def _verdict(self, suite: str, found: two_level.Estimate) -> str:
        margin = self.declared.margins.get(suite, self.declared.margin)
        if -margin <= found.low and found.high <= margin:
            return KEPT
        if found.low <= 0.0 <= found.high:
            return UNKNOWN
        return GAINED if (found.value > 0) == self.better[suite] else LOST

    def _tasks(self, suite: str, volume: int) -> list[tuple[str, str]]:
        here = (self.leaves["suite"] == suite) & (self.leaves["volume"] == volume)
        return [(suite, str(task)) for task in self.leaves[here]["task"].unique()]
