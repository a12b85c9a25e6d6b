"""Nested subsets and content hashes."""

from __future__ import annotations

from harness.core.rows import Row, Turn
from harness.data.subsets import duplicates, fingerprint, order


def rows(texts: str) -> list[Row]:
    return [Row((Turn("text", text),), "text") for text in texts]


def test_the_order_is_a_seeded_permutation_of_all_rows() -> None:
    """Every row once, another order for another seed."""
    data = rows("abcdefghij")
    assert sorted(order(data, 0)) == list(range(10))
    assert order(data, 0) != order(data, 1)
    assert order(data, 0) != list(range(10))


def test_the_fingerprint_is_of_content_and_order() -> None:
    """Equal rows give equal hashes; another text, another order or a row more do not."""
    assert fingerprint(rows("abc")) == fingerprint(rows("abc"))
    assert len({fingerprint(rows(texts)) for texts in ("abc", "abd", "acb", "abca", "")}) == 5
    assert len(fingerprint(rows("abc"))) == 64


def test_repeated_rows_are_counted() -> None:
    """Two of five rows repeat an earlier one."""
    assert duplicates(rows("abaca")) == 2
