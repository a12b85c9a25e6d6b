"""Nested subsets by one seeded permutation: the 1k set is inside the 10k set, and a run reads its rows in that order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from harness.core.rows import Row
from harness.core.seeds import permutation
from harness.core.sources import Source


def order(rows: Sequence[Row], seed: int, parts: Sequence[tuple[int, int]] = ()) -> list[int]:
    """Return the order rows are read in: a seeded permutation of their numbers, whose prefixes are the volumes.

    Args:
        rows: of a source; of a sequence of stages, those of each stage after those of the one
            before.
        seed: of the run.
        parts: of a sequence, (rows there are, rows read) of each stage: each is read in the order
            in which it would be read alone.
    """
    if not parts:
        return permutation(seed, len(rows), "data-order")
    found: list[int] = []
    start = 0
    for size, taken in parts:
        found += [start + number for number in permutation(seed, size, "data-order")[:taken]]
        start += size
    return found


def parts(source: Source) -> tuple[tuple[int, int], ...]:
    """Return (rows there are, rows read) of each stage of a sequence; nothing of another source."""
    return source.parts


def restarts(source: Source, batch_rows: int) -> tuple[int, ...]:
    """Return the steps before which a stage begins, but for the first.

    Nothing where there are no stages.
    """
    return tuple(end // batch_rows for end in source.stage_ends[:-1])


def fingerprint(rows: Sequence[Row]) -> str:
    """Hash the content of rows, in their order, to a SHA-256 of 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.id.encode())
    return digest.hexdigest()


def duplicates(rows: Sequence[Row]) -> int:
    """Count the rows that repeat an earlier one exactly."""
    return len(rows) - len({row.id for row in rows})
