"""Statistics of clustered items: questions about one passage, facts about one person.

The cluster, not the item, is the unit that was sampled. It replaces its items: its value is their
weighted mean and its weight the sum of their weights. Means do not change. The standard error
becomes

    SE² = G/(G − 1) · Σ_c (Σ_{i ∈ c} w_i (v_i − R))² / (Σ w)².

For w = 1 and without G/(G − 1), the correction for few clusters, this is equation 4 of Miller:
SE² + Σ_c Σ_{i ≠ j ∈ c} (v_i − R)(v_j − R) / n². A sign flip changes all items of a cluster
together. McNemar's test assumes independent items and has no clustered form, so it is not used.

Reference: Miller 2024, arXiv 2411.00640, section 2.2; Cameron & Miller 2015, Journal of Human
Resources 50:317.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.analysis.statistics import stats, two_level
from harness.analysis.statistics.stats import LEVEL, Interval, Stratum

Ints = npt.NDArray[np.int64]


def numbered(names: npt.NDArray[np.object_]) -> Ints | None:
    """Return the number of each item's cluster, shape (n,).

    An item without a cluster is a cluster of its own. None where no item has one.
    """
    texts = np.array([name if isinstance(name, str) else "" for name in names], dtype=object)
    if not any(texts):
        return None
    alone = texts == ""
    _, found = np.unique(texts.astype(str), return_inverse=True)
    found = found.astype(np.int64)
    found[alone] = found.max() + 1 + np.arange(int(alone.sum()))
    _, compact = np.unique(found, return_inverse=True)
    return compact.astype(np.int64)


def collapsed(stratum: Stratum, clusters: Ints | None) -> Stratum:
    """Return a stratum of clusters in place of items; unchanged without clusters."""
    if clusters is None:
        return stratum
    weights = np.bincount(clusters, weights=stratum.weights).astype(np.float64)
    return Stratum(np.bincount(clusters, weights=stratum.weights * stratum.values) / weights, weights)


def standard_error(strata: Sequence[Stratum], clusters: Sequence[Ints | None]) -> float:
    """Return the clustered standard error of the mean over tasks.

    NaN where a task has fewer than two clusters.
    """
    return stats.standard_error(_collapsed(strata, clusters))


def sign_flip(differences: Sequence[Stratum], clusters: Sequence[Ints | None]) -> float:
    """Return the two-sided p-value of ``stats.sign_flip`` with one sign per cluster."""
    return stats.sign_flip(_collapsed(differences, clusters))


def difference_interval(differences: Sequence[Stratum], clusters: Sequence[Ints | None], *, binary: bool, level: float = LEVEL) -> Interval:
    """Return the clustered interval of the mean over tasks of paired differences.

    By Student's t with G − 1 degrees of freedom (several tasks: Satterthwaite's). For 0/1 items it
    has width where nothing changed, as explained in ``two_level``. Both ends are NaN where the data
    do not determine them.
    """
    found = two_level.estimate([linearised(one)[None] for one in differences], clusters, level, binary=binary)
    return Interval(found.low, found.high)


def value_interval(values: Sequence[Stratum], clusters: Sequence[Ints | None], *, binary: bool, level: float = LEVEL) -> Interval:
    """Return the clustered interval of the mean over tasks of values, by Student's t.

    For 0/1 items it always contains the interval of independent items.
    """
    found = two_level.estimate([linearised(one)[None] for one in values], clusters, level, binary=False)
    if not binary:
        return Interval(found.low, found.high)
    independent = stats.proportion_interval([float(one.values.sum()) for one in values], [len(one.values) for one in values], level)
    if math.isnan(found.low):
        return independent
    return Interval(max(0.0, min(found.low, independent.low)), min(1.0, max(found.high, independent.high)))


def linearised(stratum: Stratum) -> stats.Floats:
    """Return values whose plain mean and spread are those of the ratio, shape (n,).

    With R = Σ w·v / Σ w, they are R + n·w·(v − R) / Σ w.

    Reference: Cochran 1977, Sampling Techniques, section 6.3.
    """
    values, weights = stratum
    if np.all(weights == 1.0):
        return values
    ratio = float(np.average(values, weights=weights))
    moved: stats.Floats = ratio + len(values) * weights * (values - ratio) / float(weights.sum())
    return moved


def _collapsed(strata: Sequence[Stratum], clusters: Sequence[Ints | None]) -> list[Stratum]:
    return [collapsed(stratum, of) for stratum, of in zip(strata, clusters, strict=True)]
