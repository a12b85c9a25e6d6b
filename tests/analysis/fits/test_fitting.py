from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.analysis.fits import estimate, fitting, jackknife, laws, solver
from harness.core.errors import AnalysisError
from harness.core.seeds import stream

VOLUMES = [64, 128, 256, 512, 1024]
SIZES = [145_536, 350_000, 801_384, 2_100_000]

TRUE: dict[str, dict[str, float]] = {
    "power": {"c": 0.006, "k": 0.5},
    "hill": {"s": 0.4, "v50": 200.0, "h": 1.2},
    "saturating_power": {"s": 0.4, "v0": 30.0, "beta": 0.6},
    "linear": {"slope": -0.4, "intercept": 0.9},
    "kl": {"a": 0.3, "b": -0.02},
    "shifted_power": {"s": 0.8, "a": 20_000.0, "alpha": 0.5, "b": 4.0, "beta": 0.7},
    "injection": {"A": 0.4, "b": 0.4, "B": 829.0, "a": 0.3, "E": 0.01},
}

FORMULAS: dict[str, Callable[..., Any]] = {
    "power": lambda at, c, k: c * at["volume"] ** k,
    "hill": lambda at, s, v50, h: s * at["volume"] ** h / (at["volume"] ** h + v50**h),
    "saturating_power": lambda at, s, v0, beta: (s - s * (v0 / at["volume"]) ** beta) * (at["volume"] > v0),
    "linear": lambda at, slope, intercept: slope * at["finetune_loss"] + intercept,
    "kl": lambda at, a, b: a * at["kl"] + b * at["kl"] ** 2,
    "shifted_power": lambda at, s, a, alpha, b, beta: s - (a / at["params_trainable"]) ** alpha - (b / at["steps"]) ** beta,
    "injection": lambda at, A, b, B, a, E: A * at["train_tokens"] ** b / ((1 + B * at["inject_fraction"]) * at["params_total"]) ** a + E,
}


def design(*, seeds: int = 3, sizes: list[int] = SIZES, fractions: tuple[float, ...] = (0.0, 0.01, 0.05)) -> pd.DataFrame:
    """Return a sweep without its response: runs of five volumes."""
    rows = [
        {
            "run_id": f"{size}-{fraction}-{seed}",
            "volume": volume,
            "params_total": size,
            "params_trainable": size,
            "train_tokens": 40 * volume,
            "steps": volume // 8,
            "inject_fraction": fraction,
            "finetune_loss": 3.0 - 0.3 * np.log2(volume / 32) - size / 1e7,
            "kl": 0.02 * volume / 64 + size / 1e7,
        }
        for size in sizes
        for fraction in fractions
        for seed in range(seeds)
        for volume in VOLUMES
    ]
    return pd.DataFrame(rows)


def planted(law: str, **changes: Any) -> pd.DataFrame:
    at = design(**changes)
    return at.assign(forgetting=FORMULAS[law](at, **TRUE[law]))


def noisy(points: pd.DataFrame, seed: int, *, runs: float, rows: float) -> pd.DataFrame:
    draw = stream(seed, "test")
    codes, names = pd.factorize(points["run_id"])
    moved = runs * draw.normal(size=len(names))[codes] + rows * draw.normal(size=len(points))
    return points.assign(forgetting=points["forgetting"] + moved)


def values(fit: fitting.Fit) -> dict[str, float | None]:
    return {name: one.value for name, one in fit.parameters.items()}


@pytest.mark.parametrize("law", sorted(TRUE))
def test_exact_data_give_their_parameters(law: str) -> None:
    """Parameters agree to 1e-4, R² is 1, and intervals contain the truth."""
    fit = fitting.fit(planted(law), law)
    assert values(fit) == pytest.approx(TRUE[law], rel=1e-4)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.held_out_error == pytest.approx(0.0, abs=1e-4)
    assert fit.verdict.startswith("supported")
    assert (fit.n, fit.runs, fit.level) == (180, 36, 0.9)
    for name, one in fit.parameters.items():
        assert one.low is not None
        assert one.high is not None
        assert one.low - 1e-4 * abs(TRUE[law][name]) <= TRUE[law][name] <= one.high + 1e-4 * abs(TRUE[law][name])


@pytest.mark.parametrize("law", laws.names())
def test_shown_parameters_give_the_formula(law: str) -> None:
    """The fitted curve on scaled columns equals the formula with the shown parameters."""
    chosen, at = laws.named(law), design()
    fitted = {term.name: np.array([[value]]) for term, value in zip(chosen.terms, [0.7, 0.4, 0.3, 0.6, 0.2], strict=False)}
    reference = {name: 3.0 + len(name) for name in sorted(chosen.positive)}
    scaled = {name: at[name].to_numpy(dtype=float) / reference.get(name, 1.0) for name in chosen.columns}
    shown = {name: float(value[0, 0]) for name, value in (fitted | chosen.shown(fitted, reference)).items()}
    assert chosen.curve(fitted, scaled)[0] == pytest.approx(FORMULAS[law](at, **shown).to_numpy(), rel=1e-12)


@pytest.mark.parametrize("law", laws.names())
def test_every_law_is_described(law: str) -> None:
    """It has a name, source and units, and its starts are within its bounds."""
    chosen = laws.named(law)
    assert chosen.name == law
    assert chosen.source
    assert chosen.positive <= set(chosen.columns) == set(FORMULAS_COLUMNS[law])
    for term in chosen.terms:
        assert term.unit
        assert term.linear or term.starts
        assert all(term.low < start < term.high for start in term.starts)


FORMULAS_COLUMNS = {
    "power": ["volume"],
    "hill": ["volume"],
    "saturating_power": ["volume"],
    "linear": ["finetune_loss"],
    "kl": ["kl"],
    "shifted_power": ["params_trainable", "steps"],
    "injection": ["train_tokens", "params_total", "inject_fraction"],
}


def test_linear_is_least_squares_where_nothing_stands_out() -> None:
    """On small regular residuals the soft-L1 fit is NumPy's straight line."""
    at = design(seeds=1, sizes=[145_536, 350_000], fractions=(0.0,))
    y = 0.9 - 0.4 * at["finetune_loss"] + np.tile([1e-3, -1e-3], 5)
    fit = fitting.fit(at.assign(forgetting=y), "linear")
    slope, intercept = np.polyfit(at["finetune_loss"], y, 1)
    assert values(fit) == pytest.approx({"slope": slope, "intercept": intercept}, rel=1e-3)
    residual = y - (slope * at["finetune_loss"] + intercept)
    assert fit.r2 == pytest.approx(1 - np.sum(residual**2) / np.sum((y - y.mean()) ** 2), abs=1e-5)


def test_an_outlier_moves_little() -> None:
    """One point of 60 that is off by 1 hardly changes the fit."""
    points = noisy(planted("power", fractions=(0.0,)), 1, runs=0.0, rows=0.002)
    points = points.assign(forgetting=points["forgetting"] + (points.index == 59))
    fit = fitting.fit(points, "power")
    assert values(fit)["k"] == pytest.approx(0.5, abs=0.02)


def test_negative_forgetting_is_kept() -> None:
    """If the model gets better, c is below 0 with its interval."""
    points = planted("power", sizes=SIZES[:1], fractions=(0.0,))
    fit = fitting.fit(noisy(points.assign(forgetting=-points["forgetting"]), 2, runs=0.0, rows=0.003), "power")
    assert fit.n == 15
    c = fit.parameters["c"]
    assert c.value == pytest.approx(-0.006, rel=0.3)
    assert c.high is not None
    assert c.high < 0


def test_small_and_negative_rows_count_as_much_as_others() -> None:
    """A line through points around 0 is exact, which needs those below 0."""
    at = design(seeds=1, sizes=SIZES[:1], fractions=(0.0,))
    x = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    fit = fitting.fit(at.assign(finetune_loss=x, forgetting=x - 1.5), "linear")
    assert values(fit) == pytest.approx({"slope": 1.0, "intercept": -1.5}, rel=1e-6)


def test_rows_repeated_within_a_run_add_nothing() -> None:
    """Repeating each row four times does not change the interval."""
    points = noisy(planted("power", sizes=SIZES[:1], fractions=(0.0,)), 3, runs=0.02, rows=0.01)
    once, often = fitting.fit(points, "power"), fitting.fit(pd.concat([points] * 4), "power")
    assert (once.n, often.n, often.runs) == (15, 60, 3)
    for name in ("c", "k"):
        first, second = once.parameters[name], often.parameters[name]
        assert (second.low, second.high) == pytest.approx((first.low, first.high), rel=0.1)


def test_rows_without_runs_count_one_by_one() -> None:
    """Without run ids each row is a cluster, which a note states.

    The band is then too narrow.
    """
    points = noisy(planted("linear", sizes=SIZES[:1], fractions=(0.0,)), 4, runs=0.05, rows=0.001)
    together, alone = fitting.fit(points, "linear"), fitting.fit(points.drop(columns="run_id"), "linear")
    assert (together.runs, alone.runs) == (3, 15)
    assert any("no run_id" in note for note in alone.notes)
    middle = points[["finetune_loss"]].mean().to_frame().T
    wide, narrow = (float((band["high"] - band["low"]).iloc[0]) for band in (together.band(middle), alone.band(middle)))
    assert narrow < 0.7 * wide


def test_standard_errors_are_weights() -> None:
    """A noisy half with large standard errors hardly changes a line through an exact half.

    Without standard errors it does.
    """
    at = design(seeds=1, sizes=SIZES[:2], fractions=(0.0,))
    wrong = np.r_[np.zeros(5), np.linspace(-0.5, 0.5, 5)]
    points = at.assign(forgetting=0.9 - 0.4 * at["finetune_loss"] + wrong, stderr=np.r_[np.full(5, 0.001), np.full(5, 0.3)])
    assert values(fitting.fit(points, "linear")) == pytest.approx(TRUE["linear"], rel=0.02)
    unweighted = values(fitting.fit(points.drop(columns="stderr"), "linear"))
    assert unweighted["slope"] != pytest.approx(TRUE["linear"]["slope"], rel=0.02)


def test_a_standard_error_of_zero_does_not_dominate() -> None:
    """One point with a standard error of 0 counts about as much as others."""
    points = noisy(planted("power", sizes=SIZES[:1], fractions=(0.0,)), 5, runs=0.0, rows=0.01).assign(stderr=0.001)
    changed = points.assign(stderr=np.r_[0.0, np.full(14, 0.001)])
    assert values(fitting.fit(changed, "power")) == pytest.approx(values(fitting.fit(points, "power")), rel=0.02)


@pytest.mark.parametrize("law", ["power", "linear"])
def test_intervals_cover(law: str) -> None:
    """At least 78 % of the 90 % intervals of 60 sweeps contain the truth.

    Over a thousand sweeps it is 85 %, as the calibration shows.
    """
    points = planted(law, seeds=5, sizes=SIZES[:1], fractions=(0.0,))
    held = []
    for seed in range(60):
        fit = fitting.fit(noisy(points, seed, runs=0.02, rows=0.01), law, judge=False)
        held += [one.low <= TRUE[law][name] <= one.high for name, one in fit.parameters.items() if one.low and one.high]
    assert len(held) == 120
    assert np.mean(held) >= 0.78


def test_a_prediction_holds_a_new_run() -> None:
    """At least 78 % of 60 prediction intervals contain a new run's point.

    The point is at twice the largest volume.
    """
    points, held, draw = planted("power", seeds=5, sizes=SIZES[:1], fractions=(0.0,)), [], stream(9, "test")
    for seed in range(60):
        prediction = fitting.predict(fitting.fit(noisy(points, seed, runs=0.02, rows=0.01), "power", judge=False), {"volume": 2048.0})
        new = 0.006 * 2048**0.5 + 0.02 * draw.normal() + 0.01 * draw.normal()
        assert prediction.low is not None
        assert prediction.high is not None
        held.append(prediction.low <= new <= prediction.high)
    assert np.mean(held) >= 0.78


LINE = pd.DataFrame({"finetune_loss": [0.0, 1.0] * 3, "run_id": list("aabbcc"), "forgetting": [0.5, 0.1] * 3})


def test_runs_that_agree_share_the_error_of_their_items() -> None:
    """The intercept has the error of its point, the slope √2 of it."""
    fit = fitting.fit(LINE.assign(stderr=0.03), "linear")
    z = 1.6448536
    for name, value, error in [("intercept", 0.5, 0.03), ("slope", -0.4, 0.03 * 2**0.5)]:
        one = fit.parameters[name]
        assert (one.low, one.high) == pytest.approx((value - z * error, value + z * error), rel=1e-5)
    assert any("runs and, by stderr, items, which count as shared by all runs" in note for note in fit.notes)
    alone = fitting.fit(LINE, "linear")
    assert any("intervals are over runs alone: no stderr" in note for note in alone.notes)
    assert alone.parameters["intercept"].high == pytest.approx(0.5)


def test_the_band_and_predictions_hold_items_too() -> None:
    """Of equal runs with stderr 0.03, half widths are 1.645 · 0.03.

    Between the points, a fully shared error is the largest.
    """
    fit = fitting.fit(LINE.assign(stderr=0.03), "linear")
    found = fitting.predict(fit, {"finetune_loss": 0.0})
    assert (found.low, found.high) == pytest.approx((0.5 - 1.6448536 * 0.03, 0.5 + 1.6448536 * 0.03), rel=1e-5)
    band = fit.band(pd.DataFrame({"finetune_loss": [0.0, 0.5]}))
    assert (band["high"] - band["value"]).tolist() == pytest.approx([1.6448536 * 0.03] * 2, rel=1e-5)


def test_items_and_runs_add_up() -> None:
    """Half the width is √((t · 0.02/√3)² + (z · 0.03)²), over runs and items.

    The runs are ±0.02 apart at both points.
    """
    apart = LINE["forgetting"] + LINE["run_id"].map({"a": -0.02, "b": 0.0, "c": 0.02})
    fit = fitting.fit(LINE.assign(forgetting=apart, stderr=0.03), "linear")
    one = fit.parameters["intercept"]
    assert one.high is not None
    assert one.high - 0.5 == pytest.approx(np.hypot(2.91998558 * 0.02 / 3**0.5, 1.6448536 * 0.03), rel=1e-2)


@pytest.mark.parametrize("shared", [0.0, 0.7, 1.0])
def test_intervals_cover_where_runs_share_their_items(shared: float) -> None:
    """At least 78 % of the intervals of 60 sweeps contain the truth.

    Each sweep has five runs on the same items, without other differences between runs.
    """
    points, held = planted("power", seeds=5, sizes=SIZES[:1], fractions=(0.0,)), []
    volume = np.tile(np.arange(5), 5)
    for seed in range(60):
        draw = stream(seed, "test", "items")
        common = np.sqrt(0.5) * (draw.normal() + draw.normal(size=5)[volume])
        moved = 0.02 * (np.sqrt(shared) * common + np.sqrt(1 - shared) * draw.normal(size=25))
        fit = fitting.fit(points.assign(forgetting=points["forgetting"] + moved, stderr=0.02), "power", judge=False)
        held += [one.low <= TRUE["power"][name] <= one.high for name, one in fit.parameters.items() if one.low and one.high]
    assert len(held) >= 118
    assert np.mean(held) >= 0.78


def test_influence_is_the_derivative_by_a_point() -> None:
    """A small change of a point changes the refitted parameters by the derivative."""
    points = noisy(planted("power", sizes=SIZES[:1], fractions=(0.0,)), 3, runs=0.0, rows=0.01)
    found = estimate.Points({"volume": points["volume"].to_numpy(float)}, points["forgetting"].to_numpy(), np.full(15, 0.01), np.arange(15))
    solution = estimate.best(estimate.build(laws.named("power"), found, {}), found)
    influence = solver.influence(solution.problem, solution.theta)
    for place in (0, 7, 14):
        moved = found.response + 1e-4 * (np.arange(15) == place)
        problem = dataclasses.replace(solution.problem, response=moved)
        again = solver.solve(problem, solution.theta[None], np.ones((1, 15))).theta[0]
        assert (again - solution.theta) / 1e-4 == pytest.approx(influence[:, place], rel=0.05, abs=0.02)


def test_constants_are_seldom_taken_for_a_law() -> None:
    """Of 100 constants with five points, at most 12 support a line; 5 are expected."""
    at, draw = design(seeds=1, sizes=SIZES[:1], fractions=(0.0,)).assign(run_id=range(5)), stream(0, "test", "constant")
    fitted = [fitting.fit(at.assign(forgetting=0.05 + 0.01 * draw.normal(size=5)), "linear").verdict for _ in range(100)]
    assert sum(verdict.startswith("supported") for verdict in fitted) <= 12


def test_a_well_determined_zero_is_not_called_wide() -> None:
    """A slope of 0 ± 0.001 is determined; one that allows any curve is not."""
    at = design(seeds=3, sizes=SIZES[:1], fractions=(0.0,)).assign(forgetting=0.05)
    flat = fitting.fit(noisy(at, 2, runs=1e-4, rows=1e-4), "linear")
    assert flat.parameters["slope"].low is not None
    assert flat.parameters["slope"].low < 0 < (flat.parameters["slope"].high or 0.0)
    assert not any("hardly determined" in note for note in flat.notes)
    wild = fitting.fit(noisy(at, 2, runs=0.0, rows=2.0), "linear")
    assert "intercept is hardly determined: its interval is very wide" in wild.notes


def test_large_numbers_are_rejected_or_printed_in_a_few_digits() -> None:
    """Values whose squares overflow are rejected, as are points where the curve does.

    The largest valid values give no warning and no long number.
    """
    points = planted("power", sizes=SIZES[:1], fractions=(0.0,))
    with pytest.raises(AnalysisError, match=r"column forgetting: got .*e\+297 in row 1; allowed: numbers up to 1e\+100"):
        fitting.fit(points.assign(forgetting=points["forgetting"] * 1e299), "power")
    large = fitting.fit(points.assign(forgetting=points["forgetting"] * 1e99), "power", aic=True)
    assert large.parameters["k"].value == pytest.approx(0.5)
    assert np.isfinite(large.aic or np.nan)
    found = fitting.predict(fitting.fit(points, "power"), {"volume": 1e308})
    assert found.value == pytest.approx(0.006 * 1e154, rel=1e-3)
    assert found.extrapolates == ["volume 1e308 is 9.77e304 times the largest fitted, 1,024"]
    steep = fitting.fit(points.assign(forgetting=(points["volume"] / 100.0) ** 3), "power")
    with pytest.raises(AnalysisError, match="power at volume 1e308: got a value that is not finite"):
        fitting.predict(steep, {"volume": 1e308})


@pytest.mark.parametrize("fraction", [3.0, -0.5, float("nan")])
def test_predictions_take_what_fits_take(fraction: float) -> None:
    """A share of old data outside 0 to 1 is rejected, as in the points."""
    fit = fitting.fit(planted("injection"), "injection")
    with pytest.raises(AnalysisError, match="inject_fraction: got .*; allowed: a share, 0 to 1"):
        fitting.predict(fit, {"params_total": 1e6, "train_tokens": 1e4, "inject_fraction": fraction})


def test_noise_is_not_distinguishable_from_a_constant() -> None:
    """Points around 0.05 without a trend, and all zeros, do not support a law.

    For all zeros the exponent is not identified.
    """
    flat = planted("power", sizes=SIZES[:1], fractions=(0.0,)).assign(forgetting=0.05)
    noise = fitting.fit(noisy(flat, 6, runs=0.01, rows=0.01), "power")
    assert noise.verdict.startswith("not distinguishable from a constant")
    zeros = fitting.fit(flat.assign(forgetting=0.0), "power")
    assert zeros.verdict.startswith("not distinguishable from a constant")
    assert zeros.parameters["k"].value is None
    assert zeros.r2 is None


def test_a_simpler_law_that_fits_as_well_is_named() -> None:
    """Proportional forgetting has k = 1 in its verdict, which is inside the interval of k."""
    points = planted("power", sizes=SIZES[:1], fractions=(0.0,))
    fit = fitting.fit(noisy(points.assign(forgetting=1e-4 * points["volume"]), 8, runs=0.0, rows=0.001), "power", aic=True)
    assert fit.aic is not None
    assert fit.alternatives["c * volume (k = 1)"] < fit.aic < fit.alternatives["constant"]
    assert fit.verdict.endswith("; c * volume (k = 1) is not excluded")


def test_a_fit_that_did_not_converge_has_that_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is stopped after one step."""
    monkeypatch.setattr(solver, "MAX_STEPS", 1)
    monkeypatch.setattr(estimate, "_ROUNDS", 1)
    assert fitting.fit(noisy(planted("injection"), 1, runs=0.01, rows=0.01), "injection").verdict.startswith("not converged")


def test_nothing_injected_leaves_b_open() -> None:
    """With inject_fraction 0 everywhere, B is null with a note, and the others are found."""
    fit = fitting.fit(planted("injection", fractions=(0.0,)), "injection")
    assert fit.parameters["B"] == fitting.Parameter(None, None, None, "1 / share")
    assert any("B is not identified" in note for note in fit.notes)
    others = {name: value for name, value in TRUE["injection"].items() if name != "B"}
    assert {name: value for name, value in values(fit).items() if name != "B"} == pytest.approx(others, rel=1e-4)


def test_held_out_points_are_predicted() -> None:
    """Errors there are those of a line through the other points."""
    at = design(seeds=1, sizes=SIZES[:3], fractions=(0.0,))
    points = at.assign(forgetting=0.9 - 0.4 * at["finetune_loss"] + 0.05 * (at["volume"] == 1024))
    fit = fitting.fit(points, "linear")
    assert fit.held_out["largest volume"] == pytest.approx(0.05)
    there = points[points["volume"] == 1024]["forgetting"].abs().mean()
    assert fit.held_out["largest volume, share of the response"] == pytest.approx(0.05 / there)
    assert fit.held_out_error == max(fit.held_out["largest volume"], fit.held_out["largest size"])


def test_too_few_distinct_values_are_rejected() -> None:
    """The message names the column, its number of values and the number needed."""
    points = planted("power")
    with pytest.raises(AnalysisError, match="column volume: got 1 distinct value; allowed: at least 2, for c, k"):
        fitting.fit(points[points["volume"] == 64], "power")
    with pytest.raises(AnalysisError, match="column params_trainable: got 2 distinct values; allowed: at least 3"):
        fitting.fit(planted("shifted_power", sizes=SIZES[:2]), "shifted_power")
    with pytest.raises(AnalysisError, match="column params_total: got 1 distinct value"):
        fitting.fit(planted("injection", sizes=SIZES[:1]), "injection")
    few = planted("injection", fractions=(0.0,), sizes=SIZES[:2])
    with pytest.raises(AnalysisError, match="got 3 distinct rows; allowed: at least 4"):
        fitting.fit(few[(few["volume"] == 64) | ((few["volume"] == 128) & (few["params_total"] == SIZES[0]))], "injection")


def test_one_run_has_no_interval() -> None:
    """One run gives values without intervals and a note; predictions have no interval either."""
    fit = fitting.fit(planted("power", seeds=1, sizes=SIZES[:1], fractions=(0.0,)), "power")
    assert fit.parameters["k"].value == pytest.approx(0.5)
    assert (fit.parameters["k"].low, fit.parameters["k"].high) == (None, None)
    assert any("one run" in note for note in fit.notes)
    assert fitting.predict(fit, {"volume": 2000.0}).low is None


def test_a_prediction_states_its_extrapolation() -> None:
    """Positive columns extrapolate by a factor, a loss by its distance."""
    fit = fitting.fit(planted("injection"), "injection")
    found = fitting.predict(fit, {"params_total": 1e9, "train_tokens": 256.0, "inject_fraction": 0.01})
    assert found.extrapolates == [
        "train_tokens 256 is 10 times smaller than the smallest fitted, 2,560",
        "params_total 1e9 is 476 times the largest fitted, 2,100,000",
    ]
    expected = 0.4 * 256**0.4 / ((1 + 829 * 0.01) * 1e9) ** 0.3 + 0.01
    assert found.value == pytest.approx(expected, rel=1e-4)
    line = fitting.fit(planted("linear").assign(finetune_loss=lambda at: at["finetune_loss"].clip(2.0)), "linear")
    assert fitting.predict(line, {"finetune_loss": 1.5}).extrapolates == ["finetune_loss 1.5 is 0.5 below the smallest fitted, 2"]


def test_a_prediction_names_missing_columns_and_invalid_values() -> None:
    """The message tells how to give them."""
    fit = fitting.fit(planted("injection"), "injection")
    with pytest.raises(AnalysisError, match="train_tokens=… --at inject_fraction=…"):
        fitting.predict(fit, {"params_total": 1e9})
    with pytest.raises(AnalysisError, match="params_total: got 0; allowed: a number above 0"):
        fitting.predict(fit, {"params_total": 0.0, "train_tokens": 10.0, "inject_fraction": 0.0})


def test_the_band_is_around_the_curve() -> None:
    """It has one row per place, narrower among the points than far away."""
    fit = fitting.fit(noisy(planted("power", sizes=SIZES[:1], fractions=(0.0,)), 7, runs=0.01, rows=0.01), "power")
    band = fit.band(pd.DataFrame({"volume": [256, 100_000]}))
    assert list(band.columns) == ["value", "low", "high"]
    assert (band["low"] < band["value"]).all()
    assert (band["value"] < band["high"]).all()
    width = band["high"] - band["low"]
    assert width[0] < width[1]


def test_the_same_points_give_the_same_fit() -> None:
    """Fits are deterministic; another order of rows gives nearly the same."""
    points = noisy(planted("injection"), 5, runs=0.01, rows=0.01)
    first = fitting.fit(points, "injection")
    assert fitting.as_dict(first) == fitting.as_dict(fitting.fit(points, "injection"))
    turned = fitting.fit(points.iloc[::-1], "injection")
    assert values(turned) == pytest.approx(values(first), rel=1e-4)


def test_units_do_not_matter() -> None:
    """Parameters follow a response in thousandths and volumes in millions."""
    points = noisy(planted("power", sizes=SIZES[:1], fractions=(0.0,)), 5, runs=0.01, rows=0.01)
    first = fitting.fit(points, "power")
    other = fitting.fit(points.assign(forgetting=1e3 * points["forgetting"], volume=points["volume"] / 1e6), "power")
    assert other.parameters["k"].value == pytest.approx(first.parameters["k"].value, rel=1e-5)
    assert other.parameters["k"].low == pytest.approx(first.parameters["k"].low, rel=1e-4)
    factor = 1e3 * 1e6 ** (first.parameters["k"].value or 0.0)
    assert other.parameters["c"].value == pytest.approx(factor * (first.parameters["c"].value or 0.0), rel=1e-4)


def test_as_json_there_is_no_nan() -> None:
    """The result is plain JSON and has all keys."""
    fit = fitting.fit(planted("injection", fractions=(0.0,)), "injection")
    found = json.loads(json.dumps(fitting.as_dict(fit), allow_nan=False))
    assert {"parameters", "level", "r2", "held_out_error", "aic", "verdict", "law", "n", "runs", "notes", "held_out"} < set(found)
    assert set(found["parameters"]["A"]) == {"value", "low", "high", "unit"}


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """The error of a mean is exactly s / √n."""
    x = np.array([1.0, 4.0, 2.0, 7.0])
    without = np.array([np.delete(x, i).mean() for i in range(4)])
    assert jackknife.jackknife_error(without) == pytest.approx(x.std(ddof=1) / 2)


def test_whole_runs_are_left_out_in_a_limited_number_of_groups() -> None:
    """Three runs have three refits, a thousand runs 60; each run is left out once."""
    kept = jackknife.left_out(np.array([0, 0, 1, 2, 2]))
    assert kept.tolist() == [[0, 0, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 0]]
    many = jackknife.left_out(np.repeat(np.arange(1000), 2))
    assert len(many) == 60
    assert (many == 0).sum(axis=0).tolist() == [1] * 2000


def test_the_deviance_is_that_of_a_normal_density() -> None:
    """It is −2 log of the largest multivariate normal density, found on a fine grid."""
    residual, cluster = np.array([1.0, 0.8, -0.9, -1.1]), np.array([0, 0, 1, 1])
    best = np.inf
    for own in np.geomspace(1e-3, 1.0, 120):
        for shared in np.geomspace(1e-2, 10.0, 120):
            covariance = np.eye(4) * own + shared * (cluster[:, None] == cluster[None, :])
            found = residual @ np.linalg.solve(covariance, residual) + np.linalg.slogdet(2 * np.pi * covariance)[1]
            best = min(best, found)
    deviance, variances = jackknife.deviance(residual, np.zeros(4), cluster, 1e-12)
    assert deviance == pytest.approx(best, abs=1e-2)
    assert variances == 2


def test_variance_beyond_the_standard_errors() -> None:
    """It is 0 where the errors explain the residuals.

    Without errors it is close to the residuals' variance, else to the unexplained part.
    """
    residual = stream(1, "test").normal(size=4000)
    assert solver.extra_variance(residual, np.full(4000, 1.2), 2) == 0.0
    assert solver.extra_variance(residual, np.zeros(4000), 2) == pytest.approx(1.0, rel=0.05)
    assert solver.extra_variance(residual, np.full(4000, 0.6), 2) == pytest.approx(0.64, rel=0.1)
