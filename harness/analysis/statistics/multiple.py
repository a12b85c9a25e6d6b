"""Adjustment of p-values for several tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.analysis.statistics.stats import Floats

Ints = npt.NDArray[np.int64]


def holm(p_values: npt.ArrayLike, families: npt.NDArray[np.integer[Any]] | None = None) -> tuple[Floats, Ints]:
    """Adjust p-values for the number of tests in their family, by Holm's step-down procedure.

    The i-th smallest of m p-values becomes max over j ≤ i of min(1, (m − j + 1)·p_j). Rejecting
    those below 0.05 keeps the probability of any false rejection in the family at 0.05, however the
    tests depend on each other.

    Args:
        p_values: shape (n,); NaN where there is no test, which stays NaN and is not counted.
        families: number of each test's family, shape (n,); None for a single family.

    Returns:
        Adjusted p-values, and the number of tests in the family of each (0 where there is no test),
        shape (n,) each.

    Reference: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    values = np.asarray(p_values, dtype=np.float64)
    adjusted, tests = np.full(len(values), np.nan), np.zeros(len(values), dtype=np.int64)
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return adjusted, tests
    code = np.zeros(len(known), dtype=np.int64) if families is None else families[known]
    order = np.lexsort((values[known], code))
    for members in np.split(known[order], np.flatnonzero(np.diff(code[order])) + 1):
        count = len(members)
        adjusted[members] = np.minimum(1.0, np.maximum.accumulate(np.arange(count, 0, -1) * values[members]))
        tests[members] = count
    return adjusted, tests
