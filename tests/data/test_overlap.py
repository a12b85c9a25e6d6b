"""Overlap of training rows with evaluation items."""

from __future__ import annotations

import time

from harness.data.overlap import shares, words

SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_words_ignore_case_and_punctuation_and_split_chinese_by_character() -> None:
    """So that the same text in another layout is the same text."""
    assert words("Don't  STOP, it's 3.5!") == ["don", "t", "stop", "it", "s", "3", "5"]
    assert words("不知道 yes") == ["不", "知", "道", "yes"]
    assert words("") == []


def test_exact_matches_are_counted_whatever_their_layout() -> None:
    """One of two items is a row in another case; an empty item matches none."""
    found = shares(["Paris is in France.", ""], ["paris, is in FRANCE", "London is in England", ""])
    assert (found["items"], found["exact"], found["exact_share"]) == (3, 1, 1 / 3)
    assert (found["ngram_items"], found["ngram"], found["ngram_share"]) == (0, 0, 0.0)


def test_a_shared_run_of_thirteen_words_counts_and_twelve_do_not() -> None:
    """The 13-gram may lie anywhere in either text; items shorter than 13 words have none."""
    thirteen, twelve = " ".join(SENTENCE.split()[1:]), " ".join(SENTENCE.split()[2:])
    row = [f"before {thirteen} after"]
    found = shares(row, [SENTENCE, f"x y z {thirteen}", f"x y z {twelve} u v", twelve])
    assert (found["ngram_items"], found["ngram"]) == (3, 2)
    assert found["ngram_share"] == 2 / 3
    assert found["exact"] == 0


def test_a_run_across_two_rows_is_no_overlap() -> None:
    """Rows are separate texts."""
    parts = SENTENCE.split()
    assert shares([" ".join(parts[:7]), " ".join(parts[7:])], [SENTENCE])["ngram"] == 0


def test_the_order_of_words_matters() -> None:
    """An n-gram is a sequence, not a bag."""
    assert shares([" ".join(reversed(SENTENCE.split()))], [SENTENCE])["ngram"] == 0


def test_nothing_overlaps_with_nothing() -> None:
    """No rows or no items give zeros, not an error."""
    assert shares([], [SENTENCE])["ngram"] == 0
    assert shares([SENTENCE], [])["items"] == 0


def test_ten_thousand_rows_and_items_take_seconds() -> None:
    """Linear in the text: 10,000 × 10,000 pairs are never compared; 100 items were planted."""
    rows = [" ".join(f"w{(i * 7 + k * k) % 5000}" for k in range(40)) for i in range(10_000)]
    items = [*rows[:100], *(" ".join(f"v{(i * 11 + k) % 4000}" for k in range(30)) for i in range(9_900))]
    began = time.perf_counter()
    found = shares(rows, items)
    assert (found["exact"], found["ngram"]) == (100, 100)
    assert time.perf_counter() - began < 30
