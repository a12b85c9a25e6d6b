"""Named random streams."""

from __future__ import annotations

import random

import numpy as np

from harness.core.seeds import derive, global_streams, permutation, seed_torch, set_global_streams, stream, untouched_global_streams


def test_streams_are_reproducible_and_independent() -> None:
    """Equal seed and name give equal numbers; another seed or name gives others."""
    first = stream(0, "data-order").integers(1 << 30, size=4)
    assert (first == stream(0, "data-order").integers(1 << 30, size=4)).all()
    assert (first != stream(1, "data-order").integers(1 << 30, size=4)).any()
    assert derive(0, "a", "b") != derive(0, "a/b", "c")


def test_a_permutation_holds_every_index_once() -> None:
    """Prefixes of one permutation are the nested subsets."""
    order = permutation(3, 100, "x")
    assert sorted(order) == list(range(100))
    assert order != sorted(order)


def test_a_block_that_seeds_leaves_the_global_streams_alone() -> None:
    """Evaluation may draw anything; training continues as if it had not run."""
    import torch

    seed_torch(5)
    expected = (torch.rand(1).item(), float(np.random.rand()))  # noqa: NPY002
    seed_torch(5)
    with untouched_global_streams():
        seed_torch(99)
        torch.rand(10)
    assert (torch.rand(1).item(), float(np.random.rand())) == expected  # noqa: NPY002


def test_global_streams_can_be_put_back() -> None:
    """Python's, numpy's and torch's numbers repeat.

    Also in the middle of a pair of normal ones, of which each generator keeps the second.
    """
    import torch

    def draw() -> list[float]:
        normal = [random.gauss(0, 1), float(np.random.normal()), torch.randn(1).item()]  # noqa: NPY002
        return [*normal, random.random(), float(np.random.rand()), torch.rand(1).item()]  # noqa: NPY002

    for before in range(2):
        seed_torch(7)
        for _ in range(before):
            draw()
        streams = global_streams()
        expected = draw()
        seed_torch(8)
        draw()
        set_global_streams(streams)
        assert draw() == expected
