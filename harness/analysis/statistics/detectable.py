"""Smallest detectable effect: the size up to which a change may have been missed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from harness.analysis.statistics.stats import LEVEL, Floats

POWER = 0.8

ASSURANCE = 0.8
"""Confidence that the power is reached. A standard error from three seeds is more often too small
than too large, so its upper confidence limit is used."""

_NORMAL = 1e7
"""Degrees of freedom from which Student's t is the normal distribution to seven digits."""


def detectable(
    half_width: npt.ArrayLike,
    freedom: npt.ArrayLike,
    tests: npt.ArrayLike = 1.0,
    *,
    level: float = LEVEL,
    power: float = POWER,
    estimated: npt.ArrayLike | None = None,
) -> Floats:
    """Return the smallest true effect that a two-sided t test finds with probability ``power``.

    It is δ·SE, where δ is the noncentrality at which P(T > t) = ``power`` and t the quantile at
    1 − (1 − level) / 2 / ``tests``. For m tests in a family this is the first step of Holm's
    procedure, so the effect is found regardless of the other tests. With infinite degrees of
    freedom and one test it is (1.960 + 0.842)·SE. SE is taken from the interval (a score interval
    has width where no item changed). As SE is itself an estimate, its upper limit of confidence
    ASSURANCE is used: SE·√(f / χ²(f)), χ² at 1 − ASSURANCE.

    Args:
        half_width: half the width of the intervals, any shape; NaN gives NaN. The effect has the
            same unit.
        freedom: degrees of freedom of the intervals, may be infinite.
        tests: number of tests in the family that Holm adjusts.
        level: confidence level of the intervals: 1 minus the level of the test.
        power: probability of finding the effect.
        estimated: degrees of freedom of the estimate of SE, infinite where SE is known or assumed;
            None: those of the intervals.

    References: Miller 2024, arXiv 2411.00640, equation 9, with Student's t in place of the normal
    distribution; Browne 1995, Statistics in Medicine 14:1933 (upper limit of a standard deviation
    estimated in a pilot study).
    """
    half, of, family = np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in (half_width, freedom, tests)))
    seen = of if estimated is None else np.broadcast_to(np.asarray(estimated, dtype=np.float64), of.shape)
    known = np.where(np.isinf(seen), 1.0, np.sqrt(seen / special.chdtri(seen, ASSURANCE)))  # chdtri takes the upper tail
    of = np.minimum(of, _NORMAL)
    bar = special.stdtrit(of, 1 - (1 - level) / 2 / family)
    effect: Floats = special.nctdtrinc(of, 1 - power, bar) * known * half / special.stdtrit(of, 0.5 + level / 2)
    return effect
