"""How the points of cells vary about their curves, for fits of several cells together.

A point is curve + run + rest + items. Runs of a cell differ by σ² q(v), of which a share r is an
effect that all volumes of a run have in common. q(v) = 1 − g + g·y(v)²/mean y²: with g near 1 runs
differ in proportion to what is lost, with g = 0 as much at every volume. g and r are those of all
cells together. σ² of a cell is pooled with those of the others
(``harness.analysis.statistics.pooled``). The error over items is ``stderr``, taken as shared by all
runs, and as correlated along volumes, by ALONG per doubling. No law holds exactly: its misfit is
taken as correlated in the same way, with a standard deviation that is a share of the cell's level,
equal for all cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.analysis.fits.estimate import Points
from harness.analysis.fits.solver import Floats
from harness.analysis.statistics.pooled import SeedMeans, pooled

ALONG = 0.7
"""Correlation of the error over items between two volumes, one of which is twice the other.

It is assumed: the same items are asked at all volumes, and most of those lost early remain lost."""

PROPORTIONS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97)
"""Values of g that are tried."""

MOST_COMMON = 0.95
_SMALL = 1e-6


@dataclass(frozen=True)
class Means:
    """Means of a cell over its runs, and how they and a new run vary.

    Attributes:
        at: volumes, ascending, shape (u,).
        value: means over runs, shape (u,).
        precision: inverse of their covariance, shape (u, u).
        last: place of the largest volume.
        freedom: degrees of freedom of the noise's scale.
        variance: σ², variance of a run about the curve where q is 1; NaN if no cell has two runs.
        proportion: g.
        level: mean of value².
        beyond: variance of a new point by its items and the law's misfit, given both at the last
            volume.
        determinant: log determinant of the precision.
        most: largest possible response; None if unknown.
    """

    at: Floats
    value: Floats
    precision: Floats
    last: int
    freedom: float
    variance: float
    proportion: float
    level: float
    beyond: float
    determinant: float
    most: float | None

    @property
    def count(self) -> int:
        """Number of volumes."""
        return len(self.at)


@dataclass(frozen=True)
class _Cell:
    """A cell's points by run and volume, shape (k, u), NaN where there is none."""

    at: Floats
    points: Floats
    error: Floats

    @cached_property
    def runs(self) -> Floats:
        """Number of runs at each volume, shape (u,)."""
        return np.asarray(np.sum(np.isfinite(self.points), axis=0), dtype=float)

    @cached_property
    def value(self) -> Floats:
        """Mean over runs at each volume, shape (u,)."""
        found: Floats = np.nanmean(self.points, axis=0)
        return found

    @cached_property
    def level(self) -> float:
        """Mean of the squared values."""
        return float(np.mean(self.value**2)) + 1e-300

    def relative(self, proportion: float) -> Floats:
        """Return q at each volume, shape (u,)."""
        found: Floats = 1.0 - proportion + proportion * self.value**2 / self.level
        return found

    def apart(self, proportion: float) -> Floats:
        """Return the points' distance from their mean, divided by √q, shape (k, u)."""
        return np.asarray((self.points - self.value) / np.sqrt(self.relative(proportion)))


class Noise:
    """Noise of several cells, estimated from the differences between their runs.

    Args:
        cells: volumes, shape (n,), and points of each cell.
        most: largest possible response of each cell; None if unknown.
    """

    def __init__(self, cells: Sequence[tuple[Floats, Points]], most: Sequence[float | None]) -> None:
        self.cells, self.most = [_table(at, points) for at, points in cells], most
        self.proportion = max(PROPORTIONS, key=lambda one: sum(_fits(cell, one) for cell in self.cells))
        apart = [cell.apart(self.proportion) for cell in self.cells]
        self.common = _common(apart, [_own(cell, self.proportion) for cell in self.cells])
        self.shrunk = _shrunk(apart)

    def means(self, misfit: float) -> list[Means]:
        """Return each cell's means, with a misfit of the law as a share of the cell's level."""
        return [
            _means(cell, variance, freedom, self.proportion, self.common, limit, misfit)
            for cell, (variance, freedom), limit in zip(self.cells, self.shrunk, self.most, strict=True)
        ]


def _table(at: Floats, points: Points) -> _Cell:
    volumes, column = np.unique(at, return_inverse=True)
    shape = (int(points.cluster.max()) + 1, len(volumes))
    total, error, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    np.add.at(total, (points.cluster, column), points.response)
    np.add.at(error, (points.cluster, column), points.error)
    np.add.at(count, (points.cluster, column), 1.0)
    with np.errstate(all="ignore"):
        return _Cell(volumes, total / count, error.sum(axis=0) / count.sum(axis=0))


def _fits(cell: _Cell, proportion: float) -> float:
    """Return the log likelihood of the distances between runs for a g."""
    spare = np.maximum(cell.runs - 1.0, 0.0)
    if not spare.any():
        return 0.0
    scale = _own(cell, proportion)
    return -0.5 * float(np.sum(spare * np.log(cell.relative(proportion)))) - 0.5 * float(spare.sum() * np.log(scale + 1e-300))


def _own(cell: _Cell, proportion: float) -> float:
    """Return a cell's own σ²; NaN without two runs."""
    spare = float(np.sum(np.maximum(cell.runs - 1.0, 0.0)))
    return float(np.nansum(cell.apart(proportion) ** 2)) / spare if spare else float("nan")


def _common(apart: Sequence[Floats], scales: Sequence[float]) -> float:
    """Return r: the mean product of two points of a run, as a share of σ²."""
    above, below = 0.0, 0.0
    for one, scale in zip(apart, scales, strict=True):
        runs, count = len(one), np.sum(np.isfinite(one), axis=1)
        if runs < 2 or not np.isfinite(scale):
            continue
        above += float(np.sum(np.nansum(one, axis=1) ** 2) - np.nansum(one**2))
        below += scale * float(np.sum(count * (count - 1.0))) * (runs - 1.0) / runs
    return float(np.clip(above / below, 0.0, MOST_COMMON)) if below > 0 else 0.0


def _shrunk(apart: Sequence[Floats]) -> list[tuple[float, float]]:
    """Return each cell's variance, pooled over all cells, with its degrees of freedom.

    Args:
        apart: distances between a cell's runs, divided by √q, shape (k, u): the variance is the
            same at all volumes, so pooling sees as many changed items at each.
    """
    spreads = pooled([SeedMeans(one.T, np.ones(one.shape[1])) for one in apart], 1.0)
    known = [[one for one in of if one.freedom > 0] for of in spreads]
    found = [(float(np.mean([one.variance for one in of])), min(one.freedom for one in of)) if of else (float("nan"), 0.0) for of in known]
    filled = float(np.mean([variance for variance, freedom in found if freedom])) if any(known) else float("nan")
    return [one if one[1] else (filled, float(any(known))) for one in found]


def _means(cell: _Cell, variance: float, freedom: float, proportion: float, common: float, most: float | None, misfit: float) -> Means:
    runs, there = cell.runs, np.isfinite(cell.points).astype(float)
    apart, least = np.sqrt(cell.relative(proportion)), _SMALL**2 * cell.level + 1e-290
    known = variance if np.isfinite(variance) else 1e-4 * cell.level
    shared = (there.T @ there) / np.outer(runs, runs)
    covariance = known * np.outer(apart, apart) * (common * shared + np.diag((1.0 - common) / runs))
    along = ALONG ** np.abs(np.subtract.outer(np.log2(cell.at), np.log2(cell.at)))
    covariance += (np.outer(cell.error, cell.error) + misfit**2 * cell.level) * along + least * np.eye(len(cell.at))
    precision = np.linalg.inv(covariance)
    return Means(
        at=cell.at,
        value=cell.value,
        precision=precision,
        last=len(cell.at) - 1,
        freedom=max(freedom, 1e-3),
        variance=variance,
        proportion=proportion,
        level=cell.level,
        beyond=float(cell.error[-1] ** 2 + misfit**2 * cell.level) * (1.0 - ALONG**2),
        determinant=float(np.linalg.slogdet(precision)[1]),
        most=most,
    )
