"""The learning–forgetting frontier: gain, forgetting and cost of each method.

Gain is the change of the first target suite; forgetting is the change of the declared headline
suite. For metrics of either direction, positive gain is better and positive forgetting is worse.
Controls learn nothing new and are left out. Methods that did not act and cells whose learning rate
is too high (``validity``) have a row and no place, and are no rivals.

A point beats another if it is better in one of both by more than the margin, and not worse in the
other by more than the margin. The untuned model is a point at (0, 0). A point that nothing beats is
on the frontier. Estimates alone do not decide that: a point is

- ``off`` if another clearly beats it: of the two differences, one interval is above the margin and
  the other above −margin, both at the level 1 − 0.05/m against m other points;
- ``on`` if every other point clearly does not beat it: by 95% intervals it is worse in one by more
  than the margin, or not better in either by more than the margin;
- ``unclear`` otherwise.

So a point of either kind is called the other at most one time in twenty. Items are paired, seeds
are not (which is conservative between volumes of the same runs), and the variance between seeds is
pooled over the points that were measured on the same items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.findings import validity
from harness.analysis.findings.estimates import ItemChanges
from harness.analysis.findings.pairing import Stacked, stacked
from harness.analysis.statistics import task_sums, two_level
from harness.analysis.statistics.pooled import SeedMeans, Spread, pooled
from harness.analysis.statistics.stats import LEVEL, Floats
from harness.analysis.table.columns import SUITE_TASK, specified

ON, UNCLEAR, OFF = "on", "unclear", "off"

LABELS = ["tuning", "objective", "mitigation", "data", "anchor", "trajectory", "epochs", "learning_rate", "lr_tuned", "variant"]
COSTS = ["steps", "train_tokens", "supervised_tokens", "anchor_tokens", "generated_tokens", "extra_tokens", "flops", "wall_seconds"]
COSTS += ["peak_memory_bytes"]

_SPECIFICATION = """
gain              Float64  change of the first target suite, in its metric's unit; positive is better
gain_low          Float64  lower end of the 95% interval of gain
gain_high         Float64  upper end of the 95% interval of gain
forgetting        Float64  change of the headline suite, in its metric's unit; positive is worse
forgetting_low    Float64  lower end of the 95% interval of forgetting
forgetting_high   Float64  upper end of the 95% interval of forgetting
frontier          string   on: nothing of its model and data beats it, nor the untuned model; off: something clearly does; else unclear
target_suite      string   suite whose change is the gain
headline_suite    string   suite whose change is the forgetting
"""
_OWN, DESCRIPTIONS = specified(_SPECIFICATION)
"""For the columns that only this table has: column → dtype, and column → description."""

COLUMNS = ["model", "params_total", "cell", *LABELS, "volume", "seeds", "acted", "control_check", *_OWN, *COSTS]
"""Columns of the frontier, in order."""


def first_target(findings: pd.DataFrame, targets: Sequence[str] = ()) -> str | None:
    """Return the suite whose change is the gain: the first target suite; None without one.

    Args:
        findings: as returned by ``harness.analysis.findings.findings.findings``.
        targets: target suites in the order of the experiment; without them that of the rows counts.
    """
    rows = findings[(findings["role"] == "target") & (findings["task"] == SUITE_TASK)]
    found = list(dict.fromkeys(rows["suite"].astype(str)))
    return next((name for name in (*targets, *found) if name in found), None)


def headline(findings: pd.DataFrame) -> str | None:
    """Return the declared headline suite; None without one."""
    rows = findings[findings["is_headline"].fillna(False)]
    return None if rows.empty else str(rows["suite"].iloc[0])


def oriented(rows: pd.DataFrame, name: str, *, better: bool) -> pd.DataFrame:
    """Return a change and its interval with the chosen sign.

    Args:
        rows: rows with ``delta``, ``delta_low``, ``delta_high``, ``higher_is_better``.
        name: prefix of the new columns ``name``, ``name_low``, ``name_high``.
        better: whether positive means better; else it means worse.
    """
    sign = rows["higher_is_better"].map({True: 1.0, False: -1.0}).astype("Float64") * (1.0 if better else -1.0)
    ends = [sign * rows["delta_low"], sign * rows["delta_high"]]
    low, high = ends[0].where(sign > 0, ends[1]), ends[1].where(sign > 0, ends[0])
    return pd.DataFrame({name: sign * rows["delta"], f"{name}_low": low, f"{name}_high": high})


def frontier(findings: pd.DataFrame, changes: ItemChanges, *, any_rate: bool = False, targets: Sequence[str] = ()) -> pd.DataFrame:
    """Return gain, forgetting and costs of each cell and volume, and the frontier.

    Args:
        findings: as returned by ``harness.analysis.findings.findings.findings``.
        changes: item changes of the same experiment.
        any_rate: whether cells whose learning rate is too high are ranked too.
        targets: target suites in the order of the experiment (``first_target``).

    Returns:
        One row per cell and volume that has gain and forgetting, columns as in COLUMNS; empty where
        no headline is declared, or there is no target suite.

    Source: Biderman et al. 2024, arXiv 2405.09673, section 4.3 (the scatter); Shenfeld et al. 2025,
    arXiv 2509.04259 (matched gain). The three classes are this project's; benchmarks/METHOD.md has
    how often they are wrong.
    """
    target, probe = first_target(findings, targets), headline(findings)
    if target is None or probe is None:
        return _typed(pd.DataFrame({name: pd.Series(dtype="object") for name in COLUMNS}), findings)
    wholes = findings[(findings["task"] == SUITE_TASK) & ~findings["is_control"].fillna(False) & findings["delta"].notna()]
    gains, losses = wholes[wholes["suite"] == target], wholes[(wholes["suite"] == probe) & (wholes["role"] == "probe")]
    left = pd.concat([gains, oriented(gains, "gain", better=True)], axis=1)
    right = pd.concat([losses[["cell", "volume"]], oriented(losses, "forgetting", better=False)], axis=1)
    points = left.merge(right, on=["cell", "volume"], how="inner", validate="one_to_one")
    points = points.assign(target_suite=target, headline_suite=probe, frontier=None)
    ranked = points[validity.ranked(points, any_rate=any_rate)]
    groups = [group for _, group in ranked.groupby(["model", "data"], dropna=False, sort=False)]
    axes = [_Axis.read(findings, changes, ranked, suite) for suite in (target, probe)] if groups else []
    for group in groups:
        points.loc[group.index, "frontier"] = _Rivals(group, axes).places()
    ordered = points.sort_values(["params_total", "model", "cell", "volume"], kind="stable", ignore_index=True)
    return _typed(ordered[COLUMNS], findings)


@dataclass(frozen=True)
class _Measured:
    """Changes of a point on one suite, positive for better, and the variance between its seeds."""

    tasks: Sequence[task_sums.Arm]
    items: tuple[str, ...]
    spread: Spread | None


@dataclass(frozen=True)
class _Axis:
    """One suite: its margin, and each point's changes; points without items are missing."""

    margin: float
    of: dict[tuple[str, int], _Measured]

    @staticmethod
    def read(findings: pd.DataFrame, changes: ItemChanges, points: pd.DataFrame, suite: str) -> _Axis:
        """Read the points' changes; pool the variance between seeds over equal items."""
        rows = findings[(findings["suite"] == suite) & findings["cell"].isin(points["cell"])]
        wholes, leaves = rows[rows["task"] == SUITE_TASK], rows[rows["task"] != SUITE_TASK]
        tasks = leaves.groupby(["cell", "volume"])["task"].agg(list).to_dict()
        found: dict[tuple[str, ...], dict[str, dict[int, _Read]]] = {}
        for cell, volume, run_ids, up in wholes[["cell", "volume", "run_ids", "higher_is_better"]].dropna().itertuples(index=False):
            named = [(suite, str(task)) for task in tasks.get((cell, volume), [])]
            one = stacked(changes, str(run_ids).split(","), int(volume), named)
            if isinstance(one, Stacked):
                found.setdefault(one.items, {}).setdefault(str(cell), {})[int(volume)] = _read(one, up=bool(up))
        of: dict[tuple[str, int], _Measured] = {}
        for items, cells in found.items():
            first, _ = next(iter(next(iter(cells.values())).values()))
            spreads = pooled([_seed_means(list(each.values())) for each in cells.values()], sum(len(arm.items) for arm in first))
            for (cell, each), known in zip(cells.items(), spreads, strict=True):
                for (volume, (arms, _)), spread in zip(each.items(), known, strict=True):
                    of[cell, volume] = _Measured(arms, items, spread)
        return _Axis(float(wholes["margin"].iloc[0]), of)

    def ends(self, one: tuple[str, int] | None, other: tuple[str, int], level: float) -> tuple[float, float]:
        """Return the interval of the first point minus the other; None is the untuned model."""
        here, there = self.of.get(one) if one else None, self.of.get(other)
        if there is None or (one is not None and (here is None or here.items != there.items)):
            return -np.inf, np.inf
        if here is None:
            found = two_level.combined([task_sums.sums(arm) for arm in there.tasks], level, [there.spread])
            low, high = -found.high, -found.low
        else:
            both = [task_sums.sums(*arms) for arms in zip(here.tasks, there.tasks, strict=True)]
            found = two_level.combined(both, level, [here.spread, there.spread])
            low, high = found.low, found.high
        return (low, high) if low == low else (-np.inf, np.inf)


_Read = tuple[Sequence[task_sums.Arm], float]
"""Arms of a point's tasks, and the mean square change of its items."""


def _read(point: Stacked, *, up: bool) -> _Read:
    """Return a point's changes, positive for better."""
    signed = [values if up else -values for values in point.values]
    arms = [task_sums.arm(values, of) for values, of in zip(signed, point.clusters, strict=True)]
    return arms, float(np.mean([np.mean(values * values) for values in signed]))


def _seed_means(volumes: Sequence[_Read]) -> SeedMeans:
    """Return the seeds' means of a cell; volumes with fewer seeds are filled with NaN."""
    means = [np.mean([arm.seeds for arm in arms], axis=0) for arms, _ in volumes]
    padded = np.full((len(means), max(map(len, means))), np.nan)
    for row, of in zip(padded, means, strict=True):
        row[: len(of)] = of
    return SeedMeans(padded, np.array([changed for _, changed in volumes]))


class _Rivals:
    """The points of one model and data, each against all others and the untuned model."""

    def __init__(self, group: pd.DataFrame, axes: Sequence[_Axis]) -> None:
        self._keys: list[tuple[str, int] | None] = [
            (str(cell), int(volume)) for cell, volume in zip(group["cell"], group["volume"], strict=True)
        ]
        self._keys.append(None)
        better = [group["gain"].astype(float), -group["forgetting"].astype(float)]
        self._at = np.array([[*values, 0.0] for values in better]).T
        self._axes = axes
        self._margins = np.array([axis.margin for axis in axes])

    def places(self) -> list[str]:
        """Return ON, UNCLEAR or OFF for each point."""
        return [self._place(number, key) for number, key in enumerate(self._keys) if key is not None]

    def _place(self, number: int, key: tuple[str, int]) -> str:
        ahead = self._at - self._at[number]
        rivals = [other for other in np.argsort(-ahead.min(axis=1)).tolist() if other != number]  # the most likely to beat it first
        strict = 1 - (1 - LEVEL) / len(rivals)
        for other in rivals:  # what the estimates do not say, their intervals do not say either
            if self._beats(ahead[other]) and self._beats(np.array([self._ends(axis, other, key, strict)[0] for axis in (0, 1)])):
                return OFF
        return ON if all(self._is_no_better(other, key, ahead[other]) for other in rivals) else UNCLEAR

    def _ends(self, axis: int, other: int, key: tuple[str, int], level: float) -> tuple[float, float]:
        """Return the interval of how much better another point is on one axis."""
        return self._axes[axis].ends(self._keys[other], key, level)

    def _beats(self, ahead: Floats) -> bool:
        return bool(np.all(ahead > -self._margins) and np.any(ahead > self._margins))

    def _is_no_better(self, other: int, key: tuple[str, int], ahead: Floats) -> bool:
        """Return whether another point clearly does not beat this one."""
        if self._beats(ahead):
            return False
        inside = True
        for axis in np.argsort(ahead + self._margins).tolist():  # the one on which it is likely to be worse, which is then enough
            high = self._ends(axis, other, key, LEVEL)[1]
            if high <= -self._margins[axis]:
                return True
            inside &= bool(high <= self._margins[axis])
        return inside


def _typed(frame: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    types = {name: _OWN.get(name) or findings[name].dtype for name in COLUMNS}
    return frame.astype(types)
