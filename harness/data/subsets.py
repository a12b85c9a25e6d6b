"""Nested subsets by one seeded permutation: the 1k set is inside the 10k set, and a run reads its rows in that order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from harness.interfaces import Row
from harness.seeds import permutation


def order(rows: Sequence[Row], seed: int) -> list[int]:
    """Return the order rows are read in: a seeded permutation of their numbers, whose prefixes are the volumes."""
    return permutation(seed, len(rows), "data-order")


def fingerprint(rows: Sequence[Row]) -> str:
    """Hash the content of rows, in their order, to a SHA-256 of 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.id.encode())
    return digest.hexdigest()


def duplicates(rows: Sequence[Row]) -> int:
    """Count the rows that repeat an earlier one exactly."""
    return len(rows) - len({row.id for row in rows})
