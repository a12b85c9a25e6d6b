from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest

from harness.config.strict import identifying
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
    ("fraction", "rows", "due"), [(0.1, 10, 1), (0.1, 9, 0), (0.57, 100, 57), (0.29, 100, 29), (1.0, 7, 7), (1e-3, 999, 0), (9.0, 2, 18)]
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
        ("additive", 9.0, True),
        ("additive", float("inf"), False),
        ("additive", -0.1, False),
        ("compute_equivalent", 0.99, True),
        ("compute_equivalent", 1.0, False),
        ("additive", float("nan"), False),
    ],
)
def test_fractions_out_of_range_are_rejected(mode: Any, fraction: float, fine: bool) -> None:
    """Up to nine anchor rows for a target row are common; anchor rows alone are not learning."""
    if fine:
        Replay(fraction=fraction, mode=mode)
        return
    with pytest.raises(ConfigError, match=r"^mitigation\.fraction: got "):
        Replay(fraction=fraction, mode=mode)


def row(targets: int, *, anchor: bool = False, context: int = 3) -> Example:
    """A row with as many supervised tokens, after a context without a loss."""
    ids = [5] * (context + targets)
    return tiny.example(*ids, supervised=range(context, context + targets), origin="anchor" if anchor else "target")


def weights(mixed: list[list[Example]]) -> list[float]:
    """The anchor's share of the supervised tokens of each step."""
    return [sum(e.supervised_tokens for e in step if e.origin == "anchor") / sum(e.supervised_tokens for e in step) for step in mixed]


def test_a_loss_share_adds_anchor_rows_until_they_weigh_as_much() -> None:
    """By hand: 9 target tokens a step, anchor rows of 1 or 9 tokens, a tenth of the loss.

    One of 1 token is a tenth. One of 9 is half of its step, which is enough for five steps.
    """
    steps = [[row(4), row(5)] for _ in range(6)]
    short = Replay(loss_share=0.1).mix(steps, [row(1, anchor=True)] * 6)
    long = Replay(loss_share=0.1).mix(steps, [row(9, anchor=True)] * 6)
    assert weights(short) == [0.1] * 6
    assert weights(long) == [0.5, 0, 0, 0, 0, 0.5]


@pytest.mark.parametrize("share", [0.05, 0.31, 0.5, 0.9])
def test_a_loss_share_is_kept_for_any_lengths(share: float) -> None:
    """Of the mean over steps; a step's rows depend on no later step, and each row is drawn once."""
    steps = [[row(1 + (5 * i + j) % 4) for j in range(4)] for i in range(40)]
    anchor = [row(1 + (3 * i) % 7, anchor=True, context=i % 5) for i in range(5000)]
    method = Replay(loss_share=share)
    mixed = method.mix(steps, anchor)
    found = sum(weights(mixed)) / 40
    assert share - 1e-9 <= found < share + 0.8 / 40
    assert [e for step in mixed for e in step if e.origin == "anchor"] == anchor[: sum(map(len, mixed)) - 160]
    assert method.mix(steps[:7], anchor) == mixed[:7]


def test_a_fraction_of_rows_is_not_a_share_of_the_loss() -> None:
    """One anchor row with 40 supervised tokens for ten target rows with 9: 31% of the loss."""
    steps = [[row(9) for _ in range(10)]]
    (weight,) = weights(Replay(fraction=0.1).mix(steps, [row(40, anchor=True)]))
    assert weight == pytest.approx(40 / 130)


def test_one_of_fraction_and_loss_share_is_set() -> None:
    """Without either, the fraction is 0.1; with a loss share it is none."""
    assert (Replay().fraction, Replay(loss_share=0.1).fraction) == (0.1, None)
    assert Replay(loss_share=0.1).needs_anchor
    assert [Replay(loss_share=0.2).anchor_rows(64), Replay(loss_share=0.2).least_anchor_rows(64)] == [16, 1]
    with pytest.raises(ConfigError, match=r"^mitigation.fraction: got 0.2; allowed: null with mitigation.loss_share: one of them "):
        Replay(fraction=0.2, loss_share=0.1)
    with pytest.raises(ConfigError, match=r"^mitigation.mode: got 'compute_equivalent'; allowed: additive with "):
        Replay(loss_share=0.1, mode="compute_equivalent")
    for invalid in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match=r"^mitigation.loss_share: got .*; allowed: from 0.001 to below 1"):
            Replay(loss_share=invalid)
    with pytest.raises(DataError, match=r"^anchor: got 1 rows; allowed: at least 2; fix: "):
        Replay(loss_share=0.9).mix([[row(4)]], [row(4, anchor=True)])


def test_settings_without_a_loss_share_are_as_they_were() -> None:
    """The identity of a run that does not use it has no key for it."""
    assert identifying(Replay(fraction=0.2)) == {"class": "Replay", "fraction": 0.2, "mode": "additive"}
    assert identifying(Replay()) == {"class": "Replay", "fraction": 0.1, "mode": "additive"}
    assert identifying(Replay(loss_share=0.1)) == {"class": "Replay", "fraction": None, "mode": "additive", "loss_share": 0.1}
