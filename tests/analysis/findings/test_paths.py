from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.findings.paths import Path, average, forgetting, linearised, mean
from tests.support.comparisons import counted


def path(gains: list[int], losses: list[int], n: int = 10) -> Path:
    """Return a path of one seed and one task per suite, in items."""

    def arrays(counts: list[int]) -> list[list[np.ndarray]]:
        return [[np.array(counted(n, count))] for count in counts]

    return Path(tuple(2**i for i in range(len(gains))), arrays(gains), arrays(losses))


@pytest.mark.parametrize(
    ("gains", "level", "want"),
    [
        ([2, 6], 0.4, 0.3),  # from (0.2, 0.1) half-way to (0.6, 0.5)
        ([2, 6], 0.1, 0.05),  # from (0, 0) half-way to (0.2, 0.1)
        ([2, 6], 0.2, 0.1),  # at a volume
        ([6, 2], 0.3, 0.05),  # at the first of two crossings
        ([2, 6], 0.7, math.nan),
    ],
)
def test_forgetting_is_read_where_the_gain_is_first_reached(gains: list[int], level: float, want: float) -> None:
    """Of gains that fall, the first crossing counts; nothing is read beyond the reach."""
    here = path(gains, [1, 5])
    assert forgetting(here.gains.tolist(), here.losses.tolist(), level) == pytest.approx(want, nan_ok=True)


def test_a_path_has_its_largest_gain_and_the_volumes_where_the_gain_falls() -> None:
    """Gains of 0, 3, 1, 4 tenths fall once, between volumes 1 and 2."""
    once = path([3, 1, 4], [0, 0, 0])
    assert once.reach == pytest.approx(0.4)
    assert once.falls == [(1, 2)]
    assert path([0, 0], [1, 2]).reach == 0.0
    below = Path((1,), [[np.array(counted(10, 3, sign=-1))]], [[np.zeros((1, 10))]])
    assert (below.reach, below.falls) == (0.0, [(0, 1)])


@pytest.mark.parametrize("gains", [(0.1, 0.3, 0.5), (0.3, 0.2, 0.5), (-0.1, 0.4, 0.35)])
def test_mean_forgetting_over_a_range_is_that_of_many_levels(gains: tuple[float, ...]) -> None:
    """The gain may fall between volumes, or below 0."""
    here = Path((1, 2, 3), [[np.array([[gain]])] for gain in gains], [[np.array([[lost]])] for lost in (0.02, 0.3, 0.4)])
    low, high = 0.03, min(here.reach, 0.45)
    levels = low + (high - low) * (np.arange(20_000) + 0.5) / 20_000
    read = [forgetting(here.gains.tolist(), here.losses.tolist(), level) for level in levels]
    found = average(here, low, high)
    assert found.value == pytest.approx(np.mean(read), abs=1e-5)
    assert (found.at_low, found.at_high) == pytest.approx((read[0], read[-1]), abs=1e-4)
    assert found.by_loss.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("means", [(0.15, 0.3, 0.45), (0.3, 0.2, 0.45)])
def test_linearised_numbers_vary_like_mean_forgetting(means: tuple[float, ...]) -> None:
    """They agree with a difference quotient for random changes.

    There are three seeds, two probe tasks of different sizes and one target task. In the second
    case the gain falls, and the range has a step of forgetting inside.
    """
    draw = np.random.default_rng(5)
    sizes = {"gain": [30], "forgetting": [20, 50]}
    base = {key: [[draw.normal(mean, 0.1, (3, n)) for n in of] for mean in means] for key, of in sizes.items()}
    moved = {key: [[draw.normal(0, 1, (3, n)) for n in of] for _ in means] for key, of in sizes.items()}
    here = average(Path((1, 2, 3), base["gain"], base["forgetting"]), 0.05, 0.4)

    def shifted(by: float) -> float:
        both = [[[a + by * b for a, b in zip(*pair, strict=True)] for pair in zip(base[key], moved[key], strict=True)] for key in base]
        return average(Path((1, 2, 3), both[0], both[1]), 0.05, 0.4).value

    quotient = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
    numbers = linearised(Path((1, 2, 3), moved["gain"], moved["forgetting"]), here.by_loss, here.by_gain)
    assert mean(numbers) == pytest.approx(quotient, rel=1e-5)
