"""Arrangement of tokens in trees: by hand, and for random sequences."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from harness.evaluation.prefix.tree import PREFIX_OVERHEAD, ForwardCost, Plan, Tree, plan

CHEAP = ForwardCost(attention=0.001, longest=1000)
DEAR = ForwardCost(attention=0.01, longest=1000)


def words(count: int, start: int) -> list[int]:
    return list(range(start, start + count))


def sizes(made: Plan) -> list[tuple[int, int | None]]:
    return [(len(tree.tokens), tree.prefix) for tree in made.trees]


def seen(made: Plan, place: Sequence[int]) -> list[int]:
    """Return the tokens that a place attends to, with those of its prefix."""
    tree = made.trees[place[0]]
    before = [] if tree.prefix is None else made.trees[tree.prefix].tokens.tolist()
    return [*before, *tree.tokens[np.nonzero(tree.visible()[place[1]])[0]].tolist()]


def check(made: Plan, sequences: Sequence[Sequence[int]], wanted: Sequence[int]) -> None:
    for sequence, count, places in zip(sequences, wanted, made.places, strict=True):
        assert places.shape == (count, 2)
        for position, place in zip(range(len(sequence) - count, len(sequence)), places.tolist(), strict=True):
            assert seen(made, place) == list(sequence[: position + 1])
            assert made.trees[place[0]].depths[place[1]] == position


def price(made: Plan, cost: ForwardCost) -> float:
    prefixes = {tree.prefix for tree in made.trees if tree.prefix is not None}
    before = [0 if tree.prefix is None else len(made.trees[tree.prefix].tokens) for tree in made.trees]
    return PREFIX_OVERHEAD * len(prefixes) + sum(cost.tree(len(tree.tokens), past) for tree, past in zip(made.trees, before, strict=True))


def computed(made: Plan) -> int:
    return sum(len(tree.tokens) for tree in made.trees)


def test_the_choices_of_a_question_are_one_tree() -> None:
    """Ten tokens of question are in the tree once.

    With branches of one, one and two tokens it has 14 tokens instead of 34.
    """
    question = words(10, 100)
    sequences = [[*question, 1], [*question, 2], [*question, 3, 4]]
    made = plan(sequences, [1, 1, 2], CHEAP)
    (tree,) = made.trees
    assert tree.tokens.tolist() == [*question, 1, 2, 3, 4]
    assert tree.depths.tolist() == [*range(10), 10, 10, 10, 11]
    assert tree.runs == ((0, 11, -1), (11, 12, 9), (12, 14, 9))
    assert [places.tolist() for places in made.places] == [[[0, 10]], [[0, 11]], [[0, 12], [0, 13]]]
    assert computed(made) == made.distinct == 14
    assert made.pairs == sum(range(1, 11)) + 11 + 11 + 11 + 12


def test_a_tree_mask_shows_a_token_its_own_branch() -> None:
    """In the tree a(b, c(d)), a token sees itself and its ancestors."""
    made = plan([[1, 2], [1, 3, 4]], [1, 1], CHEAP)
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    assert made.trees[0].visible().astype(int).tolist() == expected


def test_long_shared_examples_are_a_prefix() -> None:
    """100 shared tokens, then questions of 50 tokens and two choices.

    The cost is 496 as a prefix, 620 as one tree, 766 apart (``ForwardCost.tree``).
    """
    shots = words(100, 1000)
    sequences = [[*shots, *words(50, start), choice] for start in (2000, 3000) for choice in (1, 2)]
    made = plan(sequences, [1] * 4, DEAR)
    assert sizes(made) == [(100, None), (52, 0), (52, 0)]
    assert made.trees[0].is_chain
    assert not made.trees[1].is_chain
    assert made.trees[1].depths.tolist() == [*range(100, 150), 150, 150]
    assert price(made, DEAR) == pytest.approx(200 + 32 + 2 * (52 * 2.52 + 1))
    check(made, sequences, [1] * 4)


def test_little_that_is_shared_is_computed_twice() -> None:
    """One shared token, then 50 others each: one tree of 101 tokens costs 1121.

    Two trees of 51 cost 622.
    """
    cost = ForwardCost(attention=0.1, longest=1000)
    sequences = [[7, *words(50, start)] for start in (100, 200)]
    made = plan(sequences, [1, 1], cost)
    assert sizes(made) == [(51, None), (51, None)]
    assert all(tree.is_chain for tree in made.trees)


def test_a_tree_is_never_longer_than_it_may_be() -> None:
    """A tree of 14 tokens becomes three if 13 are the limit for several sequences."""
    question = words(10, 100)
    sequences = [[*question, 1], [*question, 2], [*question, 3, 4]]
    made = plan(sequences, [1] * 3, ForwardCost(attention=0.001, longest=13))
    assert sizes(made) == [(11, None), (11, None), (12, None)]
    check(made, sequences, [1] * 3)


def test_equal_sequences_stand_once() -> None:
    """Each keeps its own number of wanted places."""
    made = plan([[5, 6, 7]] * 3, [1, 2, 3], CHEAP)
    assert sizes(made) == [(3, None)]
    assert [places.tolist() for places in made.places] == [[[0, 2]], [[0, 1], [0, 2]], [[0, 0], [0, 1], [0, 2]]]


def test_a_sequence_that_begins_another_needs_no_token_of_its_own() -> None:
    """It is on the other's path."""
    made = plan([[1, 2, 3, 4, 5], [1, 2, 3]], [2, 2], CHEAP)
    assert computed(made) == 5
    assert [places.tolist() for places in made.places] == [[[0, 3], [0, 4]], [[0, 1], [0, 2]]]


def test_wanted_tokens_may_stand_inside_a_prefix() -> None:
    """A sequence equal to the prefix has all its places there.

    A longer one has there those that its own tree does not hold.
    """
    shots = words(100, 1000)
    sequences = [[*shots, *words(50, start)] for start in (2000, 3000)] + [shots]
    made = plan(sequences, [53, 1, 2], DEAR)
    assert sizes(made) == [(100, None), (50, 0), (50, 0)]
    assert made.places[0].tolist() == [[0, 97], [0, 98], [0, 99], *[[1, i] for i in range(50)]]
    assert made.places[2].tolist() == [[0, 98], [0, 99]]
    check(made, sequences, [53, 1, 2])


def test_sequences_of_one_token() -> None:
    """They have no tokens before them, so nothing is shared."""
    made = plan([[3], [4], [3]], [1, 1, 1], CHEAP)
    assert sizes(made) == [(1, None), (1, None)]
    assert [places.tolist() for places in made.places] == [[[0, 0]], [[1, 0]], [[0, 0]]]


def drawn(seed: int) -> tuple[list[list[int]], list[int], ForwardCost]:
    """Sequences over few tokens, many of which begin with the same 0, 5 or 40."""
    draw = random.Random(seed)
    vocabulary = draw.choice([2, 3, 10])
    ids = lambda count: [draw.randrange(vocabulary) for _ in range(count)]  # noqa: E731
    shared = ids(draw.choice([0, 5, 40]))
    starts = [shared, shared[: len(shared) // 2]]
    sequences = [[*draw.choice(starts), *ids(draw.randint(0, 8))] or [1] for _ in range(draw.randint(1, 25))]
    cost = ForwardCost(draw.choice([1e-4, 1e-2, 1.0]), draw.choice([8, 1000]))
    return sequences, [draw.randint(1, len(sequence)) for sequence in sequences], cost


@pytest.mark.parametrize("block", range(6))
def test_every_wanted_place_sees_its_own_sequence_up_to_there(block: int) -> None:
    """In any arrangement: each at its position, with the tokens before it, itself, no other."""
    for seed in range(50 * block, 50 * block + 50):
        sequences, wanted, cost = drawn(seed)
        check(plan(sequences, wanted, cost), sequences, wanted)


def test_sharing_never_costs_more_than_not_sharing() -> None:
    """No sequence is computed twice, or apart where together is cheaper."""
    for seed in range(300):
        sequences, wanted, cost = drawn(seed)
        made = plan(sequences, wanted, cost)
        alone = {tuple(sequence) for sequence in sequences}
        assert computed(made) <= sum(map(len, alone))
        assert price(made, cost) <= sum(cost.tree(len(sequence), 0) for sequence in alone) + 1e-6


def test_the_order_of_requests_does_not_matter() -> None:
    """The same trees, and for each sequence the same places."""
    for seed in range(100):
        sequences, wanted, cost = drawn(seed)
        order = list(range(len(sequences)))
        random.Random(seed).shuffle(order)
        made = plan(sequences, wanted, cost)
        again = plan([sequences[i] for i in order], [wanted[i] for i in order], cost)
        assert [flat(tree) for tree in again.trees] == [flat(tree) for tree in made.trees]
        assert [places.tolist() for places in again.places] == [made.places[i].tolist() for i in order]


def flat(tree: Tree) -> tuple[object, ...]:
    return tree.tokens.tolist(), tree.depths.tolist(), tree.runs, tree.prefix
