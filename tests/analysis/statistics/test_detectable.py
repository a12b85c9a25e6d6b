"""The smallest detectable effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.analysis.statistics.detectable import detectable


def test_millers_worked_example() -> None:
    """Equation 9: 969 items with variance 1/9 detect 3 points with probability 0.8."""
    half = 1.959963984540054 * math.sqrt(1 / 9 / 969)
    assert detectable(half, math.inf) == pytest.approx(0.03, abs=1e-5)


@pytest.mark.parametrize(("freedom", "tests"), [(2.0, 1), (4.5, 1), (12.0, 5), (400.0, 3)])
def test_the_test_finds_it_with_the_promised_probability(freedom: float, tests: int) -> None:
    """SciPy's noncentral t exceeds the bar of the first Holm step with probability 0.8.

    The standard error is at its upper 80% limit.
    """
    stderr = 0.7
    effect = float(detectable(stderr * scipy_stats.t.ppf(0.975, freedom), freedom, tests))
    bar = scipy_stats.t.ppf(1 - 0.025 / tests, freedom)
    upper = stderr * math.sqrt(freedom / scipy_stats.chi2.ppf(0.2, freedom))
    assert scipy_stats.nct.sf(bar, freedom, effect / upper) == pytest.approx(0.8, abs=1e-4)


def test_what_is_unknown_stays_unknown() -> None:
    """Without an interval there is no detectable effect; arrays are elementwise."""
    found = detectable(np.array([math.nan, 0.1]), np.array([3.0, math.inf]))
    assert math.isnan(found[0])
    assert found[1] == pytest.approx(0.1 / 1.959964 * (1.959964 + 0.841621), rel=1e-5)
