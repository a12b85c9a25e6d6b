"""Verdicts on laws, naive baselines at held-out points, and learning rates of sizes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.analysis.fits import fitting
from harness.core.errors import AnalysisError
from harness.core.seeds import stream

VOLUMES = [64, 128, 256, 512]


def cell(slopes: list[float], *, size: float = 1000.0, noise: float = 0.003) -> pd.DataFrame:
    """Return runs whose forgetting has these slopes per doubling, and levels of their own."""
    draw, parts = stream(1, "test", "judging", str(size)), []
    for run, slope in enumerate(slopes):
        forgetting = 0.05 + 0.01 * run + slope * np.arange(4) + noise * draw.normal(size=4)
        parts.append(pd.DataFrame({"volume": VOLUMES, "forgetting": forgetting, "run_id": f"{size}-{run}", "params_total": size}))
    return pd.concat(parts, ignore_index=True)


def slopes_of(points: pd.DataFrame, by: str) -> list[float]:
    return [float(np.polyfit(np.log2(part["volume"]), part["forgetting"], 1)[0]) for _, part in points.groupby(by)]


def test_the_test_is_a_t_test_of_the_slopes_of_runs() -> None:
    """Slope and p are SciPy's, of the straight lines of three runs on the logarithm of volume."""
    points = cell([0.01, 0.02, 0.04])
    fit = fitting.fit(points, "power")
    expected = stats.ttest_1samp(slopes_of(points, "run_id"), 0.0)
    found = fit.trends["volume"]
    assert (found.units, found.of) == (3, "runs")
    assert found.slope == pytest.approx(np.mean(slopes_of(points, "run_id")))
    assert found.p_value == pytest.approx(expected.pvalue)
    told = f"no change with volume (p = {expected.pvalue:.2g}, t-test over 3 runs)"
    assert fit.verdict == f"not distinguishable from a constant ({told})"


def test_runs_that_agree_in_slope_support_a_law_however_their_levels_differ() -> None:
    """The levels are 0.05 apart, the slopes 0.02 each."""
    points = cell([0.02] * 3)
    apart = points["run_id"].map({name: 0.05 * i for i, name in enumerate(points["run_id"].unique())})
    verdict = fitting.fit(points.assign(forgetting=points["forgetting"] + apart), "power").verdict
    assert verdict.startswith("supported (rises with volume, p")


def test_rows_of_one_run_each_are_tested_as_a_straight_line() -> None:
    """With one point a run, p is that of SciPy's regression, n − 2 degrees of freedom."""
    x, y = [3.0, 2.5, 2.0, 1.5, 1.0], [0.05, 0.07, 0.06, 0.09, 0.08]
    fit = fitting.fit(pd.DataFrame({"finetune_loss": x, "forgetting": y}), "linear")
    expected = stats.linregress(x, y)
    assert (fit.trends["finetune_loss"].slope, fit.trends["finetune_loss"].p_value) == pytest.approx((expected.slope, expected.pvalue))
    few = fitting.fit(pd.DataFrame({"finetune_loss": x[:2], "forgetting": y[:2]}), "linear")
    assert few.verdict == "not judged: finetune_loss: 2 runs; at least 3 are needed"


def test_of_three_sizes_or_more_sizes_are_the_units() -> None:
    """Slopes are averaged over the runs of a size: runs of one size are not independent of it.

    With two sizes, runs are the units.
    """
    points = pd.concat([cell([0.01, 0.02], size=size) for size in (1000.0, 2000.0, 4000.0)])
    means = np.mean(np.reshape(slopes_of(points.sort_values("run_id"), "run_id"), (3, 2)), axis=1)
    found = fitting.fit(points, "power").trends["volume"]
    assert (found.units, found.of) == (3, "sizes")
    assert found.p_value == pytest.approx(stats.ttest_1samp(means, 0.0).pvalue)
    two = fitting.fit(points[points["params_total"] < 4000], "power").trends["volume"]
    assert (two.units, two.of) == (4, "runs")


def over_sizes(levels: dict[float, float]) -> pd.DataFrame:
    """Return sizes with levels of their own, runs that rise with volume, for ``injection``."""
    points = pd.concat([cell([0.02, 0.021], size=size) for size in levels], ignore_index=True)
    points["forgetting"] += points["params_total"].map(levels)
    return points.assign(train_tokens=10 * points["volume"], inject_fraction=0.0)


def test_a_model_tuned_in_two_ways_is_one_size() -> None:
    """Three models with full tuning and LoRA are three units, and two models are none."""
    parts = []
    for size, (tuning, share) in itertools.product((1000.0, 2000.0, 4000.0), (("full", 1.0), ("lora", 0.02))):
        own = cell([0.01, 0.02], size=size)
        parts.append(own.assign(params_trainable=size * share, run_id=own["run_id"] + tuning))
    points = pd.concat(parts, ignore_index=True)
    found = fitting.fit(points, "power").trends["volume"]
    expected = stats.ttest_1samp([np.mean(slopes_of(part, "run_id")) for _, part in points.groupby("params_total")], 0.0)
    assert (found.units, found.of) == (3, "sizes")
    assert found.p_value == pytest.approx(expected.pvalue)
    few = fitting.fit(points[points["params_total"] < 3000], "power").trends["volume"]
    assert (few.units, few.of) == (8, "runs")


def test_a_size_is_one_unit_of_a_law_over_sizes() -> None:
    """It has SciPy's p for the four sizes' means on the logarithm of size, doubled by Holm."""
    points = over_sizes({1000.0: 0.0, 2000.0: 0.04, 4000.0: -0.02, 8000.0: 0.03})
    fit = fitting.fit(points, "injection")
    means = points.groupby("params_total")["forgetting"].mean()
    expected = stats.linregress(np.log2(means.index.to_numpy(dtype=float)), means.to_numpy())
    found = fit.trends["params_total"]
    assert (found.units, found.of) == (4, "sizes")
    assert found.p_value == pytest.approx(max(expected.pvalue, 2 * (fit.trends["train_tokens"].p_value or 0.0) / 2))
    assert fit.verdict.startswith("supported in train_tokens (rises with train_tokens, p")
    assert "; not in params_total (p = " in fit.verdict
    two = fitting.fit(points[points["params_total"] < 4000], "injection")
    assert "params_total not judged: 2 sizes; at least 3 are needed" in two.verdict


def test_runs_that_agree_by_their_items_alone_support_nothing() -> None:
    """Equal runs differ in nothing, but all were asked the same items, each volume ±0.05.

    z is the slope over 0.05 / √5: the volumes' squares are 5 in doublings.
    """
    points = cell([0.03] * 3, noise=0.0).assign(stderr=0.05)
    found = fitting.fit(points, "power").trends["volume"]
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.03 * 5**0.5 / 0.05), rel=1e-3)
    assert fitting.fit(points.drop(columns="stderr"), "power").verdict.startswith("supported")


def test_a_law_that_runs_another_way_is_not_supported() -> None:
    """shifted_power can only rise with steps; kl has no constant, and 0.5 is all constant."""
    sizes = pd.concat([cell([-0.02, -0.021], size=size) for size in (1000.0, 2000.0, 4000.0)])
    falling = fitting.fit(sizes.assign(params_trainable=sizes["params_total"], steps=sizes["volume"]), "shifted_power")
    assert falling.verdict.startswith("not supported (it falls with steps")
    high = cell([0.01] * 3).assign(kl=lambda at: 1e-3 * at["volume"], forgetting=lambda at: 0.5 + at["forgetting"])
    assert fitting.fit(high, "kl").verdict.startswith("not supported (it fits worse than a constant: R2 -")


def test_the_last_volume_predicts_the_largest() -> None:
    """Means of the runs at 256 are 0.12 and 0.2; at 512 they have 0.1, 0.14 and 0.3.

    The mean absolute error is (0.02 + 0.02 + 0.1) / 3. A power law through (64, 0.03), (128, 0.06),
    (256, 0.12) predicts 0.24 for the first size.
    """
    first = [(64, 0.03), (128, 0.06), (256, 0.12)]
    rows = [(run, 1000, volume, y) for run, last in (("a", 0.1), ("b", 0.14)) for volume, y in [*first, (512, last)]]
    rows += [("c", 8000, volume, y) for volume, y in [(64, 0.03), (128, 0.06), (256, 0.2), (512, 0.3)]]
    points = pd.DataFrame(rows, columns=["run_id", "params_total", "volume", "forgetting"])
    fit = fitting.fit(points, "power")
    assert fit.naive["largest volume"] == pytest.approx((0.02 + 0.02 + 0.1) / 3)
    alone = fitting.fit(points[points["params_total"] == 1000], "power")
    assert alone.held_out["largest volume"] == pytest.approx(0.12, rel=1e-3)
    assert alone.naive["largest volume"] == pytest.approx(0.02)
    assert alone.compared["largest volume"] == "predicts worse than the last volume, by 0.1"


def test_other_sizes_predict_the_largest_at_the_same_volume() -> None:
    """Sizes 1000 (two runs) and 2000 (one) have means 0.1 and 0.3 at 64; the largest has 0.25.

    Each size counts once, so 0.2 is predicted. At 128 it is 0.4, and 0.5 there: the mean is 0.075.
    """
    rows = [("a", 1000, 64, 0.08), ("b", 1000, 64, 0.12), ("a", 1000, 128, 0.2), ("b", 1000, 128, 0.2), ("c", 2000, 64, 0.3)]
    rows += [("c", 2000, 128, 0.6), ("d", 4000, 64, 0.25), ("d", 4000, 128, 0.5)]
    points = pd.DataFrame(rows, columns=["run_id", "params_total", "volume", "forgetting"])
    assert fitting.fit(points, "power").naive["largest size"] == pytest.approx(0.075)
    later = points.assign(volume=np.where(points["params_total"] == 4000, 10 * points["volume"], points["volume"]))
    fit = fitting.fit(later, "power")
    assert fit.compared["largest size"] == "cannot be compared: no other size has the volume of 2 of 2 held-out points"
    assert fit.compared["largest volume"] == f"predicts better than the last volume, by {0.25 - fit.held_out['largest volume']:.3g}"


def test_without_other_points_there_is_no_comparison() -> None:
    """One size; and of two volumes, one is too few for a law of two parameters."""
    points = cell([0.02] * 3)
    fit = fitting.fit(points[points["volume"] < 256], "power")
    assert fit.compared["largest size"] == "cannot be compared: one size"
    assert fit.compared["largest volume"] == "cannot be compared: too few other points for the law"
    assert "largest volume" in fit.naive


def rated(rates: list[float], searched: list[bool]) -> pd.DataFrame:
    points = over_sizes({1000.0: 0.0, 2000.0: 0.04, 4000.0: -0.02})
    place = points["params_total"].map({1000.0: 0, 2000.0: 1, 4000.0: 2})
    return points.assign(learning_rate=[rates[i] for i in place], lr_tuned=[searched[i] for i in place], tuning="full")


def test_a_law_over_sizes_takes_searched_or_equal_rates() -> None:
    """A rate that was not searched and differs is rejected, for laws over sizes alone."""
    guessed: dict[str, Any] = {"rates": [0.001, 0.002, 0.002], "searched": [True, True, False]}
    got = "0.001 at params_total 1000; 0.002 at params_total 2000; 0.002 at params_total 4000: not searched for 1 of 3 sizes"
    with pytest.raises(AnalysisError, match=f"injection: learning rates of the sizes: got {got}; allowed: rates searched for every size"):
        fitting.fit(rated(**guessed), "injection")
    assert fitting.fit(rated(**guessed), "power", judge=False).n == 24
    assert fitting.fit(rated([0.001, 0.002, 0.002], [True] * 3), "injection", judge=False).n == 24
    assert fitting.fit(rated([0.001] * 3, [False] * 3), "injection", judge=False).n == 24
