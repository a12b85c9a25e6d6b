"""Variances between seeds, pooled over cells."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.statistics.pooled import COLLAPSE, SeedMeans, pooled
from tests.support.pooling import expected


def planted(cells: int, volumes: int, seeds: int, *, start: int = 0, spread: float = 0.01) -> list[SeedMeans]:
    """Return cells whose variance is ``spread`` times the share of changed items."""
    draw = np.random.default_rng(start)
    changed = np.linspace(0.1, 0.4, volumes)
    found = []
    for _ in range(cells):
        moves = math.sqrt(0.7) * draw.normal(size=(1, seeds)) + math.sqrt(0.3) * draw.normal(size=(volumes, seeds))
        found.append(SeedMeans(-changed[:, None] + np.sqrt(spread * changed)[:, None] * moves, changed))
    return found


@pytest.mark.parametrize(("cells", "volumes", "seeds"), [(9, 5, 3), (4, 2, 5), (12, 1, 3), (1, 5, 3)])
def test_variances_maximise_the_likelihood_that_scipy_gives(cells: int, volumes: int, seeds: int) -> None:
    made = planted(cells, volumes, seeds, start=cells)
    want = expected([(one.means, one.changed) for one in made], 400)
    got = pooled(made, 400)
    assert [[one.pooled for one in of] for of in got] == [[one.is_pooled for one in of] for of in want]
    for name, other in (("variance", "variance"), ("freedom", "freedom"), ("pool", "pool")):
        assert np.array([[getattr(one, name) for one in of] for of in got]) == pytest.approx(
            np.array([[getattr(one, other) for one in of] for of in want]), rel=1e-5
        )


def test_seeds_that_agree_by_luck_are_given_the_spread_of_the_others() -> None:
    cells = planted(9, 1, 3)
    cells[0] = SeedMeans(cells[0].means.mean() + np.array([[0.0, 1e-4, -1e-4]]), cells[0].changed)
    lucky, *others = (of[0] for of in pooled(cells, 400))
    assert lucky.pooled
    assert lucky.variance > 100 * cells[0].means.var(ddof=1)
    assert lucky.variance < float(np.median([one.variance for one in others]))
    assert lucky.freedom > 4


def test_volumes_at_which_nothing_has_changed_yet_do_not_bend_the_trend() -> None:
    """Small volumes change no item, then one in one seed: no seed differs there, or hardly."""
    cells = planted(8, 3, 3, start=3)
    one = np.array([0.0, 0.0, -1 / 600])
    early = [SeedMeans(np.vstack([np.zeros((3, 3)), one, cell.means]), np.array([0, 0, 0, 1 / 1800, *cell.changed])) for cell in cells]
    calm = [SeedMeans(np.zeros((6, 3)), np.zeros(6))] * 6
    alone, found = pooled(cells, 600), pooled([*early, *calm], 600)
    for before, after in zip(alone, found[:8], strict=True):
        assert [one.variance for one in after[4:]] == pytest.approx([one.variance for one in before], rel=1.0)
    assert all(0 < one.variance < 1 / 600 for of in found[8:] for one in of)


def test_a_cell_far_above_the_others_keeps_its_own_spread() -> None:
    cells = planted(9, 1, 3, start=1)
    cells[0] = SeedMeans(np.array([[-0.5, 0.0, 0.5]]), cells[0].changed)
    wide, *others = (of[0] for of in pooled(cells, 400))
    assert (wide.variance, wide.freedom) == pytest.approx((0.25, 2.0))
    assert not wide.pooled
    assert wide.pool < 0.25
    assert any(one.pooled for one in others)


def test_after_a_collapse_no_cell_gets_a_narrower_interval_than_its_own() -> None:
    """Three seeds of another cell that agree may have been lucky."""
    cells = planted(9, 1, 3, start=2)
    calm = pooled(cells, 400)
    apart = math.sqrt(4 * COLLAPSE * 0.01 * 0.1)
    cells[0] = SeedMeans(np.array([[-0.1, -0.1 - 1e-3, -0.1 - 3 * apart]]), cells[0].changed)
    wary = pooled(cells, 400)
    widest = max((at for at in range(1, 9) if calm[at][0].pooled), key=lambda at: float(cells[at].means.var()))
    own = float(cells[widest].means.var(ddof=1))
    assert wary[widest][0][:2] == pytest.approx((own, 2.0))
    assert not wary[widest][0].pooled
    assert any(of[0].pooled for of in wary)


def test_nothing_to_pool_with_is_the_cell_s_own() -> None:
    alone = np.array([[0.1, 0.2, 0.6]])
    assert pooled([SeedMeans(alone, np.array([0.3]))], 100)[0][0][:3] == pytest.approx((0.07, 2.0, False))
    same = SeedMeans(np.zeros((2, 3)), np.zeros(2))
    assert [one[:3] for of in pooled([same, same], 100) for one in of] == [(0.0, 2.0, False)] * 4
    one_seed = SeedMeans(np.array([[0.1]]), np.array([0.3]))
    assert [(math.isnan(of[0].variance), of[0].freedom, of[0].pooled) for of in pooled([one_seed], 100)] == [(True, 0.0, False)]


def test_a_missing_seed_and_another_order_of_cells_change_nothing_else() -> None:
    cells = planted(5, 3, 4, start=3)
    cells[2].means[1, 0] = np.nan
    got, turned = pooled(cells, 300), pooled(cells[::-1], 300)[::-1]
    assert np.array(got)[..., :2] == pytest.approx(np.array(turned)[..., :2], rel=1e-8)
    assert np.isfinite(np.array(got)[..., :2]).all()


def test_seeds_that_differ_by_rounding_alone_do_not_differ() -> None:
    cells = [SeedMeans(np.array([[0.1 + 0.2, 0.3, 0.3]]), np.array([0.1 * one])) for one in range(1, 5)]
    assert [of[0][:3] for of in pooled(cells, 100)] == [(0.0, 2.0, False)] * 4
