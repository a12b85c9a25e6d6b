"""Nested subsets by one seeded permutation, in whose order a run reads its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from harness.core.rows import Row
from harness.core.seeds import permutation
from harness.core.sources import Source, StagedSource


def order(rows: Sequence[Row], seed: int, parts: Sequence[tuple[int, int]] = ()) -> list[int]:
    """Return the order of reading: a seeded permutation of row numbers; its prefixes are volumes.

    Args:
        rows: of a source; of a sequence, stage by stage.
        seed: of the run.
        parts: of a sequence, (rows available, rows read) of each stage; a stage is read in the
            order in which it would be read alone.
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
    """Return (rows available, rows read) of each stage; empty for a source without stages."""
    return source.parts if isinstance(source, StagedSource) else ()


def restarts(source: Source, batch_rows: int) -> tuple[int, ...]:
    """Return the steps before which a stage other than the first begins.

    Empty for a source without stages.
    """
    return tuple(end // batch_rows for end in source.stage_ends[:-1]) if isinstance(source, StagedSource) else ()


def fingerprint(rows: Sequence[Row]) -> str:
    """Return a SHA-256 of the content of rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.id.encode())
    return digest.hexdigest()


def duplicates(rows: Sequence[Row]) -> int:
    """Count the rows that repeat an earlier one exactly."""
    return len(rows) - len({row.id for row in rows})
