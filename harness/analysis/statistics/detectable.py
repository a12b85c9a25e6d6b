"""How large an effect has to be to be found: what a change that was not found may still be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from harness.analysis.statistics.stats import LEVEL, Floats

POWER = 0.8

ASSURANCE = 0.8
"""How surely the power is reached: a standard error from three seeds is too small more often
than not, so its upper limit is taken."""

_NORMAL = 1e7
"""Degrees of freedom from which Student's t is the normal distribution to seven digits."""


def detectable(
    half_width: npt.ArrayLike, freedom: npt.ArrayLike, tests: npt.ArrayLike = 1.0, *, level: float = LEVEL, power: float = POWER
) -> Floats:
    """Return the smallest true effect that a two-sided t test of it against 0 finds with at least a given probability.

    It is δ·SE, δ being the noncentrality at which P(T > t) = ``power`` and t the quantile at 1 − (1
    − level) / 2 / ``tests``: with m tests in a family, the first step of Holm's procedure, so that
    the effect is found whatever the others say. With infinite degrees of freedom and one test it is
    (1.960 + 0.842)·SE. SE is taken from the interval (a score interval has width where no item
    changed) and is itself an estimate: its upper limit of confidence ASSURANCE stands for it,
    SE·√(f / χ²(f)), χ² at 1 − ASSURANCE.

    Args:
        half_width: of the intervals, any shape; NaN gives NaN. The effect has their unit.
        freedom: their degrees of freedom, may be infinite.
        tests: tests in the family that Holm adjusts.
        level: of the intervals: 1 minus the level of the test.
        power: probability of finding it.

    References: Miller 2024, arXiv 2411.00640, equation 9, with Student's t in place of the normal
    distribution; Browne 1995, Statistics in Medicine 14:1933 (the upper limit of a standard
    deviation that a pilot gave).
    """
    half, of, family = np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in (half_width, freedom, tests)))
    known = np.where(np.isinf(of), 1.0, np.sqrt(of / special.chdtri(of, ASSURANCE)))  # chdtri: by the probability above
    of = np.minimum(of, _NORMAL)
    bar = special.stdtrit(of, 1 - (1 - level) / 2 / family)
    effect: Floats = special.nctdtrinc(of, 1 - power, bar) * known * half / special.stdtrit(of, 0.5 + level / 2)
    return effect
