from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from harness.analysis.statistics import stats
from harness.analysis.statistics.stats import Stratum


def plain(values: list[float]) -> Stratum:
    return Stratum(np.array(values, dtype=float), np.ones(len(values)))


def test_mcnemar_gives_the_worked_values() -> None:
    """45 lost and 20 gained: exact p 0.00263 (Miller's worked example, recomputed)."""
    assert stats.mcnemar(45, 20) == pytest.approx(0.00263, abs=5e-6)


@pytest.mark.parametrize(("lost", "gained"), [(0, 1), (3, 3), (1, 9), (45, 20), (0, 40)])
def test_mcnemar_agrees_with_the_binomial_test(lost: int, gained: int) -> None:
    """The exact p is the two-sided binomial test's.

    The mid-p counts ties by half, summed outcome by outcome.
    """
    changed = lost + gained
    assert stats.mcnemar(lost, gained) == pytest.approx(scipy_stats.binomtest(lost, changed).pvalue)
    probabilities = {k: math.comb(changed, k) / 2**changed for k in range(changed + 1)}
    away = abs(lost - changed / 2)
    mid = sum(p * (1.0 if abs(k - changed / 2) > away else 0.5) for k, p in probabilities.items() if abs(k - changed / 2) >= away)
    assert stats.mcnemar_mid(lost, gained) == pytest.approx(mid)


def test_nothing_changed_is_no_evidence() -> None:
    """Without a change p is 1, and the interval is ± z²/(n + z²)."""
    assert stats.mcnemar(0, 0) == stats.mcnemar_mid(0, 0) == 1.0
    z = 1.959963984540054
    assert stats.difference_interval([0], [0], [50]) == pytest.approx((-(z**2) / (50 + z**2), z**2 / (50 + z**2)), abs=1e-9)


def test_the_difference_interval_is_close_to_the_worked_one_where_many_changed() -> None:
    """Of 500 items 45 lost and 20 gained is Δ = −0.05.

    Wald's interval is [−0.081, −0.019]; the ends of the score interval differ from it by less than
    0.002.
    """
    assert stats.difference_interval([45], [20], [500]) == pytest.approx((-0.081, -0.019), abs=2e-3)
    values = [-1.0] * 45 + [1.0] * 20 + [0.0] * 435
    assert stats.mean([plain(values)]) == pytest.approx(-0.05)
    assert stats.standard_error([plain(values)]) == pytest.approx(0.01598, abs=5e-6)


def score_statistic(lost: int, gained: int, n: int, delta: float) -> float:
    """Return Tango's Z by numerical maximisation of the trinomial likelihood."""

    def loss(p_lost: float) -> float:
        p_gained, p_same = p_lost + delta, 1 - 2 * p_lost - delta
        if min(p_lost, p_gained, p_same) < 0:
            return math.inf
        terms = [(lost, p_lost), (gained, p_gained), (n - lost - gained, p_same)]
        return -sum(k * math.log(max(p, 1e-300)) for k, p in terms if k)

    least, most = max(0.0, -delta), (1 - delta) / 2
    p_lost = optimize.minimize_scalar(loss, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
    p_lost = min([p_lost, least, most], key=loss)
    return (gained - lost - n * delta) / math.sqrt(n * (2 * p_lost + delta - delta**2))


@pytest.mark.parametrize(("lost", "gained", "n"), [(5, 2, 30), (0, 3, 20), (12, 2, 44), (1, 0, 14), (45, 20, 500), (3, 3, 9)])
def test_the_difference_interval_inverts_the_score_test(lost: int, gained: int, n: int) -> None:
    """At both ends the score statistic, with a numerically maximised likelihood, is ±1.96."""
    low, high = stats.difference_interval([lost], [gained], [n])
    assert score_statistic(lost, gained, n, low) == pytest.approx(1.96, abs=2e-3)
    assert score_statistic(lost, gained, n, high) == pytest.approx(-1.96, abs=2e-3)


def test_the_difference_interval_reaches_the_edge_only_where_every_item_changed() -> None:
    """All 50 lost: the interval ends at −1, and has width."""
    low, high = stats.difference_interval([50], [0], [50])
    assert low == -1.0
    assert -0.9 < high < -0.8


@pytest.mark.parametrize("n", [10, 25, 60])
@pytest.mark.parametrize(("p_lost", "p_gained"), [(0.0, 0.0), (0.02, 0.0), (0.1, 0.03), (0.3, 0.2)])
def test_the_difference_interval_covers_at_small_n(n: int, p_lost: float, p_gained: float) -> None:
    """Exact coverage, summed over all outcomes, is at least 92 %."""
    truth, covered = p_gained - p_lost, 0.0
    for lost, gained in itertools.product(range(n + 1), repeat=2):
        chance = scipy_stats.multinomial.pmf([lost, gained, n - lost - gained], n, [p_lost, p_gained, 1 - p_lost - p_gained])
        if lost + gained <= n and chance > 1e-5:
            low, high = stats.difference_interval([lost], [gained], [n])
            covered += chance * (low <= truth <= high)
    assert covered >= 0.92


def test_tasks_with_equal_counts_pool() -> None:
    """Ten tasks of the same counts are one task of ten times the items."""
    assert stats.difference_interval([3] * 10, [1] * 10, [40] * 10) == pytest.approx(stats.difference_interval([30], [10], [400]), abs=1e-7)


def test_weights_are_those_of_tasks_in_the_mean() -> None:
    """Two halves of a task, each with half its weight, are the task; equal weights are none."""
    halves = stats.difference_interval([3, 3, 2], [1, 1, 3], [20, 20, 25], weights=[2, 2, 1])
    assert halves == pytest.approx(stats.difference_interval([6, 2], [2, 3], [40, 25], weights=[4, 1]), abs=1e-7)
    assert stats.difference_interval([6, 2], [1, 3], [40, 25], weights=[7, 7]) == stats.difference_interval([6, 2], [1, 3], [40, 25])


@pytest.mark.parametrize("end", [0, 1])
def test_the_weighted_interval_inverts_the_score_test(end: int) -> None:
    """Tasks of weights 3/4 and 1/4: at the ends, with both numerically profiled, Z is ±1.96."""
    weights, tasks = (0.75, 0.25), ((6, 1, 40), (2, 3, 25))
    ends = stats.difference_interval([6, 2], [1, 3], [40, 25], weights=weights)
    fits = functools.partial(restricted, weights=weights, tasks=tasks, mean=ends[end])
    first = optimize.minimize_scalar(lambda delta: fits(delta)[0], bounds=(-0.9, 0.9), method="bounded", options={"xatol": 1e-10}).x
    estimate = sum(w * (gained - lost) / n for w, (lost, gained, n) in zip(weights, tasks, strict=True))
    assert (estimate - ends[end]) / math.sqrt(fits(first)[1]) == pytest.approx(1.96 - 3.92 * end, abs=2e-3)


def restricted(first: float, *, weights: tuple[float, float], tasks: Sequence[tuple[int, int, int]], mean: float) -> tuple[float, float]:
    """Return minus the log-likelihood, and the variance of the mean, given the first task's Δ."""
    deltas = (first, (mean - weights[0] * first) / weights[1])
    found = [restricted_task(*task, delta) for task, delta in zip(tasks, deltas, strict=True)]
    return sum(loss for loss, _ in found), sum(w**2 * variance for w, (_, variance) in zip(weights, found, strict=True))


def restricted_task(lost: int, gained: int, n: int, delta: float) -> tuple[float, float]:
    """Return minus the maximum log-likelihood of a task given Δ, and its variance there."""

    def loss(p_lost: float) -> float:
        terms = [(lost, p_lost), (gained, p_lost + delta), (n - lost - gained, 1 - 2 * p_lost - delta)]
        return -sum(k * math.log(max(p, 1e-300)) for k, p in terms)

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    if bounds[0] >= bounds[1]:
        return 1e9, math.nan
    p_lost = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return loss(p_lost), (2 * p_lost + delta - delta**2) / n


def test_the_suite_interval_keeps_tasks_apart() -> None:
    """The mean over unequal tasks is covered in at least 108 of 120 draws.

    In 1,000 draws coverage was 92.5 to 98.5 %.
    """
    generator = np.random.default_rng(3)
    sizes, p_lost, p_gained = [20, 60, 150], [0.3, 0.05, 0.0], [0.05, 0.05, 0.02]
    truth = float(np.mean(np.array(p_gained) - np.array(p_lost)))
    covered = 0
    for _ in range(120):
        draws = [generator.multinomial(n, [a, b, 1 - a - b]) for n, a, b in zip(sizes, p_lost, p_gained, strict=True)]
        low, high = stats.difference_interval([int(d[0]) for d in draws], [int(d[1]) for d in draws], sizes)
        covered += low <= truth <= high
    assert covered >= 108


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (7, 20), (20, 20)])
def test_the_interval_of_a_share_is_wilsons(successes: int, n: int) -> None:
    """The ends are those of SciPy's Wilson interval."""
    wilson = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert stats.proportion_interval([successes], [n]) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def test_a_ratio_weighs_its_items() -> None:
    """2 nats over 1 token and 3 over 3 are 5 nats over 4 tokens."""
    assert stats.mean([Stratum(np.array([2.0, 1.0]), np.array([1.0, 3.0]))]) == pytest.approx(1.25)


def test_the_error_of_a_ratio_is_the_linearised_one() -> None:
    """The error of the example is √(2 · 1.125) / 4.

    R = 1.25 and the residuals w(v − R) are ±0.75. For equal weights it is s/√n.
    """
    assert stats.standard_error([Stratum(np.array([2.0, 1.0]), np.array([1.0, 3.0]))]) == pytest.approx(math.sqrt(2 * 1.125) / 4)
    assert stats.standard_error([plain([1, 2, 4])]) == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))


def test_the_interval_of_a_mean_covers_skewed_values() -> None:
    """Bootstrap-t on 30 skewed ratio items covers 91 to 98 % of 500 draws.

    The same items give the same interval.
    """
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(500):
        weights = np.ceil(generator.gamma(4, 10, 30))
        low, high = stats.mean_interval([Stratum(generator.exponential(1.0, 30), weights)])
        covered += low <= 1.0 <= high
    assert 0.91 <= covered / 500 <= 0.98
    items = [Stratum(generator.normal(size=20), np.ones(20))]
    assert stats.mean_interval(items) == stats.mean_interval(items)


def test_the_interval_of_a_mean_falls_back_to_t_where_few_items_differ() -> None:
    """Two of 40 items changed: the t interval with 39 degrees of freedom."""
    values = [-0.5, -0.5] + [0.0] * 38
    expected = scipy_stats.t.interval(0.95, 39, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert stats.mean_interval([plain(values)]) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[0.0] * 20, [0.3] * 20, [1.0]])
def test_no_interval_is_made_up_where_no_item_differs(values: list[float]) -> None:
    """Without spread, the data do not determine an interval."""
    assert all(math.isnan(end) for end in stats.mean_interval([plain(values)]))


def test_sign_flips_of_few_items_are_enumerated() -> None:
    """Of the 8 sign patterns of 3, 1, 1, only 2 reach |sum| 5.

    Unchanged items do not matter.
    """
    assert stats.sign_flip([plain([3, 1, 1])]) == pytest.approx(2 / 8)
    assert stats.sign_flip([plain([3, 1, 1, 0, 0])]) == pytest.approx(2 / 8)
    assert stats.sign_flip([plain([0, 0])]) == 1.0


def test_sign_flips_agree_with_mcnemar() -> None:
    """For −1, 0 and 1 the permutation test is McNemar's.

    It is exact for few items, and within Monte-Carlo error for many.
    """
    assert stats.sign_flip([plain([-1.0] * 9 + [1.0] * 3 + [0.0] * 5)]) == pytest.approx(stats.mcnemar(9, 3))
    assert stats.sign_flip([plain([-1.0] * 80 + [1.0] * 60)]) == pytest.approx(stats.mcnemar(80, 60), abs=0.01)


def test_sign_flips_are_never_zero_and_always_the_same() -> None:
    """All 200 items fall: p is the smallest possible value, 1 / 10,000."""
    falls = [plain(list(-np.linspace(0.1, 1, 200)))]
    assert stats.sign_flip(falls) == 1 / stats.RESAMPLES == stats.sign_flip(falls)


def test_a_suite_weighs_its_tasks_equally() -> None:
    """Means 1 and 0 give 0.5, with error √(s₁² + s₂²) / 2."""
    tasks = [plain([0, 2]), plain([-1, 1, -1, 1])]
    assert stats.mean(tasks) == pytest.approx(0.5)
    assert stats.standard_error(tasks) == pytest.approx(math.hypot(1.0, math.sqrt(1 / 3)) / 2)
    swapped = stats.sign_flip([plain([1, 1]), plain([1, 0, 0, 0])])
    totals = [abs(sum(s * w for s, w in zip(signs, [0.25, 0.25, 0.125], strict=True))) for signs in itertools.product([-1, 1], repeat=3)]
    assert swapped == pytest.approx(np.mean([total >= 0.625 - 1e-12 for total in totals]))
