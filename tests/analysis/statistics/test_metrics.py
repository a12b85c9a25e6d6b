from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.statistics import metrics
from harness.analysis.statistics.metrics import Outcomes
from harness.core.seeds import stream


def test_a_change_keeps_the_sign_of_its_metric() -> None:
    """0.8 to 0.6 is −25 %; a loss of 2.0 to 2.5 is +25 %."""
    assert metrics.absolute_change(0.8, 0.6) == pytest.approx(-0.2)
    assert metrics.relative_change(0.8, 0.6) == pytest.approx(-0.25)
    assert metrics.relative_change(2.0, 2.5) == pytest.approx(0.25)
    assert metrics.relative_change(0.0, 0.5) is None


def test_a_gain_is_positive_where_it_is_better() -> None:
    """Accuracy up by 0.2 and nats down by 0.5 are both gains."""
    assert metrics.gain(0.4, 0.6, higher_is_better=True) == pytest.approx(0.2)
    assert metrics.gain(2.5, 2.0, higher_is_better=False) == pytest.approx(0.5)


def test_fg_is_the_paper_s_worked_value() -> None:
    """40, then 38, 35 and 30, is (5 + 12.5 + 25)/3."""
    assert metrics.fg_over_volumes(40, [38, 35, 30]) == pytest.approx(14.166667)
    assert metrics.fg_over_volumes(40, [30]) == pytest.approx(25.0)


def test_fg_of_a_loss_is_positive_where_it_rises() -> None:
    """2.0 nats, then 2.2 and 2.6, is (10 + 30) / 2 = 20 %."""
    assert metrics.fg_over_volumes(2.0, [2.2, 2.6], higher_is_better=False) == pytest.approx(20.0)


def test_there_is_no_fg_near_chance() -> None:
    """Nor where before is 0, or without a volume after it."""
    assert metrics.fg_over_volumes(0.27, [0.2], near=True) is None
    assert metrics.fg_over_volumes(0.0, [0.2]) is None
    assert metrics.fg_over_volumes(0.4, []) is None


@pytest.mark.parametrize(
    ("before", "stderr", "chance", "higher", "near"),
    [
        (0.30, 0.02, 0.25, True, False),
        (0.28, 0.02, 0.25, True, True),
        (0.10, 0.02, 0.25, True, True),
        (1.0, 0.0, 0.25, True, False),
        (0.9, None, 0.25, True, True),
        (6.0, 0.1, math.log(512), False, False),
        (6.2, 0.1, math.log(512), False, True),
    ],
)
def test_near_chance_is_two_standard_errors(before: float, stderr: float | None, chance: float, higher: bool, near: bool) -> None:
    """0.05 above 0.25 is 2.5 errors of 0.02; 0.03 is 1.5.

    Worse than chance counts as near. A loss is compared downwards, from ln 512 = 6.238.
    """
    assert metrics.near_chance(before, stderr, chance, higher_is_better=higher) is near


def test_random_answers_forget_nothing() -> None:
    """Random answers among four choices: F = 3/16 = F_chance, so F_true = 0.

    Of 16 items 3 are lost, 3 gained, 1 kept and 9 never right.
    """
    outcomes = Outcomes(lost=3, gained=3, kept=1, neither=9, guessing=1 / 3)
    assert metrics.samplewise_forgetting(3, 16) == 0.1875
    assert metrics.backward_transfer(3, 16) == 0.1875
    assert metrics.forgetting_true([outcomes]).value == pytest.approx(0.0)
    assert metrics.transfer_true([outcomes]).value == pytest.approx(0.0)


def test_two_random_binary_classifiers_forget_nothing() -> None:
    """With two choices, guessing gives F = 0.25."""
    assert metrics.forgetting_true([Outcomes(25, 25, 25, 25, guessing=1.0)]).value == pytest.approx(0.0)


def test_the_chance_term_is_the_paper_s_for_equal_numbers_of_choices() -> None:
    """0.8 to 0.7 with four choices: 0.10 − 0.2 · 0.3 / 3 = 0.08.

    10 of 100 items are lost and none gained, so BT_true = −0.02.
    """
    outcomes = Outcomes(lost=10, gained=0, kept=70, neither=20, guessing=metrics.guessing(np.full(100, 0.25)) or 0.0)
    assert metrics.forgetting_true([outcomes]).value == pytest.approx(0.08)
    assert metrics.transfer_true([outcomes]).value == pytest.approx(-0.02)


def test_items_with_different_numbers_of_choices() -> None:
    """Half the items have two choices and half four, so g = 0.56.

    c̄ = 3/8 and mean c(1 − c) = (1/4 + 3/16)/2 = 7/32, so g = (7/32) / (25/64). If nothing is known,
    F = 7/32 and both accuracies are 3/8: of 64 items 14 lost, 14 gained, 10 kept, 26 neither.
    """
    chances = np.array([0.5, 0.25] * 32)
    assert metrics.guessing(chances) == pytest.approx(0.56)
    assert metrics.forgetting_true([Outcomes(14, 14, 10, 26, guessing=0.56)]).value == pytest.approx(0.0)


def test_items_that_cannot_be_guessed_are_not_adjusted() -> None:
    """A chance of 0 leaves F unchanged.

    Without a level, or with one of 1, there is no adjusted value.
    """
    assert metrics.guessing(np.zeros(4)) == 0.0
    assert metrics.forgetting_true([Outcomes(2, 1, 4, 3, guessing=0.0)]).value == pytest.approx(0.2)
    assert metrics.guessing(np.array([0.25, math.nan])) is None
    assert metrics.guessing(np.ones(3)) is None


def test_a_suite_is_the_mean_of_its_tasks() -> None:
    """0.08 and 0.0 have equal weight, for any numbers of items."""
    tasks = [Outcomes(10, 0, 70, 20, guessing=1 / 3), Outcomes(3, 3, 1, 9, guessing=1 / 3)]
    assert metrics.forgetting_true(tasks).value == pytest.approx(0.04)


def test_ceilings_are_what_is_known_before() -> None:
    """At 0.7 with four choices, 0.6 can be lost and 0.4 learned.

    (4 · 0.7 − 1) / 3 = 0.6. Below chance nothing can be lost.
    """
    assert metrics.forgetting_ceiling(0.7, 0.25) == pytest.approx(0.6)
    assert metrics.transfer_ceiling(0.7, 0.25) == pytest.approx(0.4)
    assert metrics.forgetting_ceiling(0.2, 0.25) == 0.0


def test_progress_lost_is_a_share_of_the_way_from_guessing() -> None:
    """A loss that fell to 3 and rises to 4 loses 1 / 3.238.

    Guessing is ln 512 = 6.238. Further progress is negative; above chance there was no progress.
    """
    assert metrics.progress_lost(3.0, 4.0, math.log(512)) == pytest.approx(1 / (math.log(512) - 3))
    assert metrics.progress_lost(3.0, 2.5, 6.0) == pytest.approx(-0.5 / 3)
    assert metrics.progress_lost(7.0, 8.0, 6.0) is None


def test_the_interval_is_the_delta_method_s_after_adding_an_item_to_each_outcome() -> None:
    """It agrees with a multinomial covariance and a gradient by differences.

    F = p1 − g (p2 + p4)(p1 + p4).
    """
    counts, g, n = np.array([5.0, 2.0, 20.0, 13.0]), 1 / 3, 40
    shares = (counts + 1) / (n + 4)

    def adjusted(p: np.ndarray) -> float:
        return float(p[0] - g * (p[1] + p[3]) * (p[0] + p[3]))

    step = 1e-6 * np.eye(4)
    gradient = np.array([(adjusted(shares + one) - adjusted(shares - one)) / 2e-6 for one in step])
    covariance = (np.diag(shares) - np.outer(shares, shares)) / (n + 4)
    half = 1.959964 * math.sqrt(gradient @ covariance @ gradient)
    found = metrics.forgetting_true([Outcomes(5, 2, 20, 13, guessing=g)])
    assert (found.low, found.high) == pytest.approx((adjusted(shares) - half, adjusted(shares) + half), rel=1e-5)
    turned = metrics.transfer_true([Outcomes(2, 5, 20, 13, guessing=g)])
    assert turned == pytest.approx(found)


def test_the_interval_has_width_where_no_item_changed() -> None:
    """It also has width where every item is right, and it contains the value."""
    for outcomes in [Outcomes(0, 0, 50, 0, guessing=1 / 3), Outcomes(0, 0, 30, 20, guessing=1 / 3), Outcomes(3, 0, 0, 0, guessing=1 / 3)]:
        found = metrics.forgetting_true([outcomes])
        assert found.low <= found.value <= found.high
        assert found.high - found.low > 0.05


def test_clusters_widen_the_interval() -> None:
    """A variance four times as large doubles the width of the interval.

    With too few clusters there is no interval.
    """
    alone = metrics.forgetting_true([Outcomes(10, 8, 50, 32, guessing=1 / 3)])
    wide = metrics.forgetting_true([Outcomes(10, 8, 50, 32, guessing=1 / 3, inflation=4.0)])
    assert wide.high - wide.low == pytest.approx(2 * (alone.high - alone.low))
    unknown = metrics.forgetting_true([Outcomes(10, 8, 50, 32, guessing=1 / 3, inflation=math.nan)])
    assert unknown.value == alone.value
    assert math.isnan(unknown.low)
    assert math.isnan(unknown.high)


@pytest.mark.parametrize("tasks", [1, 5])
@pytest.mark.parametrize(
    ("n", "choices", "before", "after"), [(50, 4, 0.5, 0.4), (200, 2, 0.9, 0.85), (200, 4, 0.95, 0.9), (50, 4, 0.0, 0.0)]
)
def test_the_interval_covers_what_was_planted(tasks: int, n: int, choices: int, before: float, after: float) -> None:
    """95 % intervals cover at least 91 % of 600 draws.

    Items known before are partly forgotten, and the others are guessed each time.
    """
    c, g, draws = 1 / choices, 1 / (choices - 1), stream(0, "test", str(n), str(choices), str(before), str(tasks))
    gone, never = before - after, 1 - before
    lost = gone * (1 - c) + never * c * (1 - c)
    shares = [lost, never * c * (1 - c), after + gone * c + never * c * c, never * (1 - c) ** 2]
    hits = 0
    for _ in range(600):
        counts = draws.multinomial(n, shares, size=tasks).tolist()
        found = metrics.forgetting_true([Outcomes(lost, gained, kept, neither, g) for lost, gained, kept, neither in counts])
        hits += found.low <= shares[0] - g * (shares[1] + shares[3]) * (shares[0] + shares[3]) <= found.high
    assert hits >= 0.91 * 600
