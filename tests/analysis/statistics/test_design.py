"""Smallest losses of designs, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.statistics import task_sums
from harness.analysis.statistics.design import Variation, guess, smallest_loss, variation
from harness.core.seeds import stream

Z = 1.959964


def test_one_seed_is_tangos_interval_and_a_normal_test() -> None:
    """40 of 800 items lost and 40 gained: half-width √(z²·80 + z⁴)/800.

    A normal test has a power of 80% at 2.802/1.960 of it.
    """
    half = math.sqrt(Z**2 * 80 + Z**4) / 800
    assert smallest_loss([800], 1, guess(0.1)) == pytest.approx(half * (Z + 0.841621) / Z, rel=0.01)


def test_many_seeds_and_items_are_a_normal_test_on_the_sum_of_the_variances() -> None:
    """√(A/k + (B + C/k)/n) times 2.802, with 2 tasks of n/2 items as with one of n."""
    known = Variation(changed=0.3, common=0.1, own=0.2, between=0.0016)
    error = math.sqrt(0.0016 / 200 + (0.1 + 0.2 / 200) / 40_000)
    for items in ([40_000], [20_000, 20_000]):
        assert smallest_loss(items, 200, known, cells=9, volumes=3) == pytest.approx(2.8016 * error, rel=0.03)


def test_more_items_seeds_and_cells_find_smaller_losses_and_an_uncertain_variance_larger_ones() -> None:
    """Each alone."""
    known = guess(0.2)
    least = smallest_loss([400], 3, known, cells=4)
    assert smallest_loss([1600], 3, known, cells=4) < least
    assert smallest_loss([400], 5, known, cells=4) < least
    assert smallest_loss([400], 3, known, cells=9, volumes=5) < least
    assert smallest_loss([400], 3, replace(known, freedom=8.0), cells=4) > least


def test_an_uncertain_variance_of_seeds_alone_is_taken_at_its_upper_limit() -> None:
    """√(A f/χ² + B/n) in place of √(A + B/n), of 4 degrees of freedom: f/χ² = 4/1.6488.

    It was once found larger with more items, from 6.3 to 7.5 points.
    """
    known = Variation(changed=0.3, common=0.2, own=0.0, between=0.0016, binary=False)
    of_items, of_seeds = 0.2 / 40_000, 0.0016 / 200
    wanted = math.sqrt((of_seeds * 4 / 1.6488 + of_items) / (of_seeds + of_items))
    losses = [smallest_loss([40_000], 200, replace(known, freedom=one), cells=9, volumes=3) for one in (4.0, None)]
    assert losses[0] / losses[1] == pytest.approx(wanted, rel=1e-3)
    few = Variation(0.02, 0.01, 0.01, 0.0001, freedom=2.0)
    one, two, four = (smallest_loss([400 * times, 240 * times, 280 * times], 3, few, cells=4, volumes=2) for times in (1, 2, 4))
    assert two < one
    assert four < 1.01 * two


def test_as_many_items_change_as_a_loss_needs() -> None:
    """20 items of which 1% change: with no more, a loss could be no larger than 0.01."""
    rare = smallest_loss([20], 1, guess(0.01))
    assert rare == pytest.approx(smallest_loss([20], 1, guess(rare)), rel=0.01)
    assert math.isfinite(smallest_loss([200], 3, Variation(0.0, 0.0, 0.0, 0.0)))
    assert math.isnan(smallest_loss([1], 3, guess()))


def test_the_variances_of_an_earlier_sweep_are_found() -> None:
    """Planted: A 0.05², B 0.3², C 0.4², in 40 cells of 8 seeds, two tasks of 300 items."""
    draw, cells = stream(0, "test", "design"), []
    for _ in range(40):
        seeds = draw.normal(0, 0.05, (8, 1))
        tasks = [seeds + draw.normal(0, 0.3, 300) + draw.normal(0, 0.4, (8, 300)) for _ in range(2)]
        cells.append([[task_sums.task(values, binary=False) for values in tasks]])
    found = variation(cells)
    assert (found.common, found.own, found.between) == pytest.approx((0.09, 0.16, 0.0025), rel=0.25)
    assert found.changed == pytest.approx(0.25, rel=0.1)
    assert (found.freedom, found.binary) == (40 * 7, False)


def test_one_earlier_seed_does_not_show_how_seeds_vary() -> None:
    """The variance between seeds is then a guess, in proportion to the items that change."""
    moved = np.array([[-1.0] * 30 + [1.0] * 10 + [0.0] * 160])
    found = variation([[[task_sums.task(moved)]]])
    assert (found.changed, found.freedom) == (0.2, None)
    assert found.between == pytest.approx(guess(0.2).between)
