"""Intervals over seeds and items: by hand, by an analysis of variance, and by coverage."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special
from scipy import stats as scipy_stats

from harness.analysis.statistics import stats, task_sums, two_level
from harness.analysis.statistics.stats import Stratum
from harness.core.seeds import stream

Floats = npt.NDArray[np.float64]

HAND = np.array([[1.0, 2.0, 3.0, 6.0], [2.0, 2.0, 5.0, 3.0], [0.0, 2.0, 4.0, 6.0]])


def in_loops(values: Floats, clusters: list[int] | None = None) -> tuple[float, float, float]:
    """Return V_seed, V_item and V_rest of one task, as plain sums."""
    k, n = values.shape
    of = clusters or list(range(n))
    groups = sorted(set(of))
    grand = sum(values[s][i] for s in range(k) for i in range(n)) / (k * n)
    seeds = [sum(values[s]) / n for s in range(k)]
    items = [sum(values[s][i] for s in range(k)) / k for i in range(n)]
    small = len(groups) / (len(groups) - 1) / n**2

    def sum_of_squares(residual: Callable[[int], float]) -> float:
        return sum(sum(residual(i) for i in range(n) if of[i] == g) ** 2 for g in groups)

    v_seed = sum((mean - grand) ** 2 for mean in seeds) / (k - 1) / k
    v_item = small * sum_of_squares(lambda i: items[i] - grand)
    rests = [[values[s][i] - seeds[s] - items[i] + grand for i in range(n)] for s in range(k)]
    v_rest = sum(small * sum_of_squares(rest.__getitem__) for rest in rests) / (k * (k - 1))
    return v_seed, v_item, v_rest


def test_the_worked_example() -> None:
    """Three seeds of four items, computed by hand.

    Seed means are 3, 3, 3 and item means 1, 2, 4, 5. Seeds do not differ: V_seed = 0.
    V_item = ((−2)² + (−1)² + 1² + 2²) / 3 / 4 = 10/12. The rests are (0 0 −1 1), (1 0 1 −2),
    (−1 0 0 1), their squares sum to 10: V_rest = 10 / 6 / 12 = 5/36.
    V = max(0 + 10/12 − 5/36, 0, 10/12) = 10/12. Degrees of freedom:
    (10/12)² / ((10/12)²/3 + (5/36)²/6) = 1 / (1/3 + (1/6)²/6) = 216/73.
    """
    found = two_level.estimate([HAND])
    assert found.value == pytest.approx(3.0)
    assert found.stderr == pytest.approx(math.sqrt(10 / 12))
    assert found.df == pytest.approx(216 / 73)
    half = scipy_stats.t.ppf(0.975, 216 / 73) * math.sqrt(10 / 12)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert found.varies == "seeds and items"
    assert found.p_value == pytest.approx(2 * scipy_stats.t.sf(3 / math.sqrt(10 / 12), 216 / 73))


@pytest.mark.parametrize("clusters", [None, [0, 1, 0, 2, 1, 3, 3]])
def test_the_parts_are_those_of_the_definitions(clusters: list[int] | None) -> None:
    """Variance and degrees of freedom of random values agree with the formulas as loops."""
    draw = stream(0, "test", "two-level")
    tasks = [draw.normal(size=(5, 7)) + draw.normal(size=(5, 1)), draw.normal(size=(5, 7)) + draw.normal(size=(1, 7))]
    parts = [in_loops(values, clusters) for values in tasks]
    means = [float(np.mean([values[s].mean() for values in tasks])) for s in range(5)]
    v_seed = float(np.var(means, ddof=1)) / 5
    v_items, v_rests = [part[1] / 4 for part in parts], [part[2] / 4 for part in parts]
    groups = 7 if clusters is None else 4
    variance = max(v_seed + sum(v_items) - sum(v_rests), v_seed, sum(v_items))
    below = (2 * v_seed) ** 2 / 4 + sum(v**2 for v in v_items) / (groups - 1) + sum(v**2 for v in v_rests) / (4 * (groups - 1))
    freedom = max(2 * v_seed + sum(v_items) - sum(v_rests), 2 * v_seed, sum(v_items)) ** 2 / below
    numbers = None if clusters is None else [np.array(clusters), np.array(clusters)]
    found = two_level.estimate(tasks, numbers)
    assert found.value == pytest.approx(np.mean(means))
    assert found.stderr == pytest.approx(math.sqrt(variance))
    assert found.df == pytest.approx(freedom)


@pytest.mark.parametrize("clusters", [None, np.arange(60) // 4])
def test_a_weighted_mean_of_equal_weights_is_the_mean(clusters: npt.NDArray[np.int64] | None) -> None:
    """Three tasks of one seed, of independent and of clustered items."""
    draw = stream(0, "test", "weighted")
    tasks = [task_sums.task(draw.choice([-1.0, 0.0, 1.0], size=(1, 60), p=[0.1, 0.8, 0.1]), None, clusters, True) for _ in range(3)]
    assert two_level.weighted(tasks, [2, 2, 2]) == pytest.approx(two_level.combined(tasks))


def test_a_weighted_mean_over_clusters_is_by_hand() -> None:
    """Weights 3/4 and 1/4: variance 9/16 V_1 + 1/16 V_2, degrees of freedom by Satterthwaite."""
    draw, clusters = stream(0, "test", "weighted"), np.arange(1600) // 4
    tasks = [task_sums.task(draw.choice([-1.0, 0.0, 1.0], size=(1, 1600), p=[0.3, 0.4, 0.3]), None, clusters, True) for _ in range(2)]
    parts = [9 / 16 * tasks[0].item, 1 / 16 * tasks[1].item]
    found = two_level.weighted(tasks, [3, 1])
    assert found.value == pytest.approx(0.75 * tasks[0].seeds[0][0] + 0.25 * tasks[1].seeds[0][0])
    assert found.df == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 399 + parts[1] ** 2 / 399))
    assert found.stderr == pytest.approx(math.sqrt(sum(parts)), rel=0.01)  # the term for few changes adds little


def test_fewer_than_three_seeds_are_over_items_alone() -> None:
    """Two seeds have the t interval of the item means."""
    found = two_level.estimate([HAND[:2]])
    ends = scipy_stats.t.interval(0.95, 3, loc=3.0, scale=np.std([1.5, 2, 4, 4.5], ddof=1) / 2)
    assert (found.low, found.high) == pytest.approx(ends)
    assert (found.df, found.varies) == (3, "items")


def test_one_seed_of_counted_items_is_exactly_tango() -> None:
    """45 of 500 lost, 20 gained: score interval, paired error 0.01598, value −0.05."""
    values = np.array([[-1.0] * 45 + [1.0] * 20 + [0.0] * 435])
    found = two_level.estimate([values])
    assert (found.low, found.high) == stats.difference_interval([45], [20], [500])
    assert found.value == pytest.approx(-0.05)
    assert (found.df, found.varies) == (499, "items")
    assert found.stderr == pytest.approx(0.01598, abs=5e-6)


@pytest.mark.parametrize(("lost", "gained", "error"), [(45, 20, 0.01598), (95, 70, 0.0256)])
def test_the_paired_error_is_millers(lost: int, gained: int, error: float) -> None:
    """The errors of Miller's worked vectors of 500 items are reproduced.

    The variance is [lost + gained − (lost − gained)²/n] / (n (n − 1)). The first interval is
    [−0.081, −0.019].
    """
    values = np.array([[-1.0] * lost + [1.0] * gained + [0.0] * (500 - lost - gained)])
    found = two_level.over_items([task_sums.task(values)])
    assert found.stderr == pytest.approx(error, abs=5e-5)
    assert found.stderr == pytest.approx(math.sqrt((lost + gained - (lost - gained) ** 2 / 500) / 500 / 499))
    if lost == 45:
        assert (found.low, found.high) == pytest.approx((-0.081, -0.019), abs=5e-4)


def test_one_seed_of_other_items_is_the_bootstrap_of_the_table() -> None:
    """Nats per token of one seed have the interval of the tidy table."""
    values = stream(0, "test", "nats").exponential(size=(1, 30))
    assert two_level.estimate([values])[3:5] == stats.mean_interval([Stratum(values[0], np.ones(30))])


@pytest.mark.parametrize(("seeds", "tasks"), [(1, 1), (2, 1), (3, 1), (5, 3)])
def test_no_changed_item_is_no_certainty(seeds: int, tasks: int) -> None:
    """With no changed item under any seed, the interval is Tango's ± z²/(n + z²)."""
    z2 = special.ndtri(0.975) ** 2
    found = two_level.estimate([np.zeros((seeds, 100))] * tasks)
    assert (found.low, found.high) == pytest.approx((-z2 / (100 * tasks + z2), z2 / (100 * tasks + z2)), abs=1e-9)
    assert found.value == 0.0


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_small_task_decides_where_nothing_changed(seeds: int) -> None:
    """Of tasks with 10 and 1,000 items, the small one determines the width.

    Tasks have equal weight, so the mean has half the width of the small task, z²/(n + z²).
    """
    found = two_level.estimate([np.zeros((seeds, 10)), np.zeros((seeds, 1000))])
    one = stats.difference_interval([0, 0], [0, 0], [10, 1000])
    assert (found.low, found.high) == pytest.approx((one.low, one.high), abs=1e-9)
    z2 = special.ndtri(0.975) ** 2
    assert 0.95 * z2 / (10 + z2) / 2 < found.high < 1.05 * z2 / (10 + z2) / 2


def test_intervals_cover_a_loss_of_the_small_task() -> None:
    """Of 400 sweeps of 3 seeds, at least 92% cover the loss.

    The tasks have 20 and 200 items; every seed loses the same 6% of the small one.
    """
    draw, covered = stream(0, "small-task"), 0
    for _ in range(400):
        lost = -(draw.random(20) < 0.06).astype(float)
        found = two_level.estimate([np.tile(lost, (3, 1)), np.zeros((3, 200))])
        covered += found.low <= -0.03 <= found.high
    assert covered >= 0.92 * 400


def test_two_clusters_without_a_change_show_little() -> None:
    """Two passages of 100 items count as two items, 40 clusters as 200 items.

    A passage could change as a whole.
    """
    z2 = special.ndtri(0.975) ** 2
    two, forty = (two_level.estimate([np.zeros((3, 200))], [np.repeat(np.arange(count), 200 // count)]) for count in (2, 40))
    assert two.high == pytest.approx(z2 / (2 + z2), abs=1e-9)
    assert forty.high == pytest.approx(z2 / (200 + z2), abs=1e-9)


def test_hardly_any_changed_item_widens_as_the_score_interval_does() -> None:
    """If all seeds change the same 8 of 1000 items, the width is Tango's."""
    values = np.array([[-1.0] * 4 + [1.0] * 4 + [0.0] * 992] * 4)
    low, high = stats.difference_interval([4], [4], [1000])
    found = two_level.estimate([values])
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.01)


def test_values_that_are_not_counted_and_never_differ_have_no_interval() -> None:
    """All nats are unchanged, so the data do not determine an interval."""
    found = two_level.estimate([np.zeros((3, 50))], binary=False)
    assert all(math.isnan(end) for end in (found.low, found.high, found.stderr, found.p_value))
    assert math.isnan(two_level.estimate([np.array([[1.0], [2.0], [3.0]])], binary=False).low)  # one item


def test_items_alike_in_a_cluster_count_once() -> None:
    """Doubled items, with twins in a cluster, give the same as single items.

    Without clusters the items' part would be halved.
    """
    twins = np.repeat(HAND, 2, axis=1)
    whole, halved = two_level.estimate([HAND]), two_level.estimate([twins])
    assert two_level.estimate([twins], [np.repeat(np.arange(4), 2)])[:5] == pytest.approx(whole[:5])
    assert halved.stderr < whole.stderr


def test_a_contrast_pairs_items_and_adds_the_spread_of_both_arms() -> None:
    """Item means are paired, so effects common to both arms cancel.

    The seeds of each arm add their own part.
    """
    draw = stream(0, "test", "contrast")
    item = 100 * draw.normal(size=(1, 40))
    first, second = item + draw.normal(size=(4, 40)) + draw.normal(size=(4, 1)), item + draw.normal(size=(3, 40))
    found = two_level.contrast([first], [second])
    parts = [in_loops(first - item), in_loops(second - item)]
    v_item = np.var((first.mean(axis=0) - second.mean(axis=0)), ddof=1) / 40
    v_seed, v_rest = parts[0][0] + parts[1][0], parts[0][2] + parts[1][2]
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.stderr == pytest.approx(math.sqrt(max(v_seed + v_item - v_rest, v_seed, v_item)))
    assert found.varies == "seeds and items"
    assert two_level.contrast([first], [second[:2]]).varies == "items"


def test_a_contrast_of_two_single_runs_is_tango_of_their_answers() -> None:
    """Of the same items, the first alone lost 7 and the second alone 3."""
    first = np.array([[-1.0] * 7 + [0.0] * 3 + [-1.0] * 5 + [0.0] * 35])
    second = np.array([[0.0] * 7 + [-1.0] * 3 + [-1.0] * 5 + [0.0] * 35])
    found = two_level.contrast([first], [second])
    assert (found.low, found.high) == stats.difference_interval([7], [3], [50])
    assert found.value == pytest.approx(-0.08)


def planted(seeds: int, items: int, mix: tuple[float, float, float], name: str) -> tuple[Floats, float]:
    """Return 0/1 changes and their true mean.

    Known items are lost with probability 0.10, others gained with 0.04. ``mix`` has the shares of
    seed, item and rest in the variance.
    """
    draw = stream(0, "test", "planted", name)
    seed, item, rest = (math.sqrt(part) for part in mix)
    known = draw.random(items) < 0.7

    def moved(share: float) -> Floats:
        latent = seed * draw.normal(size=(seeds, 1)) + item * draw.normal(size=(1, items)) + rest * draw.normal(size=(seeds, items))
        return (latent < special.ndtri(share)).astype(float)

    return np.where(known, -moved(0.10), moved(0.04)), -0.7 * 0.10 + 0.3 * 0.04


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("mix", [(0.0, 0.5, 0.5), (0.03, 0.5, 0.47), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_intervals_cover_planted_changes(seeds: int, mix: tuple[float, float, float]) -> None:
    """At least 93% of 400 planted changes are covered, less two standard errors."""
    hits = 0
    for repeat in range(400):
        values, truth = planted(seeds, 200, mix, f"{seeds}-{mix}-{repeat}")
        found = two_level.estimate([values])
        hits += found.low <= truth <= found.high
    assert hits / 400 >= 0.93 - 2 * 0.0125


def test_a_percentile_bootstrap_of_three_seeds_would_not() -> None:
    """A percentile bootstrap covers 75% where only seeds differ.

    Of 27 resamples of three seeds, one has three times the smallest. That is more than 2.5%, so the
    interval ends at the smallest and the largest seed, and misses whenever all three are on one
    side of the truth: 2 / 2³ = 25% of the time.
    """
    draw, hits, ours = stream(0, "test", "percentile"), 0, 0
    for _ in range(300):
        values = draw.normal(size=(3, 1)) + 0.1 * draw.normal(size=(3, 100))
        means = values.mean(axis=1)
        low, high = np.quantile(means[draw.integers(0, 3, size=(500, 3))].mean(axis=1), [0.025, 0.975])
        hits += low <= 0 <= high
        found = two_level.estimate([values])
        ours += found.low <= 0 <= found.high
    assert hits / 300 == pytest.approx(0.75, abs=0.075)
    assert ours / 300 > 0.92
