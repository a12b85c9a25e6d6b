"""Adjustment for several tests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.statistics.multiple import holm


def test_holm_by_hand() -> None:
    """Of 0.005, 0.01, 0.03, 0.04: 4·0.005, 3·0.01, 2·0.03, then no less than that."""
    adjusted, tests = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert tests.tolist() == [4, 4, 4, 4]


def test_families_are_adjusted_apart_and_what_is_missing_is_not_counted() -> None:
    """Family 7 has two tests and a missing one, family 2 one; nothing exceeds 1."""
    adjusted, tests = holm([0.02, 0.6, math.nan, 0.03], np.array([7, 7, 7, 2]))
    assert adjusted[[0, 1, 3]].tolist() == pytest.approx([0.04, 0.6, 0.03])
    assert math.isnan(adjusted[2])
    assert tests.tolist() == [2, 2, 0, 1]
    assert holm([0.9, 0.8])[0].tolist() == [1.0, 1.0]


def test_no_tests() -> None:
    """There is nothing to adjust."""
    assert holm([])[0].tolist() == []
    assert holm([math.nan])[1].tolist() == [0]
