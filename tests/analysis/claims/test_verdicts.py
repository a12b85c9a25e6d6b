"""Verdicts of comparisons and of claims."""

from __future__ import annotations

import math

import pytest

from harness.analysis.claims.verdicts import CONTRARY, NOT_SHOWN, NOT_TESTABLE, SHOWN, Expect, Line, counted, judged, overall


def line(expect: Expect, estimate: float, low: float, high: float, p_value: float) -> Line:
    return Line(what="a", where="m", expect=expect, estimate=estimate, low=low, high=high, p_value=p_value, margin=0.02)


@pytest.mark.parametrize(
    ("expect", "estimate", "low", "high", "p_value", "verdict"),
    [
        ("more", 0.10, 0.05, 0.15, 0.001, SHOWN),
        ("more", 0.01, 0.001, 0.019, 0.001, CONTRARY),  # significant, and negligible
        ("more", -0.10, -0.15, -0.05, 0.001, CONTRARY),
        ("more", 0.04, -0.01, 0.09, 0.2, NOT_SHOWN),
        ("less", -0.10, -0.15, -0.05, 0.001, SHOWN),
        ("less", 0.00, -0.01, 0.01, 1.0, CONTRARY),
        ("less", 0.10, 0.05, 0.15, 0.001, CONTRARY),
        ("less", 0.04, -0.01, 0.09, 0.2, NOT_SHOWN),
        ("alike", 0.00, -0.01, 0.01, 1.0, SHOWN),
        ("alike", -0.10, -0.15, -0.05, 0.001, CONTRARY),
        ("alike", 0.00, -0.05, 0.05, 1.0, NOT_SHOWN),
        ("no more", -0.10, -0.15, -0.05, 0.001, SHOWN),
        ("no more", 0.01, -0.01, 0.02, 0.3, SHOWN),
        ("no more", 0.10, 0.05, 0.15, 0.001, CONTRARY),
        ("no more", 0.01, -0.04, 0.06, 0.7, NOT_SHOWN),
        ("no less", 0.10, 0.05, 0.15, 0.001, SHOWN),
        ("no less", -0.10, -0.15, -0.05, 0.001, CONTRARY),
        ("no less", 0.01, -0.04, 0.06, 0.7, NOT_SHOWN),
        ("more", math.nan, math.nan, math.nan, math.nan, NOT_TESTABLE),
    ],
)
def test_a_comparison_is_judged_by_its_interval_and_margin(
    expect: Expect, estimate: float, low: float, high: float, p_value: float, verdict: str
) -> None:
    """Every expectation reaches every verdict that it can have."""
    assert judged([line(expect, estimate, low, high, p_value)])[0].verdict == verdict


def test_p_values_are_adjusted_over_the_comparisons_of_a_test() -> None:
    """Holm: of 0.03 and 0.04, neither is below 0.05 once it counts for two; 0.02 is."""
    both = judged([line("more", 0.1, 0.05, 0.15, 0.03), line("more", 0.1, 0.05, 0.15, 0.04)])
    assert [one.verdict for one in both] == [NOT_SHOWN, NOT_SHOWN]
    assert [one.p_holm for one in both] == [0.06, 0.06]
    assert [one.verdict for one in judged([line("more", 0.1, 0.05, 0.15, 0.02), line("more", 0.1, 0.05, 0.15, 0.04)])] == [SHOWN, SHOWN]


def test_a_claim_is_shown_by_all_of_its_comparisons() -> None:
    """One that has no number does not count, unless none has one."""
    shown = line("more", 0.10, 0.05, 0.15, 0.001)
    contrary, open_, none = line("less", 0.10, 0.05, 0.15, 0.001), line("less", 0.0, -0.1, 0.1, 1.0), line("more", *[math.nan] * 4)
    assert overall(judged([shown, shown])) == SHOWN
    assert overall(judged([shown, none])) == SHOWN
    assert overall(judged([contrary, open_])) == CONTRARY
    assert overall(judged([shown, contrary])) == NOT_SHOWN
    assert overall(judged([shown, open_])) == NOT_SHOWN
    assert overall(judged([none])) == NOT_TESTABLE
    assert overall([]) == NOT_TESTABLE
    assert counted(judged([shown, contrary, none])) == {SHOWN: 1, CONTRARY: 1, NOT_TESTABLE: 1}
