from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.analysis.fits import fitting, laws, noise, pooling, posterior
from harness.analysis.fits.estimate import Points
from harness.core.errors import AnalysisError
from harness.core.seeds import stream

VOLUMES = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])


def hill(s: float, v50: float, h: float, at: np.ndarray = VOLUMES) -> np.ndarray:
    return np.asarray(s * at**h / (at**h + v50**h))


def cell(curve: np.ndarray, seed: int, *, runs: float = 0.02, rows: float = 0.01, seeds: int = 3) -> pd.DataFrame:
    """Return the points of a cell whose runs and points vary about a curve."""
    draw = stream(seed, "test", "pooling")
    moved = runs * draw.normal(size=(seeds, 1)) + rows * draw.normal(size=(seeds, len(VOLUMES)))
    run = np.repeat(np.arange(seeds), len(VOLUMES))
    return pd.DataFrame({"volume": np.tile(VOLUMES, seeds), "run_id": run, "forgetting": (curve + moved).ravel()})


def points(response: np.ndarray, error: float = 0.0) -> Points:
    """Return points from responses by run and volume."""
    runs = len(response)
    columns = {"volume": np.tile(VOLUMES[: response.shape[1]], runs)}
    return Points(columns, response.ravel(), np.full(response.size, error), np.repeat(np.arange(runs), response.shape[1]))


def good(found: list[fitting.Fit | AnalysisError]) -> list[fitting.Fit]:
    return [one for one in found if isinstance(one, fitting.Fit)]


def test_draws_are_those_of_the_posterior() -> None:
    """Median and quantiles of the curve agree with numerical integration over both parameters.

    The density is the prior of k, times (d + Q)^(−(d + 5)/2), Q the weighted squares and d the
    degrees of freedom, flat over the response at the last volume.
    """
    draw = stream(3, "test", "posterior")
    response = 0.006 * VOLUMES**0.5 + 0.02 * draw.normal(size=(3, 1)) + 0.02 * draw.normal(size=(3, 5))
    law = laws.named("power")
    model, shapes, means = pooling.alone(law, points(response), None)
    drawn = posterior.posterior(model, shapes, means, 0.9)
    at, prior = VOLUMES / model.reference["volume"], law.shape["k"]
    exponents, last = np.linspace(-1.0, 2.5, 701), np.linspace(-0.2, 0.6, 801)
    k, y = np.meshgrid(exponents, last, indexing="ij")
    left = means.value - y[..., None] * (at / at[-1]) ** k[..., None]
    squares = np.einsum("klu,uv,klv->kl", left, means.precision, left)
    weight = np.exp(-0.5 * ((k - prior.mean) / prior.sd) ** 2) * (means.freedom + squares) ** (-0.5 * (means.freedom + 5))
    value = (y * 2.0**k).ravel()
    order = np.argsort(value)
    share = np.cumsum(weight.ravel()[order]) / weight.sum()
    expected = [value[order][np.searchsorted(share, one)] for one in (0.5, 0.05, 0.95)]
    found = [one[0] for one in drawn.interval(model.curve({"volume": np.array([2048.0])}))]
    assert found == pytest.approx(expected, abs=0.02 * (expected[2] - expected[1]))


def test_cells_alike_are_known_better_together() -> None:
    """Of nine cells with one shape, predictions have less error and narrower intervals together."""
    truths = [hill(s, 300.0, 1.2, np.append(VOLUMES, 2048.0)) for s in np.linspace(0.15, 0.5, 9)]
    cells = [cell(truth[:5], seed) for seed, truth in enumerate(truths)]
    together = [fitting.predict(one, {"volume": 2048.0}) for one in good(fitting.fit_cells(cells, "hill", judge=False))]
    alone = [fitting.predict(fitting.fit(one, "hill", judge=False), {"volume": 2048.0}) for one in cells]
    off = [np.mean([abs(one.value - truth[5]) for one, truth in zip(found, truths, strict=True)]) for found in (together, alone)]
    width = [np.mean([(one.high or 0.0) - (one.low or 0.0) for one in found]) for found in (together, alone)]
    assert off[0] < 0.8 * off[1]
    assert width[0] < 0.8 * width[1]


def test_a_cell_that_differs_keeps_its_shape() -> None:
    """Of nine precise cells, one has half of its plateau at ten times the volume of the others."""
    curves = [hill(0.4, 2000.0 if place == 4 else 200.0, 1.2) for place in range(9)]
    cells = [cell(curve, place, runs=0.002, rows=0.002) for place, curve in enumerate(curves)]
    scales = [one.parameters["v50"].value or 0.0 for one in good(fitting.fit_cells(cells, "hill", judge=False))]
    assert scales[4] > 1200
    assert np.median(scales) == pytest.approx(200.0, rel=0.1)


def test_before_saturation_the_interval_is_wide_and_ends_where_all_is_lost() -> None:
    """Points that still rise in proportion leave a plateau open, up to what can be lost."""
    rising = cell(0.2 * VOLUMES / 1024, 1).assign(can_lose=0.5)
    far = {"volume": 16_384.0}
    bounded = fitting.predict(fitting.fit(rising, "hill", judge=False), far)
    free = fitting.predict(fitting.fit(rising.drop(columns="can_lose"), "hill", judge=False), far)
    assert bounded.low is not None
    assert bounded.high is not None
    assert free.high is not None
    assert 0.45 < bounded.high <= 0.5
    assert bounded.high - bounded.low > 0.15
    assert free.high > 0.6
    assert fitting.fit(rising, "hill").state.spread.interval(lambda theta: theta[:, :1])[2][0] <= 0.5


def test_a_gain_has_a_plateau_too() -> None:
    """Negative forgetting gives a negative plateau."""
    for law in ("hill", "saturating_power"):
        found = fitting.fit(cell(-hill(0.3, 150.0, 1.5), 2), law, judge=False)
        assert (found.parameters["s"].high or 1.0) < 0


def test_one_cell_says_that_it_is_alone() -> None:
    """Notes name pooling; of one run there is no interval; ``power`` alone is least squares."""
    one = cell(hill(0.4, 300.0, 1.2), 1)
    alone = fitting.fit(one, "hill")
    assert any("one cell alone" in note for note in alone.notes)
    assert any("fitted together with 1 other cell:" in note for note in good(fitting.fit_cells([one, one], "hill"))[0].notes)
    single = fitting.fit(one[one["run_id"] == 0], "hill", judge=False)
    assert (single.parameters["s"].low, fitting.predict(single, {"volume": 2048.0}).high) == (None, None)
    assert good(fitting.fit_cells([one], "power"))[0] == fitting.fit(one, "power")


def test_each_cell_has_a_fit_or_its_reason() -> None:
    """A cell with too few volumes has an error and does not take part; further cells do."""
    one = cell(hill(0.4, 300.0, 1.2), 1)
    found = fitting.fit_cells([one, one[one["volume"] < 200], one], "hill", others=[one, one], judge=False)
    assert [isinstance(fit, fitting.Fit) for fit in found] == [True, False, True]
    assert "got 2 distinct values; allowed: at least 3, for s, v50, h" in str(found[1])
    assert any("together with 3 other cells" in note for note in good(found)[0].notes)


def test_the_largest_volume_is_held_out_of_all_cells() -> None:
    """The error there is that of a fit of all cells to the other volumes."""
    cells = [cell(hill(s, 300.0, 1.2), seed) for seed, s in enumerate((0.2, 0.3, 0.4))]
    found = good(fitting.fit_cells(cells, "hill"))
    rest = good(fitting.fit_cells([one[one["volume"] < 1024] for one in cells], "hill", judge=False))
    for fit, other, one in zip(found, rest, cells, strict=True):
        there = one.loc[one["volume"] == 1024, "forgetting"]
        expected = float(np.mean(np.abs(there - fitting.predict(other, {"volume": 1024.0}).value)))
        assert fit.held_out["largest volume"] == pytest.approx(expected, rel=1e-9)


def test_runs_that_differ_in_proportion_are_recognised() -> None:
    """G and r are near 1 for runs that are multiples of a curve, and near 0 for independent points.

    The variance is then that of the largest response, in proportion.
    """
    draw, curve = stream(5, "test", "noise"), 0.3 * VOLUMES / 1024
    multiples = noise.Noise([(np.tile(VOLUMES, 8), points(curve * (1 + 0.2 * draw.normal(size=(8, 1)))))], [None])
    apart = noise.Noise([(np.tile(VOLUMES, 40), points(0.2 + 0.02 * draw.normal(size=(40, 5))))], [None])
    assert (multiples.proportion, multiples.common) == (0.97, 0.95)
    assert apart.common == pytest.approx(0.0, abs=0.1)
    assert np.sqrt(apart.means(0.0)[0].variance) == pytest.approx(0.02, rel=0.1)


def test_variances_of_cells_are_shrunk_as_far_as_they_are_alike() -> None:
    """Equal variances are drawn together, but for one cell in ten that is far by chance.

    One of 100 times the others keeps most of its own.

    Without noise in proportion, the covariance of three means is σ²/3, by hand.
    """
    draw = stream(6, "test", "noise")
    flat = [(np.tile(VOLUMES, 3), points(0.2 + 0.01 * draw.normal(size=(3, 5)))) for _ in range(30)]
    found = [one.variance for one in noise.Noise(flat, [None] * 30).means(0.0)]
    own = [np.mean(np.var(cell.response.reshape(3, 5), axis=0, ddof=1)) for _, cell in flat]
    assert max(own) > 3 * min(own)
    assert np.quantile(found, 0.85) < 2 * min(found)
    wild = [*flat[:29], (np.tile(VOLUMES, 3), points(0.2 + 0.1 * draw.normal(size=(3, 5))))]
    found = [one.variance for one in noise.Noise(wild, [None] * 30).means(0.0)]
    assert found[-1] > 10 * np.median(found)
    each = np.array([[0.1, 0.2 - 1e-6], [0.3, 0.2 + 1e-6], [0.2, 0.2]])  # no volume without any spread: it would be left out of the trend
    mean = noise.Noise([(np.tile(VOLUMES[:2], 3), points(each))], [None]).means(0.0)[0]
    assert mean.value == pytest.approx([0.2, 0.2])
    assert mean.variance == pytest.approx(0.01 / 2)
    assert np.diagonal(np.linalg.inv(mean.precision)) == pytest.approx([0.005 / 3] * 2, rel=1e-6)


@pytest.mark.parametrize("law", ["hill", "saturating_power", "power"])
def test_where_nothing_is_lost_nothing_is_predicted(law: str) -> None:
    """Without any change the curve is exactly 0, and neither law nor baseline errs.

    A second cell makes the power law be fitted as the others.
    """
    still = cell(np.zeros(5), 1, runs=0.0, rows=0.0)
    found = good(fitting.fit_cells([still, still], law))[0]
    assert found.parameters["c" if law == "power" else "s"].value == 0.0
    assert fitting.predict(found, {"volume": 2048.0}).value == 0.0
    assert found.compared["largest volume"] == "predicts as well as the last volume"


def test_more_than_there_is_cannot_be_lost() -> None:
    """A limit below a point is rejected, text too; a limit of some rows only is not used."""
    known = cell(hill(0.4, 300.0, 1.2), 1)
    row = int(np.argmax(known["forgetting"] > 0.2))
    with pytest.raises(AnalysisError, match=rf"column can_lose: got 0.2 in row {row + 1}, where forgetting is"):
        fitting.fit(known.assign(can_lose=0.2), "hill")
    with pytest.raises(AnalysisError, match="column can_lose: got 'all' in row 1"):
        fitting.fit(known.assign(can_lose="all"), "hill")
    some = known.assign(can_lose=0.9)
    some.loc[[3, 4], "can_lose"] = np.nan
    notes = fitting.fit(some, "hill").notes
    assert "can_lose is not used: it is empty in 2 of 15 rows" in notes
