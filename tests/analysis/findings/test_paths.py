from __future__ import annotations

import numpy as np
import pytest

from harness.analysis.findings.paths import Path, crossing, linearised, mean
from tests.support.comparisons import counted


def path(gains: list[int], losses: list[int], n: int = 10) -> Path:
    """Return a path of one seed and one task per suite, in items."""

    def arrays(counts: list[int]) -> list[list[np.ndarray]]:
        return [[np.array(counted(n, count))] for count in counts]

    return Path(tuple(2**i for i in range(len(gains))), arrays(gains), arrays(losses))


@pytest.mark.parametrize(
    ("gains", "level", "upper", "share", "slope", "forgetting"),
    [
        ([2, 6], 0.4, 2, 0.5, 1.0, 0.3),  # from (0.2, 0.1) half-way to (0.6, 0.5)
        ([2, 6], 0.1, 1, 0.5, 0.5, 0.05),  # from (0, 0) half-way to (0.2, 0.1)
        ([2, 6], 0.2, 1, 1.0, 0.5, 0.1),  # at a volume
        ([6, 2], 0.3, 1, 0.5, 1 / 6, 0.05),  # at the first of two crossings
    ],
)
def test_forgetting_is_read_where_the_gain_is_first_reached(
    gains: list[int], level: float, upper: int, share: float, slope: float, forgetting: float
) -> None:
    """Of gains that fall, the first crossing counts."""
    found = crossing(path(gains, [1, 5]), level)
    assert found.upper == upper
    assert (found.share, found.slope, found.forgetting) == pytest.approx((share, slope, forgetting))


def test_a_path_has_its_largest_gain_and_the_volumes_where_the_gain_falls() -> None:
    """Gains of 0, 3, 1, 4 tenths fall once, between volumes 1 and 2."""
    once = path([3, 1, 4], [0, 0, 0])
    assert once.reach == pytest.approx(0.4)
    assert once.falls == [(1, 2)]
    assert path([0, 0], [1, 2]).reach == 0.0
    below = Path((1,), [[np.array(counted(10, 3, sign=-1))]], [[np.zeros((1, 10))]])
    assert (below.reach, below.falls) == (0.0, [(0, 1)])


@pytest.mark.parametrize("level", [0.05, 0.2, 0.3])
def test_the_linearised_numbers_vary_like_forgetting_at_the_level(level: float) -> None:
    """They agree with a difference quotient for random changes.

    There are three seeds, two probe tasks of different sizes and one target task.
    """
    draw = np.random.default_rng(5)
    sizes, volumes = {"gain": [30], "forgetting": [20, 50]}, 3
    base = {key: [[draw.normal(0.15 * (v + 1), 0.1, (3, n)) for n in of] for v in range(volumes)] for key, of in sizes.items()}
    moved = {key: [[draw.normal(0, 1, (3, n)) for n in of] for _ in range(volumes)] for key, of in sizes.items()}
    here = Path((1, 2, 3), base["gain"], base["forgetting"])
    at = crossing(here, level)

    def shifted(by: float) -> float:
        both = [[[a + by * b for a, b in zip(*pair, strict=True)] for pair in zip(base[key], moved[key], strict=True)] for key in base]
        return crossing(Path((1, 2, 3), both[0], both[1]), level).forgetting

    quotient = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
    assert mean(linearised(Path((1, 2, 3), moved["gain"], moved["forgetting"]), at)) == pytest.approx(quotient, rel=1e-5)
    assert mean(linearised(here, at)) == pytest.approx(at.forgetting - at.slope * level)
