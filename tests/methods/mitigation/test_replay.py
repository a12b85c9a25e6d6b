from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest

from harness.core.errors import ConfigError, DataError
from harness.core.rows import Example
from harness.data.sequence import StageSequence
from harness.methods.mitigation.none import NoMitigation
from harness.methods.mitigation.replay import Replay
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from tests.support import tiny


def steps_of(lengths: list[list[int]]) -> list[list[Example]]:
    """Steps of target rows of given lengths, each row identified by its first token."""
    rows = iter(range(100, 2000))
    return [[tiny.example(next(rows), *[5] * (length - 1)) for length in step] for step in lengths]


def anchor_of(*lengths: int) -> list[Example]:
    """Anchor rows of given lengths."""
    return [tiny.example(5000 + i, *[6] * (length - 1), origin="anchor") for i, length in enumerate(lengths)]


def shown(mixed: list[list[Example]]) -> list[list[int]]:
    return [[example.input_ids[0] for example in step] for step in mixed]


def tokens(examples: list[Example]) -> int:
    return sum(len(example.input_ids) for example in examples)


def test_additive_adds_each_anchor_row_where_it_falls_due() -> None:
    """Half a row a target row: one after the 2nd, 4th and 6th, added to their steps."""
    mixed = Replay(fraction=0.5).mix(steps_of([[3, 3, 3]] * 2), anchor_of(3, 3, 3, 3))
    assert shown(mixed) == [[100, 101, 102, 5000], [103, 104, 105, 5001, 5002]]


@pytest.mark.parametrize(
    ("fraction", "rows", "due"), [(0.1, 10, 1), (0.1, 9, 0), (0.57, 100, 57), (0.29, 100, 29), (1.0, 7, 7), (1e-3, 999, 0)]
)
def test_the_rows_due_are_the_floor_of_the_fraction_as_written(fraction: float, rows: int, due: int) -> None:
    """0.57 · 100 is 57, although in binary it is slightly less."""
    assert Replay(fraction=fraction).anchor_rows(rows) == due
    assert sum(len(step) for step in Replay(fraction=fraction).mix(steps_of([[1] * rows]), anchor_of(*[1] * due))) == rows + due


def test_compute_equivalent_exchanges_rows_at_the_same_tokens() -> None:
    """By hand, for rows of 2 tokens and a quarter anchor.

    Every fourth row is the anchor's, and the last target rows are left out.
    """
    mixed = Replay(fraction=0.25, mode="compute_equivalent").mix(steps_of([[2, 2]] * 4), anchor_of(2, 2, 2))
    assert shown(mixed) == [[100, 101], [102, 5000], [103, 104], [105, 5001]]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_compute_equivalent_keeps_tokens_and_share_for_any_lengths(fraction: float) -> None:
    """After every step, tokens are within a row of the plain run's.

    The anchor's share is within a row of the fraction, and targets are a prefix.
    """
    steps = steps_of([[3 + (7 * i + 5 * j) % 11 for j in range(4)] for i in range(12)])
    anchor = anchor_of(*[2 + (3 * i) % 13 for i in range(200)])
    mixed = Replay(fraction=fraction, mode="compute_equivalent").mix(steps, anchor)
    longest = max(len(example.input_ids) for example in [*anchor, *(row for step in steps for row in step)])
    plain, own = (list(accumulate(tokens(step) for step in run)) for run in (steps, mixed))
    replayed = list(accumulate(tokens([row for row in step if row.origin == "anchor"]) for step in mixed))
    assert all(0 <= b - a < longest for a, b in zip(plain, own, strict=True))
    assert all(0 <= fraction * b - c < longest for b, c in zip(own, replayed, strict=True))
    rows = [row for step in mixed for row in step]
    targets = [row for row in rows if row.origin == "target"]
    assert targets == [row for step in steps for row in step][: len(targets)]
    assert [row for row in rows if row.origin == "anchor"] == anchor[: len(rows) - len(targets)]


@pytest.mark.parametrize("mode", ["additive", "compute_equivalent"])
def test_smaller_volumes_are_prefixes_of_larger_ones(mode: Any) -> None:
    """The rows of a step do not depend on the number of later steps."""
    steps, anchor = steps_of([[2, 9, 4]] * 6), anchor_of(*[5, 3] * 10)
    method = Replay(fraction=0.4, mode=mode)
    whole = method.mix(steps, anchor)
    assert all(method.mix(steps[:count], anchor) == whole[:count] for count in range(7))


@pytest.mark.parametrize("mode", ["additive", "compute_equivalent"])
def test_a_fraction_of_zero_is_none(mode: Any) -> None:
    """The same rows in the same steps, without an anchor."""
    steps, method = steps_of([[2, 9], [1, 1], [30, 2]]), Replay(fraction=0.0, mode=mode)
    assert method.mix(steps, []) == NoMitigation().mix(steps, []) == steps
    assert not method.needs_anchor
    assert method.anchor_rows(1000) == 0


@pytest.mark.parametrize(("mode", "needed"), [("additive", 2), ("compute_equivalent", 2)])
def test_an_anchor_too_small_is_an_error_and_not_repeated(mode: Any, needed: int) -> None:
    """One line with the number of rows there are and the number needed."""
    steps = steps_of([[2, 2]] * 2)
    with pytest.raises(DataError, match=rf"^anchor: got 1 rows; allowed: at least {needed}; fix: "):
        Replay(fraction=0.5, mode=mode).mix(steps, anchor_of(2))
    Replay(fraction=0.5, mode=mode).mix(steps, anchor_of(2, 2))


def test_exchanged_rows_are_rejected_with_stages() -> None:
    """Target rows would lag behind the stages, so that the last one would not be learned."""
    stages = StageSequence(stages=("tinyworld-people", "tinyworld-skill"), stage_rows=(8,))
    refusal = Replay(fraction=0.5, mode="compute_equivalent").rejects(Sft(), Full(), stages)
    assert refusal.startswith("mode=compute_equivalent")
    assert not Replay(fraction=0.5).rejects(Sft(), Full(), stages)
    assert not Replay(fraction=0, mode="compute_equivalent").rejects(Sft(), Full(), stages)


def test_how_many_long_rows_are_exchanged_is_not_known_before() -> None:
    """Half of the tokens of 1024 rows of 2 tokens are 102 rows of 10: an anchor of 120 suffices."""
    method = Replay(fraction=0.5, mode="compute_equivalent")
    mixed = method.mix(steps_of([[2] * 8] * 128), anchor_of(*[10] * 120))
    assert sum(example.origin == "anchor" for step in mixed for example in step) == 102
    assert [method.least_anchor_rows(1024), Replay(fraction=0.5).least_anchor_rows(1024)] == [1, 512]


def test_a_row_longer_than_a_whole_step_is_an_error() -> None:
    """By hand: 50 tokens are due in step 3 and use up the tokens of the next eight steps.

    Step 4 would be empty.
    """
    with pytest.raises(DataError, match=r"a row of 50 tokens \(anchor\).*step 4 would be empty"):
        Replay(fraction=0.9, mode="compute_equivalent").mix(steps_of([[6]] * 12), anchor_of(5, 50))


@pytest.mark.parametrize(
    ("mode", "fraction", "fine"),
    [
        ("additive", 1.0, True),
        ("additive", 1.1, False),
        ("additive", -0.1, False),
        ("compute_equivalent", 0.99, True),
        ("compute_equivalent", 1.0, False),
        ("additive", float("nan"), False),
    ],
)
def test_fractions_out_of_range_are_rejected(mode: Any, fraction: float, fine: bool) -> None:
    """More than one anchor row a target row is not replay; anchor rows alone are not learning."""
    if fine:
        Replay(fraction=fraction, mode=mode)
        return
    with pytest.raises(ConfigError, match=r"^mitigation\.fraction: got "):
        Replay(fraction=fraction, mode=mode)
