"""Laws of one cell, fitted to several cells together: partial pooling by empirical Bayes.

Cells of an experiment differ in how much they lose, and have curves of like shape. Three runs at
five volumes do not determine a plateau, a scale and a steepness. So the shape's terms of a cell
are taken as drawn from a normal distribution whose mean and spread all cells together show, under
weak priors (``laws.Prior``); the factor of the curve is each cell's own, with a flat prior. A
spread near 0 makes the shapes equal; a large one leaves each cell to its own points. A cell whose
points say so keeps a shape of its own. One cell alone has the weak priors only.

No search is needed: the shapes are a grid, common to all cells, and for a given shape the factor
and the variance are solved for exactly (normal and inverse chi-square). Then each cell's grid is
refined around what its points leave possible (``posterior``). ``noise`` says how points vary.

References: Morris 1983, Journal of the American Statistical Association 78:47 (empirical Bayes);
Gelman et al. 2013, Bayesian Data Analysis, chapters 5 and 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from harness.analysis.fits import noise
from harness.analysis.fits.estimate import Model, Points
from harness.analysis.fits.laws import Law
from harness.analysis.fits.noise import Means
from harness.analysis.fits.solver import Floats

MISFIT = 0.05
"""Standard deviation of the weak prior of a law's misfit, as a share of a cell's level."""

MISFITS = (0.0, 0.02, 0.04, 0.08, 0.16)
"""Misfits that are tried."""

_MEANS, _SPREADS = 25, 6
_NOISE, _NODES = 0.04, 30.0
SIDE = 31
"""Number of values of each term in a refined grid."""

_ROUNDS, _WITHIN = 16, 5.0
_ENOUGH = 300
"""Number of cells whose common shape is estimated; further ones are not needed for that."""


@dataclass(frozen=True)
class Shapes:
    """Distribution of a law's shapes over cells: a mixture of normal distributions.

    The terms are independent within each part of the mixture.

    Attributes:
        law: the law.
        model: the law with the reference of its column.
        means, spreads: for each term, those of its normal distributions, shape (m,) each.
        weights: of each combination of them, of one term (m,) or of two terms (m, m).
        evidence: log likelihood of all cells, up to a constant.
    """

    law: Law
    model: Model
    means: tuple[Floats, ...]
    spreads: tuple[Floats, ...]
    weights: Floats
    evidence: float

    def density(self, axes: Sequence[Floats]) -> Floats:
        """Return the density on the product of the terms' values, shape (n,) or (n, n)."""
        each = [_normal(axis, mean, spread) for axis, mean, spread in zip(axes, self.means, self.spreads, strict=True)]
        found = each[0].T @ self.weights
        return found if len(each) == 1 else found @ each[1]


def model_of(law: Law, cells: Sequence[Points]) -> Model:
    """Return the model of a law of one column; its reference is the mean logarithm over cells."""
    name = law.columns[0]
    return Model(law, {name: float(np.exp(np.mean([np.mean(np.log(cell.columns[name])) for cell in cells])))}, {})


def curves(model: Model, axes: Sequence[Floats], at: Floats) -> Floats:
    """Return the curves with a factor of 1.

    Args:
        model: the law.
        axes: values of each term of the shape, on the scale of the fit.
        at: values of the law's column, shape (u,).

    Returns:
        Curves of all combinations, the last term's values first to change, shape (n, u).
    """
    return model.curve({model.law.columns[0]: at})(theta(model, axes))


def theta(model: Model, axes: Sequence[Floats]) -> Floats:
    """Return the parameters of all combinations of the terms' values, with a factor of 1."""
    grids = [grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")]
    found, names = np.ones((len(grids[0]), len(model.free))), [term.name for term in model.free]
    for name, grid in zip(model.law.shape, grids, strict=True):
        found[:, names.index(name)] = grid
    return found


def likelihood(means: Means, curve: Floats) -> tuple[Floats, Floats, Floats]:
    """Return how well curves agree with a cell's means.

    Args:
        means: the cell.
        curve: curves with a factor of 1, shape (n, u).

    Returns:
        Log likelihood of each curve up to a constant, the best factors, and their standard errors
        in units of the noise's scale; shape (n,) each. Flat over the response at the cell's last
        volume, of factors that do not lose more than there is.
    """
    with np.errstate(all="ignore"):
        curve = np.nan_to_num(curve, posinf=0.0, neginf=0.0)
        weighed = curve @ means.precision
        squares = np.maximum(np.sum(weighed * curve, axis=1), 1e-300)
        factor = weighed @ means.value / squares
        left = means.value - factor[:, None] * curve
        misfit = np.sum(left @ means.precision * left, axis=1)
        freedom = means.freedom + means.count - 1.0
        error = np.sqrt((means.freedom + misfit) / freedom / squares)
        last = np.abs(curve[:, means.last])
        found = 0.5 * means.determinant + np.log(last) - 0.5 * np.log(squares) - 0.5 * freedom * np.log(means.freedom + misfit)
        if means.most is not None:
            found = found + np.log(np.maximum(special.stdtr(freedom, (means.most - factor) / error), 1e-300))
    return np.where((last > 1e-12) & np.isfinite(found), found, -np.inf), factor, error


def first_axes(model: Model, finer: float = 1.0) -> list[Floats]:
    """Return the values of each term in the first grid, with steps divided by ``finer``."""
    ends = {term.name: (low, high) for term, low, high in zip(model.free, model.low, model.high, strict=True)}
    found = []
    for name, prior in model.law.shape.items():
        low, high = (np.clip(prior.mean + sign * 3.5 * prior.sd, *ends[name]) for sign in (-1.0, 1.0))
        found.append(np.linspace(low, high, int(np.ceil(finer * (high - low) / prior.step)) + 1))
    return found


def shapes(law: Law, model: Model, cells: Sequence[Means]) -> Shapes:
    """Estimate the distribution of shapes over cells.

    Args:
        law: the law.
        model: the law with its reference.
        cells: means of each cell over its runs.

    Returns:
        The mixture over all means and spreads that the cells leave possible; of one cell, the weak
        priors.
    """
    if len(cells) == 1:
        return _alone(law, model, cells[0])
    possible = [_possible(prior.mean, prior.sd, prior.step, prior.widest) for prior in law.shape.values()]
    means, spreads, weak = zip(*possible, strict=True)
    axes = first_axes(model, _finer(cells))
    each = [_normal(axis, mean, spread) for axis, mean, spread in zip(axes, means, spreads, strict=True)]
    total: Floats = weak[0] if len(weak) == 1 else weak[0][:, None] + weak[1][None, :]
    known: dict[bytes, Floats] = {}
    for cell in cells:
        if (key := cell.at.tobytes()) not in known:
            known[key] = curves(model, axes, cell.at)
        found, _, _ = likelihood(cell, known[key])
        if not np.isfinite(found).any():
            continue
        held = np.exp(found - found.max()).reshape([len(axis) for axis in axes])
        seen = each[0] @ held if len(each) == 1 else each[0] @ held @ each[1].T
        total = total + np.log(np.maximum(seen, 1e-300)) + found.max()
    weights = np.exp(total - total.max())
    return Shapes(law, model, means, spreads, weights / weights.sum(), float(total.max() + np.log(weights.sum())))


def together(law: Law, cells: Sequence[Points], most: Sequence[float | None]) -> tuple[Model, Shapes, list[Means]]:
    """Return the model of a law, the distribution of its shapes over cells, and each cell's means.

    Args:
        law: a law with priors of its shape.
        cells: points of each cell.
        most: largest possible response of each cell; None if unknown.
    """
    model = model_of(law, cells)
    noisy = noise.Noise([(cell.columns[law.columns[0]], cell) for cell in cells], most)
    shares = np.array(MISFITS)
    evidence = np.array([shapes(law, model, _some(noisy.means(share))).evidence for share in MISFITS])
    weights = np.exp(evidence - evidence.max() - 0.5 * (shares / MISFIT) ** 2)
    means = noisy.means(float(np.sqrt(weights @ shares**2 / weights.sum())))
    return model, shapes(law, model, _some(means)), means


Found = tuple[Model, Shapes, Means]
"""Model of a law, distribution of its shapes over cells, and one cell's means."""


def alone(law: Law, cell: Points, most: float | None) -> Found:
    """Return what ``together`` does, of one cell."""
    model, shape, means = together(law, [cell], [most])
    return model, shape, means[0]


def without_largest(law: Law, cells: Sequence[Points], most: Sequence[float | None]) -> list[Found | None]:
    """Return what ``together`` does for each cell, of all cells without their largest value.

    None of a cell where too few values are left.
    """
    column = law.columns[0]
    kept = [place for place, cell in enumerate(cells) if len(np.unique(cell.columns[column])) > len(law.terms)]
    if not kept:
        return [None] * len(cells)
    rest = [cells[place].where(cells[place].columns[column] < cells[place].columns[column].max()) for place in kept]
    model, shape, means = together(law, rest, [most[place] for place in kept])
    found = {place: (model, shape, one) for place, one in zip(kept, means, strict=True)}
    return [found.get(place) for place in range(len(cells))]


def refined(model: Model, shapes: Shapes, means: Means) -> list[Floats]:
    """Return values of each term that cover what one cell's points leave possible, evenly."""
    axes = first_axes(model)
    for _ in range(_ROUNDS):
        steps = [float(axis[1] - axis[0]) for axis in axes]
        found = [around(axis, weight) for axis, weight in zip(axes, marginals(weights(model, shapes, means, axes)[0]), strict=True)]
        if len(axes[0]) == SIDE and all(step < 0.34 * max(sd, 1e-9) for (_, sd), step in zip(found, steps, strict=True)):
            break
        reach = [_WITHIN * max(sd, step) for (_, sd), step in zip(found, steps, strict=True)]
        axes = [
            np.linspace(max(axis[0], middle - far), min(axis[-1], middle + far), SIDE)
            for axis, (middle, _), far in zip(axes, found, reach, strict=True)
        ]
    return axes


def weights(model: Model, shapes: Shapes, means: Means, axes: Sequence[Floats]) -> tuple[Floats, tuple[Floats, Floats, Floats]]:
    """Return the probability of each shape, with the three of ``likelihood``."""
    found, factor, error = likelihood(means, curves(model, axes, means.at))
    with np.errstate(divide="ignore"):
        total = found + np.log(shapes.density(axes).ravel())
    total = np.where(np.isfinite(total), total, -np.inf)
    each = np.exp(total - total.max()) if np.isfinite(total).any() else np.ones(len(total))
    return (each / each.sum()).reshape([len(axis) for axis in axes]), (found, factor, error)


def marginals(weights: Floats) -> list[Floats]:
    """Return the probability of each value of each term."""
    places = range(weights.ndim)
    return [weights.sum(axis=tuple(place for place in places if place != kept)) for kept in places]


def around(axis: Floats, weight: Floats) -> tuple[float, float]:
    """Return mean and standard deviation of one term."""
    middle = float(axis @ weight)
    return middle, float(np.sqrt(np.sum((axis - middle) ** 2 * weight)))


def _alone(law: Law, model: Model, cell: Means) -> Shapes:
    """Return the weak priors as the distribution of one cell's shape."""
    means = tuple(np.array([prior.mean]) for prior in law.shape.values())
    spreads = tuple(np.array([prior.sd]) for prior in law.shape.values())
    found = Shapes(law, model, means, spreads, np.ones((1,) * len(means)), 0.0)
    axes = refined(model, found, cell)
    total, _, _ = likelihood(cell, curves(model, axes, cell.at))
    with np.errstate(divide="ignore"):
        total = total + np.log(found.density(axes).ravel())
    return replace(found, evidence=float(np.logaddexp.reduce(total) + sum(np.log(axis[1] - axis[0]) for axis in axes)))


def _possible(middle: float, sd: float, step: float, widest: float) -> tuple[Floats, Floats, Floats]:
    """Return means and spreads of one term over cells, and the log of their weak prior."""
    center = np.linspace(middle - 2.5 * sd, middle + 2.5 * sd, _MEANS)
    width = np.geomspace(step, widest, _SPREADS)
    means, spreads = (grid.ravel() for grid in np.meshgrid(center, width, indexing="ij"))
    return means, spreads, -0.5 * ((means - middle) / sd) ** 2


def _normal(at: Floats, mean: Floats, spread: Floats) -> Floats:
    """Return normal densities, shape (m, n)."""
    found: Floats = np.exp(-0.5 * ((at[None, :] - mean[:, None]) / spread[:, None]) ** 2) / spread[:, None]
    return found


def _finer(cells: Sequence[Means]) -> float:
    """Return by how much finer than the first the grid is where the points' noise is small."""
    size = [np.sqrt(np.median(1.0 / np.diagonal(cell.precision)) / cell.level) for cell in cells]
    return float(np.clip(_NOISE / float(np.median(size)), 1.0, max(1.0, (_NODES / len(cells)) ** 0.5)))


def _some(cells: Sequence[Means]) -> Sequence[Means]:
    every = -(-len(cells) // _ENOUGH)
    return cells[::every]
