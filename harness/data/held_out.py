"""Held-out rows of a data set without a test split: a part of its training rows."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import ConfigError, DataError, explain
from harness.core.rows import Row, Split
from harness.core.seeds import permutation

SEED = 0
"""One seed for all runs, so that their held-out rows are the same."""


def part(rows: Sequence[Row], split: Split, held_out: int, where: str) -> list[Row]:
    """Return the rows of a split, in their order, where ``held_out`` rows are held out for test.

    Copies of a held-out row are in neither split.

    Args:
        rows: every row of the data set.
        split: train or test.
        held_out: distinct rows of the test split, 1 or more.
        where: the data set, for messages.

    Raises:
        DataError: if there are not more distinct rows than that.
    """
    first = {row.id: place for place, row in reversed(list(enumerate(rows)))}
    places = sorted(first.values())
    if held_out >= len(places):
        raise DataError(explain(f"{where}: held_out", got=held_out, allowed=f"fewer than its {len(places)} distinct rows"))
    chosen = {places[number] for number in permutation(SEED, len(places), "held-out")[:held_out]}
    if split == "test":
        return [rows[place] for place in sorted(chosen)]
    ids = {rows[place].id for place in chosen}
    return [row for row in rows if row.id not in ids]


def check_held_out(held_out: int, *, has_test: bool) -> None:
    """Reject a negative number, and one for data with a test split. Raises ConfigError."""
    if held_out < 0 or (held_out and has_test):
        allowed = "0 for data with a test split" if has_test else "0 or greater"
        raise ConfigError(explain("data.held_out", got=held_out, allowed=allowed))
