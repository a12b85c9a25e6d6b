"""Texts of figures: long ones are broken and shortened."""

from __future__ import annotations

from harness.report.drawing import wrapped


def test_a_long_label_is_broken_after_commas_and_a_long_word_loses_its_middle() -> None:
    """By hand, at 12 characters."""
    assert wrapped("short", 12) == "short"
    assert wrapped("kl[inputs=a,b=1,c=2]", 12) == "kl[inputs=a,\nb=1,c=2]"
    assert wrapped("one two three four", 12) == "one two\nthree four"
    assert wrapped("abcdefghijklmnop", 12) == "abcdef…lmnop"
