"""Searched learning rates, from a sweep of rates evaluated on ``select`` items.

The rate of a combination of labels is the smallest whose score on the target is within one standard
error of the best. The error is that of the difference from the best, over seeds and items: all
rates were asked the same items, and how hard these are is no reason to prefer one.

Where that rate does not pass, the next lower one that does is used. A rate passes if its same-data
control is not ``too high`` (``validity``), and its loss on each probe task, and on the mean of each
probe suite, is smaller than the margin by a standard error. The second part asks for no proof of a
loss: three seeds seldom prove one of 5 points, and a rate is chosen here, not accused. The standard
error is there because the chosen rate is judged on other items. A control that was not measured on
a probe does not pass. Where no rate gained on the target, none is chosen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from harness.analysis.findings import rate_file, validity
from harness.analysis.findings.estimates import Estimated, ItemChanges, estimates
from harness.analysis.findings.finding_columns import SUITE_TASK
from harness.analysis.findings.pairing import stacked
from harness.analysis.statistics import task_sums, two_level
from harness.config.resolution import Candidate, SearchedRate
from harness.config.strict import plain
from harness.core.errors import RecordError, explain
from harness.core.files import write_text
from harness.records.store import Experiment

HEADER = (
    "# Learning rates searched on the target's select items, never on those reported (`harness learning-rates`). One line a combination.\n"
)
KEYS = ["model", "tuning", "objective", "data", "mitigation"]
_SETTINGS = ["anchor", "trajectory", "epochs", "variant", "dtype"]
"""Further labels in which cells of one combination may differ."""

_DIGITS = 6
_ROUNDING = 1e-9


def unselected(experiment: Experiment) -> tuple[str, str] | None:
    """Return a current run that was not scored on ``select`` items, and its items; None if none."""
    for run_id in sorted(experiment.current()):
        config = experiment.config(run_id)  # empty until the run begins
        items = config.get("evaluation", {}).get("items")
        if config and items != "select":
            return run_id, str(items)
    return None


def require_select(experiment: Experiment) -> None:
    """Raise RecordError unless every current run was scored on ``select`` items.

    Reported items must never choose a rate.
    """
    if found := unselected(experiment):
        fix = "sweep with evaluation.items=select"
        raise RecordError(explain(f"learning-rates: run {found[0]}", got=f"{found[1]} items", allowed="select items", fix=fix))


def require_rates(rates: Sequence[SearchedRate]) -> None:
    """Raise RecordError if no rate was searched, or several were for one combination."""
    fix = "harness sweep experiment=tiny_lr"
    if not rates:
        raise RecordError(explain("learning-rates", got="no combination with two rates and a target suite", fix=fix))
    known = [tuple(getattr(rate, key) for key in KEYS) for rate in rates]
    if twice := next((key for key in known if known.count(key) > 1), None):
        allowed, fix = "one", f"search them apart; they differ in one of {', '.join(_SETTINGS)}"
        raise RecordError(explain(f"learning-rates: {', '.join(twice)}", got=f"{known.count(twice)} searches", allowed=allowed, fix=fix))


def searched(table: pd.DataFrame, found: pd.DataFrame, changes: ItemChanges) -> list[SearchedRate]:
    """Return the rate of each combination of labels that was run with two rates or more.

    Args:
        table: tidy table of a sweep over ``training.learning_rate`` with
            ``evaluation.items=select``.
        found: its findings.
        changes: item changes of its runs.
    """
    wanted = (found["role"] == "target") & (found["task"] == SUITE_TASK) & ~found["is_control"].fillna(value=False) & found["after"].notna()
    rows = found[wanted.fillna(value=False)]
    groups = [group for _, group in rows.groupby([*KEYS, *_SETTINGS], sort=True, dropna=False) if group["learning_rate"].nunique() > 1]
    search = _Search(table, found, changes) if groups else None
    return [search.rate(group) for group in groups if search]


def gained(rate: SearchedRate) -> bool:
    """Return whether the best rate of a search improved the target."""
    scores = {one.learning_rate: one.score for one in rate.curve}
    if rate.best is None or rate.before is None:
        return True
    best, higher = scores[rate.best], scores[rate.best] >= max(scores.values())
    return best > rate.before if higher else best < rate.before


class _Search:
    """The searches of one experiment: findings, changes and the variation between seeds."""

    def __init__(self, table: pd.DataFrame, found: pd.DataFrame, changes: ItemChanges) -> None:
        self._found, self._changes = found, changes
        runs = table.drop_duplicates("run_id").set_index("run_id")["seed"].dropna()
        self._seed_of = {str(run_id): int(seed) for run_id, seed in runs.items()}
        self._targets = found[(found["role"] == "target").fillna(value=False)].reset_index(drop=True)
        self._targets["_at"] = range(len(self._targets))
        self._estimated: dict[int, Estimated] = estimates(self._targets, changes, self._seed_of)
        self._checks = validity.checks(found)

    def rate(self, group: pd.DataFrame) -> SearchedRate:
        """Return the rate of the cells of one combination: rows of the target suites."""
        last = group[group["volume"] == group["volume"].max()]
        suite = sorted(last["suite"].unique())[0]
        last = last[last["suite"] == suite].sort_values("learning_rate")
        last = last[last["seeds"] == last["seeds"].max()]  # a rate that failed on a seed is not a candidate
        curve = self._curve(last)
        best = min(curve, key=lambda one: (one.behind, one.learning_rate))
        within = [one for one in curve if one.behind <= (one.behind_stderr or 0.0) + _ROUNDING]
        rule = within[0]
        passing = [one for one in curve if one.learning_rate <= rule.learning_rate and one.passes]
        used = passing[-1] if passing else curve[0]
        first = last.iloc[0]
        run_ids = [run_id for runs in last["run_ids"] for run_id in str(runs).split(",")]
        return SearchedRate(
            **{key: str(first[key]) for key in KEYS},
            learning_rate=used.learning_rate,
            candidates=tuple(one.learning_rate for one in curve),
            suite=str(suite),
            metric=str(first["metric"]),
            score=used.score,
            volume=int(first["volume"]),
            seeds=tuple(sorted({self._seed_of[run_id] for run_id in run_ids})),
            before=round(float(first["before"]), _DIGITS),
            best=best.learning_rate,
            rule=rule.learning_rate,
            not_bracketed=_not_bracketed(below=rule is curve[0], above=best is curve[-1]),
            curve=tuple(curve),
        )

    def _curve(self, rows: pd.DataFrame) -> list[Candidate]:
        """Return the candidates of one target suite at one volume, by rate."""
        sign = 1.0 if bool(rows["higher_is_better"].iloc[0]) else -1.0
        scores = sign * rows["after"].astype(float).to_numpy()
        best = rows.iloc[int(scores.argmax())]
        return [self._candidate(row, best, float(scores.max() - score)) for (_, row), score in zip(rows.iterrows(), scores, strict=True)]

    def _candidate(self, row: pd.Series, best: pd.Series, behind: float) -> Candidate:
        control = self._control(str(row["cell"]))
        check = str(self._checks["control_check"].get(row["cell"], ""))
        lost = np.where(control["higher_is_better"], -1.0, 1.0) * control["delta"].astype(float)
        beyond = lost + control["stderr"].astype(float).fillna(0.0) - control["margin"].astype(float)
        wholes = control["task"] == SUITE_TASK
        names = control["suite"].where(wholes, control["task"])
        return Candidate(
            learning_rate=float(row["learning_rate"]),
            score=round(float(row["after"]), _DIGITS),
            stderr=self._stderr([row]),
            behind=round(behind, _DIGITS),
            behind_stderr=0.0 if row["cell"] == best["cell"] else self._stderr([best, row]),
            control={str(name): round(float(delta), _DIGITS) for name, delta in zip(names, control["delta"], strict=True)},
            control_check=check,
            passes=check != validity.TOO_HIGH and self._is_measured(str(row["cell"])) and not bool((beyond > _ROUNDING).any()),
        )

    def _stderr(self, of: Sequence[pd.Series]) -> float | None:
        """Return the standard error of the mean of a cell, or of the difference of two.

        It has no allowance for items that happen not to change, which intervals have: a rule that
        asks for one standard error would take it for noise. None where items differ or are missing.
        """
        volume, suite = int(of[0]["volume"]), str(of[0]["suite"])
        rows = self._targets[(self._targets["volume"] == volume) & (self._targets["suite"] == suite)]
        leaves = rows[(rows["cell"] == of[0]["cell"]) & (rows["task"] != SUITE_TASK)]["task"]
        tasks = [(suite, str(task)) for task in leaves]
        sides = [stacked(self._changes, str(row["run_ids"]).split(","), volume, tasks) for row in of]
        known = [side for side in sides if not isinstance(side, str)]
        if len(known) < len(sides) or not tasks or len({side.items for side in known}) > 1:
            return None
        own = rows[rows["task"] == SUITE_TASK].set_index("cell")["_at"]
        spreads = [self._estimated[at].spread if (at := int(own[row["cell"]])) in self._estimated else None for row in of]
        parts = zip(*(side.values for side in known), known[0].clusters, strict=True)
        sums = [task_sums.task(part[0], part[1] if len(known) > 1 else None, part[-1], binary=False) for part in parts]
        error = two_level.combined(sums, spreads=spreads).stderr
        return 0.0 if math.isnan(error) else round(error, _DIGITS)

    def _is_measured(self, cell: str) -> bool:
        """Return whether a cell's control has an interval on every probe, if any cell has one."""
        if cell not in self._checks.index:
            return self._checks.empty
        return math.isfinite(float(self._checks["beyond"].astype(float)[cell]))

    def _control(self, cell: str) -> pd.DataFrame:
        """Return the rows of a cell's control: each probe suite, and its tasks if several."""
        if cell not in self._checks.index:
            return self._found.head(0)
        at = self._checks.loc[cell]
        rows = self._found[(self._found["cell"] == at["control"]) & (self._found["volume"] == at["volume"])]
        rows = rows[(rows["role"] == "probe").fillna(value=False) & rows["margin"].notna() & rows["delta"].notna()]
        leaves = (rows["task"] != SUITE_TASK).groupby(rows["suite"]).transform("sum")
        return rows[(rows["task"] == SUITE_TASK) | (leaves > 1)]


def _not_bracketed(*, below: bool, above: bool) -> Literal["", "below", "above", "below and above"]:
    return "below and above" if below and above else "below" if below else "above" if above else ""


def remarks(rate: SearchedRate) -> list[str]:
    """Return in sentences where the search was not bracketed, and where the control decided."""
    if not gained(rate):
        return ["no rate gained on the target: none is chosen"]
    found, curve = [], {one.learning_rate: one for one in rate.curve}
    if "below" in rate.not_bracketed:
        found.append(f"not bracketed below: {rate.rule:g}, within one standard error of the best, is the smallest candidate")
    if "above" in rate.not_bracketed:
        found.append(f"not bracketed above: the best rate, {rate.best:g}, is the largest candidate")
    used = curve.get(rate.learning_rate)
    if used is None:
        return found
    if not used.passes:
        found.append(f"the same-data control lost too much at every rate up to {rate.rule:g}: the smallest is used")
    elif rate.learning_rate != rate.rule:
        lower = f"{rate.learning_rate:g}, the next lower rate that passes, is used"
        found.append(f"the same-data control lost too much at {rate.rule:g}: {lower}")
    elif not used.control_check:
        found.append("no same-data control was run")
    return found


def as_yaml(rates: Sequence[SearchedRate]) -> str:
    """Return rates as the text of ``conf/learning_rates.yaml``, one JSON object per line.

    Remarks are comments above their line.
    """
    lines = [f"{''.join(f'  # {remark}{chr(10)}' for remark in remarks(rate))}  - {json.dumps(plain(rate))}\n" for rate in rates]
    return HEADER + "rates:\n" + "".join(lines)


def merge(rates: Sequence[SearchedRate], file: Path) -> None:
    """Write rates into a file, replacing its entries for the same combinations only."""
    if file.exists():
        rate_file.merge(rates, file)
    else:
        write_text(file, as_yaml(rates).rstrip("\n"))
