"""The declared tests of claims, on small tables with results by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from harness.analysis.claims.contrasts import Change, Contrast, EqualGain, GainContrast
from harness.analysis.claims.order import Order
from harness.analysis.claims.prediction import Prediction
from harness.core.errors import ConfigError
from tests.support.small_tables import finding, tables

PAIR = {"model": "m", "first_cell": "gold,gold-low", "second_cell": "own", "difference": 0.30, "low": 0.20, "high": 0.40, "p_value": 0.001}
PAIR |= {"first": "gold answers", "second": "own answers", "target_suite": "new", "extrapolated": 0.5}


def learned(*arms: str) -> list[dict[str, Any]]:
    """Return findings of arms that are known to gain on the target."""
    return [finding(arm, 0.3, suite="new", role="target", verdict="gained") for arm in arms]


def test_the_change_of_an_arm_is_its_loss() -> None:
    """A delta of -0.10 ± 0.02 at 4 degrees of freedom: t(0.975, 4) = 2.776."""
    found = tables([finding("gold", -0.10, 0.02)])
    (line,) = Change(contrasts=(Contrast(arm="gold", suite="probe", expect="more"),)).lines(found, 0.02)
    assert (line.what, line.where, line.metric, line.is_share) == ("loss on probe of gold", "m, full", "acc", True)
    assert [line.estimate, line.low, line.high] == pytest.approx([0.10, 0.10 - 2.776 * 0.02, 0.10 + 2.776 * 0.02], abs=1e-4)
    assert line.p_value == pytest.approx(0.0075, abs=1e-4)  # of t = 5


def test_the_difference_of_two_arms_is_welch_s() -> None:
    """Variances 0.0004 + 0.000225: standard error 0.025, 7.42 degrees of freedom, t 2.338."""
    found = tables([finding("gold", -0.10, 0.02), finding("own", -0.04, 0.015)])
    (line,) = Change(contrasts=(Contrast(arm="gold", than="own", suite="probe", expect="more"),)).lines(found, 0.02)
    assert [line.estimate, line.low, line.high] == pytest.approx([0.06, 0.06 - 2.338 * 0.025, 0.06 + 2.338 * 0.025], abs=1e-4)
    (half,) = Change(contrasts=(Contrast(arm="gold", than="own", times=0.5, suite="probe", expect="more"),)).lines(found, 0.02)
    assert half.estimate == pytest.approx(0.08)
    assert half.high - half.estimate == pytest.approx(2.57 * math.sqrt(0.0004 + 0.25 * 0.000225), rel=0.05)


def test_intervals_end_where_a_share_ends_and_rates_of_an_arm_are_told_apart() -> None:
    """From 1.0 a loss is 0 to 1; from 0.5 and 0.9, it is -0.5 to 0.5 and -0.1 to 0.9."""
    rows = [finding("a", -0.9, 0.5, cell=f"a-{rate}", learning_rate=rate) for rate in (0.001, 0.002)]
    lines = Change(contrasts=(Contrast(arm="a", suite="probe", expect="more"),)).lines(tables(rows), 0.02)
    assert [(line.where, line.low, line.high) for line in lines] == [("m, full, rate 0.001", 0.0, 1.0), ("m, full, rate 0.002", 0.0, 1.0)]
    pair = tables([finding("a", -0.1, 9.0, before=0.5), finding("b", -0.1, 9.0, before=0.9)])
    (line,) = Change(contrasts=(Contrast(arm="a", than="b", suite="probe", expect="more"),)).lines(pair, 0.02)
    assert [line.low, line.high] == pytest.approx([-0.5 - 0.9, 0.5 + 0.1])


def test_arms_are_compared_within_a_model_and_a_tuning_where_both_have_them() -> None:
    """Of losses, lower is better; an arm that is missing leaves a line with a reason."""
    more: dict[str, Any] = {"higher_is_better": False, "metric": "nats_per_token", "chance": None}
    rows = [finding(arm, 0.1, cell=f"{arm}-{tuning}", tuning=tuning, **more) for arm in "ab" for tuning in ("full", "lora")]
    lines = Change(contrasts=(Contrast(arm="a", than="b", suite="probe", expect="alike"),)).lines(tables(rows), 0.02)
    assert [(line.where, line.estimate, line.is_share) for line in lines] == [("m, full", 0.0, False), ("m, lora", 0.0, False)]
    (missing,) = Change(contrasts=(Contrast(arm="a", suite="other", expect="more"),)).lines(tables(rows), 0.02)
    assert (missing.note, math.isnan(missing.estimate)) == ("no such arm or suite in the results", True)


def test_equal_gain_reads_the_pair_in_either_order() -> None:
    """Gold is the first method of two rates; own minus gold has the other sign."""
    rows = [finding("gold", -0.5), finding("gold-low", -0.4), finding("own", -0.1), *learned("gold-low", "own")]
    found = tables(rows, [PAIR])
    own, gold, absent = EqualGain(
        contrasts=(
            GainContrast(arm="own", than="gold", expect="less"),
            GainContrast(arm="gold", than="own", expect="more"),
            GainContrast(arm="own", than="other", expect="less"),
        )
    ).lines(found, 0.02)
    assert [own.estimate, own.low, own.high, own.where] == [-0.30, -0.40, -0.20, "m, full"]
    assert [gold.estimate, gold.low, gold.high] == [0.30, 0.20, 0.40]
    assert absent.note == "no such pair in the results"


@pytest.mark.parametrize(
    ("who", "extrapolated", "note"),
    [
        (["gold"], 0.0, "own answers: no gain shown"),
        (["own"], 0.0, "gold answers: no gain shown"),
        (["gold", "own"], 0.6, "most of the gains are below the smallest volume"),
    ],
)
def test_methods_without_a_gain_or_a_volume_in_most_of_the_range_are_not_compared(who: list[str], extrapolated: float, note: str) -> None:
    """As on the page of an experiment; the reason replaces the note of the comparison itself."""
    rows = [finding("gold", -0.5), finding("own", -0.1), *learned(*who)]
    pair = PAIR | {"extrapolated": extrapolated, "note": "its own note"}
    (line,) = EqualGain(contrasts=(GainContrast(arm="own", than="gold", expect="less"),)).lines(tables(rows, [pair]), 0.02)
    assert line.note == note
    assert math.isnan(line.estimate)


@pytest.mark.parametrize(
    ("losses", "rho", "p_value"), [((1, 2, 3, 4, 5), 1.0, 2 / 120), ((2, 1, 3, 4, 5), 0.9, 10 / 120), ((5, 4, 3, 2, 1), -1.0, 2 / 120)]
)
def test_an_order_of_five_cells_counts_all_permutations(losses: tuple[int, ...], rho: float, p_value: float) -> None:
    """Of 120 orders, 2 have |rho| = 1, and 8 more have 0.9."""
    rows = [finding(f"a{i}", -loss / 10, 1e-6, target_nats=float(i)) for i, loss in enumerate(losses)]
    (line,) = Order(x="target_nats", suite="probe", expect="more").lines(tables(rows), 0.0)
    assert [line.estimate, line.low, line.high, line.p_value] == pytest.approx([rho, rho, rho, p_value])
    assert line.note == "5 cells: a0, a1, a2, a3, a4"


def test_an_order_s_interval_grows_with_the_errors_of_the_cells() -> None:
    """Errors larger than the differences leave no order; four cells are too few."""
    rows = [finding(f"a{i}", -i / 10, 0.5, target_nats=float(i)) for i in range(5)]
    (line,) = Order(x="target_nats", suite="probe", expect="more").lines(tables(rows), 0.0)
    assert line.low < 0 < line.high
    assert line.p_value > 0.3
    (few,) = Order(x="target_nats", suite="probe", expect="more").lines(tables(rows[:4]), 0.0)
    assert few.note == "4 cells; at least 5 are needed"


def test_an_order_takes_values_of_a_suite_and_differences_at_equal_gain() -> None:
    """The reference arm differs from itself by 0; arms without a pair are named."""
    names = ["gold", "a", "b", "c", "d", "e"]
    rows = [finding(name, 0.0) for name in names]
    rows += [finding(name, 0.0, suite="drift", after=float(i)) for i, name in enumerate(names)]
    rows += learned(*names)
    pairs = [
        PAIR | {"first_cell": name, "second_cell": "gold", "difference": 0.1 * (i + 1), "stderr": 1e-6, "df": 4.0}
        for i, name in enumerate("abcd")
    ]
    (line,) = Order(x="value of drift", suite="probe", than="gold", expect="more").lines(tables(rows, pairs), 0.0)
    assert line.estimate == pytest.approx(1.0)
    assert line.note == "5 cells: gold, a, b, c, d; without a number: e"


def test_an_order_of_fg_takes_its_column_and_the_error_relative_to_before() -> None:
    """FG grows while the loss at the last volume falls; 0.001 of a score of 0.5 is 0.2 percent."""
    rows = [finding(f"a{i}", -0.5 + i / 10, 0.001, target_nats=float(i), before=0.5, fg_over_volumes=10.0 * i) for i in range(5)]
    (line,) = Order(x="target_nats", suite="probe", fg=True, expect="more").lines(tables(rows), 0.0)
    assert line.what == "rank correlation of target_nats with FG on probe"
    assert [line.estimate, line.low] == [1.0, 1.0]
    near = [finding(f"a{i}", -0.5, 0.01, target_nats=float(i), before=0.5, fg_over_volumes=1.0 * i) for i in range(5)]
    assert Order(x="target_nats", suite="probe", fg=True, expect="more").lines(tables(near), 0.0)[0].low < 0.9


def test_a_law_is_compared_with_baselines_at_held_out_arms() -> None:
    """Forgetting is a tenth of the loss exactly.

    Errors of the mean of the others: 0.2, 1/15, 1/15, 0.2. Of the nearest arms: 0.1, 0, 0, 0.1.
    """
    rows = []
    for i, name in enumerate("abcd"):
        rows.append(finding(name, -0.1 * (i + 1), params_trainable=2**i, steps=1.0))
        rows.append(finding(name, 0.0, suite="learned", role="target", after=float(i + 1)))
    mean, nearest = Prediction(laws=("linear",), suite="probe", loss="learned").lines(tables(rows), 0.002)
    assert mean.what == "error of linear at held-out arms minus that of the mean of the other arms, on probe"
    assert mean.estimate == pytest.approx(-2 / 15, abs=1e-6)
    assert mean.high - mean.estimate == pytest.approx(3.182 * 0.0770 / 2, abs=1e-3)
    assert nearest.estimate == pytest.approx(-0.05, abs=1e-6)
    assert "of the baseline 0.05, over 4 held-out arms" in nearest.note
    (few,) = Prediction(laws=("linear",), suite="probe", loss="learned", arms=("a", "b")).lines(tables(rows), 0.002)
    assert few.note == "2 arms with all of finetune_loss; at least 3 are needed"


def test_wrong_settings_are_rejected() -> None:
    """An unknown column, label or law."""
    with pytest.raises(ConfigError, match="x: got 'nats'"):
        Order(x="nats", suite="probe", expect="more")
    with pytest.raises(ConfigError, match="within: got 'seed'"):
        Order(x="target_nats", suite="probe", expect="more", within=("seed",))
    with pytest.raises(ConfigError, match="laws: got 'kl'"):
        Prediction(laws=("kl",), suite="probe", loss="learned")
    with pytest.raises(ConfigError, match="contrasts: got 0"):
        EqualGain(contrasts=())
