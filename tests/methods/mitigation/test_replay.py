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
    """Steps of target rows of so many tokens, each row recognisable by its first token."""
    rows = iter(range(100, 2000))
    return [[tiny.example(next(rows), *[5] * (length - 1)) for length in step] for step in lengths]


def anchor_of(*lengths: int) -> list[Example]:
    """Anchor rows of so many tokens."""
    return [tiny.example(5000 + i, *[6] * (length - 1), origin="anchor") for i, length in enumerate(lengths)]


def shown(mixed: list[list[Example]]) -> list[list[int]]:
    return [[example.input_ids[0] for example in step] for step in mixed]


def tokens(examples: list[Example]) -> int:
    return sum(len(example.input_ids) for example in examples)


def test_additive_adds_each_anchor_row_where_it_falls_due() -> None:
    """Half a row a target row: one after the 2nd, 4th and 6th, on top of their steps."""
    mixed = Replay(fraction=0.5).mix(steps_of([[3, 3, 3]] * 2), anchor_of(3, 3, 3, 3))
    assert shown(mixed) == [[100, 101, 102, 5000], [103, 104, 105, 5001, 5002]]


@pytest.mark.parametrize(
    ("fraction", "rows", "due"), [(0.1, 10, 1), (0.1, 9, 0), (0.57, 100, 57), (0.29, 100, 29), (1.0, 7, 7), (1e-3, 999, 0)]
)
def test_the_rows_due_are_the_floor_of_the_fraction_as_written(fraction: float, rows: int, due: int) -> None:
    """0.57 · 100 is 57, though in binary it falls just short."""
    assert Replay(fraction=fraction).anchor_rows(rows) == due
    assert sum(len(step) for step in Replay(fraction=fraction).mix(steps_of([[1] * rows]), anchor_of(*[1] * due))) == rows + due


def test_compute_equivalent_exchanges_rows_at_the_same_tokens() -> None:
    """Worked out: rows of 2 tokens, a quarter anchor, so every fourth row is the anchor's and the last target rows stay out."""
    mixed = Replay(fraction=0.25, mode="compute_equivalent").mix(steps_of([[2, 2]] * 4), anchor_of(2, 2, 2))
    assert shown(mixed) == [[100, 101], [102, 5000], [103, 104], [105, 5001]]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_compute_equivalent_keeps_tokens_and_share_whatever_the_lengths(fraction: float) -> None:
    """After every step: tokens within a row of the plain run's, the anchor's share within a row of the fraction, targets a prefix."""
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
    """What a step holds does not depend on how many follow."""
    steps, anchor = steps_of([[2, 9, 4]] * 6), anchor_of(*[5, 3] * 10)
    method = Replay(fraction=0.4, mode=mode)
    whole = method.mix(steps, anchor)
    assert all(method.mix(steps[:count], anchor) == whole[:count] for count in range(7))


@pytest.mark.parametrize("mode", ["additive", "compute_equivalent"])
def test_a_fraction_of_zero_is_none(mode: Any) -> None:
    """The same rows in the same steps, and no anchor is needed."""
    steps, method = steps_of([[2, 9], [1, 1], [30, 2]]), Replay(fraction=0.0, mode=mode)
    assert method.mix(steps, []) == NoMitigation().mix(steps, []) == steps
    assert not method.needs_anchor
    assert method.anchor_rows(1000) == 0


@pytest.mark.parametrize(("mode", "needed"), [("additive", 2), ("compute_equivalent", 2)])
def test_an_anchor_too_small_is_an_error_and_not_repeated(mode: Any, needed: int) -> None:
    """One line says how many rows there are and how many it takes."""
    steps = steps_of([[2, 2]] * 2)
    with pytest.raises(DataError, match=rf"^anchor: got 1 rows; allowed: at least {needed}; fix: "):
        Replay(fraction=0.5, mode=mode).mix(steps, anchor_of(2))
    Replay(fraction=0.5, mode=mode).mix(steps, anchor_of(2, 2))


def test_exchanged_rows_do_not_go_with_stages() -> None:
    """Target rows would lag behind the stages' ends, so that the last stage would be measured and never learned."""
    stages = StageSequence(stages=("tinyworld-people", "tinyworld-skill"), stage_rows=(8,))
    refusal = Replay(fraction=0.5, mode="compute_equivalent").rejects(Sft(), Full(), stages)
    assert refusal.startswith("mode=compute_equivalent")
    assert not Replay(fraction=0.5).rejects(Sft(), Full(), stages)
    assert not Replay(fraction=0, mode="compute_equivalent").rejects(Sft(), Full(), stages)


def test_how_many_long_rows_are_exchanged_is_not_known_before() -> None:
    """Half of the tokens of 1024 rows of 2 tokens are 102 rows of 10, so that an anchor of 120 suffices."""
    method = Replay(fraction=0.5, mode="compute_equivalent")
    mixed = method.mix(steps_of([[2] * 8] * 128), anchor_of(*[10] * 120))
    assert sum(example.origin == "anchor" for step in mixed for example in step) == 102
    assert [method.least_anchor_rows(1024), Replay(fraction=0.5).least_anchor_rows(1024)] == [1, 512]


def test_a_row_longer_than_a_whole_step_is_an_error() -> None:
    """Worked out: the 50 tokens fall due in step 3 and use up the tokens of the next eight, so step 4 would learn nothing."""
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
def test_fractions_out_of_range_are_refused(mode: Any, fraction: float, fine: bool) -> None:
    """More than one anchor row a target row is not replay, and nothing but anchor rows is not learning."""
    if fine:
        Replay(fraction=fraction, mode=mode)
        return
    with pytest.raises(ConfigError, match=r"^mitigation\.fraction: got "):
        Replay(fraction=fraction, mode=mode)
