"""Nested subsets and content hashes."""

from __future__ import annotations

import pytest

from harness.data.subsets import duplicates, fingerprint, order, take
from harness.errors import DataError
from harness.interfaces import Row, Turn


def rows(texts: str) -> list[Row]:
    return [Row((Turn("text", text),), "text") for text in texts]


def test_smaller_volumes_are_prefixes_of_larger_ones() -> None:
    """The 3-row set is inside the 7-row set, in the same order, and both come from all of the data."""
    data = rows("abcdefghij")
    assert take(data, 3, seed=0) == take(data, 7, seed=0)[:3]
    assert sorted(order(data, 0)) == list(range(10))
    assert order(data, 0) != order(data, 1)
    assert order(data, 0) != list(range(10))


def test_more_rows_than_there_are_is_refused() -> None:
    """The message says how many were asked for and how many there are."""
    with pytest.raises(DataError, match="got 4; allowed: at most 3"):
        take(rows("abc"), 4, seed=0)


def test_the_fingerprint_is_of_content_and_order() -> None:
    """Equal rows give equal hashes; another text, another order or a row more do not."""
    assert fingerprint(rows("abc")) == fingerprint(rows("abc"))
    assert len({fingerprint(rows(texts)) for texts in ("abc", "abd", "acb", "abca", "")}) == 5
    assert len(fingerprint(rows("abc"))) == 64


def test_repeated_rows_are_counted() -> None:
    """Two of five rows repeat an earlier one."""
    assert duplicates(rows("abaca")) == 2
