"""Texts of figures: long ones leave room for the panels."""

from __future__ import annotations

from harness.report.drawing import wrapped


def test_a_long_label_is_broken_behind_commas_and_what_is_too_long_still_loses_its_middle() -> None:
    """By hand, at 12 characters."""
    assert wrapped("short", 12) == "short"
    assert wrapped("kl[inputs=a,b=1,c=2]", 12) == "kl[inputs=a,\nb=1,c=2]"
    assert wrapped("one two three four", 12) == "one two\nthree four"
    assert wrapped("abcdefghijklmnop", 12) == "abcdef…lmnop"
