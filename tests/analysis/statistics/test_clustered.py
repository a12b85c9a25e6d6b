"""Clustered items: standard error, interval, sign flip."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from harness.analysis.statistics import clustered, stats
from harness.analysis.statistics.stats import Stratum
from harness.analysis.table.forgetting import Samples, change, pair, value_interval
from tests.support.experiments import Task, samples

VALUES = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
OF = [0, 0, 0, 1, 1, 2]


def plain(values: list[float]) -> Stratum:
    return Stratum(np.array(values, dtype=float), np.ones(len(values)))


def test_the_clustered_error_is_equation_4() -> None:
    """The variance is 1/48, computed by hand from pairs of items.

    The mean is ½. The variance is (Σ (s − ½)² + Σ of products of two items of a cluster) / n²,
    times G/(G − 1) = 3/2 for few clusters. Σ (s − ½)² = 6/4. Products: cluster 0 (½ ½ −½):
    ¼ − ¼ − ¼, twice: −½; cluster 1 (−½ ½): −¼, twice: −½; cluster 2: none. So
    (1.5 − 1) / 36 · 3/2 = 1/48.
    """
    found = clustered.standard_error([plain(VALUES)], [np.array(OF)])
    assert found == pytest.approx(math.sqrt(1 / 48))
    products = sum((VALUES[i] - 0.5) * (VALUES[j] - 0.5) for i, j in itertools.permutations(range(6), 2) if OF[i] == OF[j])
    errors = sum((value - 0.5) ** 2 for value in VALUES)
    assert found**2 == pytest.approx((errors + products) / 36 * 3 / 2)


def test_clusters_of_one_are_items() -> None:
    """With one item per cluster, standard error and sign flip are the plain ones."""
    strata, alone = [plain([1.0, -1.0, 0.5, 0.0, 2.0])], [np.arange(5)]
    assert clustered.standard_error(strata, alone) == pytest.approx(stats.standard_error(strata))
    assert clustered.sign_flip(strata, alone) == clustered.sign_flip(strata, [None]) == stats.sign_flip(strata)


def test_weights_go_into_the_clusters() -> None:
    """The ratio stays, and its linearised error sums w (v − R) within clusters."""
    values, weights, of = np.array([1.0, 3.0, 2.0, 5.0]), np.array([2.0, 1.0, 4.0, 1.0]), np.array([0, 0, 1, 2])
    ratio = (2 + 3 + 8 + 5) / 8
    residuals = [2 * (1 - ratio) + (3 - ratio), 4 * (2 - ratio), 5 - ratio]
    expected = math.sqrt(sum(r**2 for r in residuals) * 3 / 2) / 8
    assert clustered.standard_error([Stratum(values, weights)], [of]) == pytest.approx(expected)
    assert clustered.linearised(Stratum(values, weights)).mean() == pytest.approx(ratio)
    low, high = clustered.difference_interval([Stratum(values, weights)], [of], binary=False)
    half = scipy_stats.t.ppf(0.975, 2) * expected
    assert (low, high) == pytest.approx((ratio - half, ratio + half))


def test_a_sign_flip_turns_whole_clusters() -> None:
    """With cluster sums 2, 1, −0.5, 4 of 8 sign patterns have |sum| ≥ 2.5.

    They are + + −, + + + and their mirrors.
    """
    strata, of = [plain([1.0, 1.0, 1.0, -0.5])], [np.array([0, 0, 1, 2])]
    patterns = [abs(2 * a + b - 0.5 * c) for a, b, c in itertools.product([-1, 1], repeat=3)]
    assert clustered.sign_flip(strata, of) == sum(total >= 2.5 for total in patterns) / 8 == 0.5


def test_names_become_numbers_and_items_without_one_are_alone() -> None:
    """Missing and empty names are clusters of one; without any name there are no clusters."""
    found = clustered.numbered(np.array(["a", None, "b", "a", "", float("nan")], dtype=object))
    assert found is not None
    assert found[0] == found[3]
    assert len(set(found.tolist())) == 5
    assert clustered.numbered(np.array([None, "", float("nan")], dtype=object)) is None


def in_passages(task: Task, names: list[str]) -> pd.DataFrame:
    """Return samples of a task with a cluster for each of its doc hashes."""
    frame = samples([task])
    return frame.assign(cluster=[names[int(doc[1:])] for doc in frame["doc_hash"]])


def test_the_join_passes_clusters_to_interval_and_p_value() -> None:
    """Two of five passages lost are 2 events, not 8 of 20 items.

    McNemar of 8 lost would be 2/256; flipping the signs of two clusters gives 2 of 4 = 0.5.
    """
    names = [f"passage-{i // 4}" for i in range(20)]
    before, after = Task(suite="s", task="t", values=[1.0] * 20), Task(suite="s", task="t", values=[0.0] * 8 + [1.0] * 12)
    sides = [Samples(in_passages(task, names)).items("s", "t", "none", "acc") for task in (before, after)]
    found = change([pair(*sides)])
    assert (found.delta, found.lost, found.p_value, found.p_mid) == (-0.4, 8, 0.5, None)
    independent = stats.difference_interval([8], [0], [20])
    assert found.interval.high - found.interval.low > 1.5 * (independent.high - independent.low)
    low, high = value_interval([sides[1]])
    half = scipy_stats.t.ppf(0.975, 4) * math.sqrt((2 * 2.4**2 + 3 * 1.6**2) * 5 / 4) / 20
    assert (low, high) == pytest.approx((max(0.0, 0.6 - half), min(1.0, 0.6 + half)))


def test_no_change_in_clusters_has_width() -> None:
    """Nothing lost in five passages has the interval of five items.

    A passage may change as a whole. The interval of a value stays Wilson's.
    """
    names = [f"passage-{i // 4}" for i in range(20)]
    items = Samples(in_passages(Task(suite="s", task="t", values=[1.0] * 20), names)).items("s", "t", "none", "acc")
    found = change([pair(items, items)])
    assert tuple(found.interval) == pytest.approx(tuple(stats.difference_interval([0], [0], [5])))
    assert value_interval([items]) == pytest.approx(stats.proportion_interval([20], [20]))
