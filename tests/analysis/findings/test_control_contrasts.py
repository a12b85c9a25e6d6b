"""Contrasts of cells with their controls: intervals, tests and verdicts, recomputed by NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from harness.analysis.findings.control_contrasts import Place, with_contrasts
from harness.analysis.statistics import stats
from harness.analysis.statistics.pooled import Spread
from harness.analysis.table.measure import TaskChange
from harness.records.schema import Declared

Changes = dict[tuple[str, int, str, str], TaskChange]


def pair(
    own: Mapping[str, np.ndarray],
    control: Mapping[str, np.ndarray],
    *,
    binary: bool = True,
    clusters: np.ndarray | None = None,
    margin: float = 0.02,
    spreads: Mapping[Place, Spread | None] | None = None,
) -> pd.DataFrame:
    """Return the contrasts of a cell ``m`` with its control ``c``; tasks have shape (k, n)."""
    changes = Changes()
    runs = {}
    for cell, tasks in {"m": own, "c": control}.items():
        runs[cell] = [f"{cell}{seed}" for seed in range(len(next(iter(tasks.values()))))]
        for task, values in tasks.items():
            for run, row in zip(runs[cell], values, strict=True):
                changes[run, 8, "s", task] = TaskChange(f"{values.shape[1]}", row.astype(float), clusters)
    names = ["*", *own]
    common = {"volume": 8, "suite": "s", "role": "probe", "metric": "acc", "higher_is_better": True, "lost": 1.0 if binary else math.nan}
    rows = [common | {"cell": "m", "task": name, "run_ids": ",".join(runs["m"]), "_control_runs": ",".join(runs["c"])} for name in names]
    rows += [common | {"cell": "c", "task": name, "run_ids": ",".join(runs["c"]), "_control_runs": None} for name in names]
    frame = pd.DataFrame(rows)
    frame["_control"] = frame["cell"].map({"m": "c"})
    return with_contrasts(frame, lambda *place: changes.get(place), Declared(margin=margin), spreads or {})


def seeds(draw: np.random.Generator, share: float, spread: float, count: int, n: int = 200) -> np.ndarray:
    """Return changes of items with a common part, of ``count`` seeds."""
    common = draw.random(n) < share
    return -np.array([(common | (draw.random(n) < shift)).astype(float) for shift in np.abs(draw.normal(0.05, spread, count))])


def test_three_seeds_against_four_are_over_seeds_and_items() -> None:
    """V = Σ s²(seeds)/k + s²(items of the difference)/n − Σ s²(rests)/(k n), and Satterthwaite's t.

    The seeds' parts count twice in the degrees of freedom.
    """
    draw = np.random.default_rng(1)
    arms = [seeds(draw, 0.15, 0.02, 3), seeds(draw, 0.02, 0.02, 4)]
    row = pair({"a": arms[0]}, {"a": arms[1]}, binary=False).iloc[0]
    n = arms[0].shape[1]
    of_seeds = [arm.mean(axis=1).var(ddof=1) / len(arm) for arm in arms]
    item = (arms[0].mean(axis=0) - arms[1].mean(axis=0)).var(ddof=1) / n
    rests = [arm - arm.mean(axis=0) - arm.mean(axis=1, keepdims=True) + arm.mean() for arm in arms]
    of_rests = [(rest**2).sum() / ((len(rest) - 1) * (n - 1)) / (len(rest) * n) for rest in rests]
    variance = max(sum(of_seeds) + item - sum(of_rests), sum(of_seeds), item)
    total = max(2 * sum(of_seeds) + item - sum(of_rests), 2 * sum(of_seeds), item)
    parts = [(item, n - 1), *zip(np.multiply(2, of_seeds), (2, 3), strict=True), *zip(of_rests, (2 * (n - 1), 3 * (n - 1)), strict=True)]
    freedom = total**2 / sum(part**2 / of for part, of in parts)
    value = arms[0].mean() - arms[1].mean()
    half = distributions.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (row["contrast"], row["contrast_low"], row["contrast_high"]) == pytest.approx((value, value - half, value + half))
    assert row["contrast_p"] == pytest.approx(2 * distributions.t.sf(abs(value) / math.sqrt(variance), freedom))
    assert (row["contrast_varies"], row["contrast_verdict"]) == ("seeds and items", "worse")


def test_intervals_that_overlap_can_differ() -> None:
    """Two runs that lost 40 and 22 of 200, 20 of them the same: 20 items against 2.

    Their own intervals overlap; McNemar's mid-p of 20 against 2 is far below 0.05.
    """
    own, control = np.zeros((1, 200)), np.zeros((1, 200))
    own[0, :40], control[0, 20:42] = -1, -1
    row = pair({"a": own}, {"a": control}).iloc[1]
    assert stats.difference_interval([40], [0], [200]).high > stats.difference_interval([22], [0], [200]).low
    assert (row["contrast"], row["contrast_varies"]) == (pytest.approx(-18 / 200), "items")
    assert (row["contrast_low"], row["contrast_high"]) == pytest.approx(tuple(stats.difference_interval([20], [2], [200])))
    exact = 2 * distributions.binom.cdf(2, 22, 0.5)
    assert row["contrast_p"] == pytest.approx(exact - distributions.binom.pmf(2, 22, 0.5))
    assert row["contrast_verdict"] == "worse"


@pytest.mark.parametrize(("margin", "verdict"), [(0.02, "not enough evidence"), (0.05, "alike")])
def test_a_contrast_inside_the_margin_is_alike(margin: float, verdict: str) -> None:
    """Both lost half of all items, and no item differs: the interval is ±z²/(n + z²) = ±0.037."""
    lost = np.where(np.arange(100) < 50, -1.0, 0.0)[None]
    row = pair({"a": lost}, {"a": lost}, margin=margin).iloc[1]
    assert (row["contrast"], row["contrast_high"]) == (0.0, pytest.approx(0.036994, abs=1e-6))
    assert row["contrast_verdict"] == verdict


def test_tasks_are_adjusted_and_suites_are_not() -> None:
    """6 against 0 has a mid-p of 2/64 − 1/64 = 0.0156: of two tasks, 0.0313 and 1."""
    one, none = np.zeros((1, 40)), np.zeros((1, 40))
    one[0, :6] = -1
    found = pair({"a": one, "b": none}, {"a": none, "b": none})
    assert found["contrast_p"].tolist()[:3] == pytest.approx([1 / 64, 1 / 64, 1.0])
    assert found["contrast_p_holm"].fillna(-1).tolist()[:3] == pytest.approx([-1, 1 / 32, 1.0])
    assert found["contrast_verdict"].fillna("").tolist() == ["worse", "worse", "not enough evidence", "", "", ""]


def test_clusters_and_other_metrics_are_decided_by_sign_flips() -> None:
    """All 6 clusters of two items fell: 2 of 2⁶ signs are as extreme; nats are judged likewise."""
    fell, zero = np.full((1, 12), -1.0), np.zeros((1, 12))
    assert pair({"a": fell}, {"a": zero}, clusters=np.arange(12) // 2).iloc[1]["contrast_p"] == pytest.approx(2 / 64)
    nats = np.array([[0.4, 0.1, 0.3, 0.2, 0.5, 0.6]])
    assert pair({"a": nats}, {"a": np.zeros((1, 6))}, binary=False).iloc[1]["contrast_p"] == pytest.approx(2 / 64)


def test_given_spreads_replace_those_of_the_seeds() -> None:
    """A larger variance between seeds widens the interval, a smaller one narrows it."""
    draw = np.random.default_rng(2)
    own, control = seeds(draw, 0.1, 0.03, 3), seeds(draw, 0.02, 0.03, 3)

    def width(variance: float | None) -> float:
        known = None if variance is None else Spread(variance, 20.0, pooled=True)
        places: Sequence[Place] = [(cell, 8, "s", "*") for cell in "mc"]
        row = pair({"a": own}, {"a": control}, spreads=dict.fromkeys(places, known)).iloc[0]
        return float(row["contrast_high"] - row["contrast_low"])

    assert width(1e-8) < width(None) < width(0.1)
    assert pair({"a": own}, {"a": control}).iloc[0]["contrast_low"] == pytest.approx(
        pair({"a": own}, {"a": control}, spreads={}).iloc[1]["contrast_low"]
    )


def test_other_items_or_missing_changes_leave_it_empty() -> None:
    """A control that was asked other items, or has no run, has no contrast."""
    found = pair({"a": np.zeros((1, 40))}, {"a": np.zeros((1, 30))})
    assert found[["contrast", "contrast_low", "contrast_p", "contrast_verdict"]].isna().all(axis=None)
