"""Token sequences to trees that hold each shared token once. Pure: numpy only.

Sorted, the sequences form a trie. Each of its branchings is arranged in the one of three ways with
the least estimated cost:

- one tree: the shared part is once at its root, and every branch attends to it under a tree mask.
  Attention is computed for all pairs of tokens of a tree, so this suits short branches: the choices
  of one question.
- a prefix: the shared part runs once, and its keys and values are kept for the trees of its
  branches. This suits long shared parts: the worked examples of every question. Prefixes have one
  level.
- apart: each branch is a tree of its own, which computes the shared part again. This suits short
  shared parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

PREFIX_OVERHEAD = 32.0
"""Cost of a prefix beyond its tokens (a batch of its own, copies of its keys and values), in
tokens; rarely decisive."""

PREFIX_COPY = 0.01
"""Cost of attending to one kept token from one more tree, in tokens: its keys and values are copied
next to the tree's own."""


@dataclass(frozen=True)
class ForwardCost:
    """Cost of a tree, in tokens of the linear layers.

    It is T · (1 + attention · (T + P)) for T tokens after a prefix of P.

    Attributes:
        attention: cost of one (query, key) pair.
        longest: limit of a tree of several sequences, in tokens.
    """

    attention: float
    longest: int

    def tree(self, tokens: int, prefix: int) -> float:
        """Return the cost of a tree with this many tokens after a prefix."""
        return tokens * (1.0 + self.attention * (tokens + prefix)) + PREFIX_COPY * prefix if tokens else 0.0


@dataclass(frozen=True)
class Tree:
    """Sequences with a common beginning, each token once, in depth-first order.

    Attributes:
        tokens: (T,) ids.
        depths: (T,) position of each token in its sequences.
        runs: (start, end, parent) of each chain of tokens; parent is the index of the token before
            it, -1 at the root.
        prefix: index of the tree whose one sequence precedes this one's root, or None.
    """

    tokens: Ints
    depths: Ints
    runs: tuple[tuple[int, int, int], ...]
    prefix: int | None = None

    @property
    def is_chain(self) -> bool:
        """Whether it holds one sequence."""
        return len(self.runs) == 1

    def visible(self) -> NDArray[np.bool_]:
        """Return (T, T): whether token i (row) may attend to token j.

        It may if j is i or one of its ancestors.
        """
        size = len(self.tokens)
        seen = np.zeros((size, size), dtype=np.bool_)
        for start, end, parent in self.runs:
            seen[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
            if parent >= 0:
                seen[start:end, : parent + 1] |= seen[parent, : parent + 1]
        return seen

    def chains(self) -> Iterator[tuple[Tree, Ints]]:
        """Yield the sequences of this tree as trees of their own.

        Each comes with the places of its tokens in this tree.
        """
        seen, inner = self.visible(), {parent for _, _, parent in self.runs}
        for _, end, _ in self.runs:
            if end - 1 not in inner:
                path = np.nonzero(seen[end - 1])[0].astype(np.int64)
                yield Tree(self.tokens[path], self.depths[path], ((0, len(path), -1),), self.prefix), path


@dataclass(frozen=True)
class Plan:
    """Trees, and the places of the last tokens of each sequence in them.

    Attributes:
        trees: prefixes before the trees that need them.
        places: for each sequence (w, 2): (tree, token) of its last w tokens, as requested.
        distinct: tokens that differ, in themselves or in the tokens before them: no arrangement
            computes fewer.
        pairs: (query, key) pairs of their attention.
    """

    trees: tuple[Tree, ...]
    places: tuple[Ints, ...]
    distinct: int = 0
    pairs: int = 0


@dataclass(eq=False)
class _Node:
    """A branching of the trie, or the end of a sequence.

    Sequences lo ≤ i < hi of the sorted ones share ``depth`` tokens. With ``is_end``, sequence
    ``lo`` consists of these tokens alone; ``below`` counts the tokens of the branches.
    """

    lo: int
    hi: int
    depth: int
    is_end: bool = False
    children: list[_Node] = field(default_factory=list)
    below: int = 0

    def walk(self) -> Iterator[_Node]:
        """Yield the nodes below and this one, children first."""
        stack, order = [self], []
        while stack:
            node = stack.pop()
            order.append(node)
            stack += node.children
        return reversed(order)


def plan(sequences: Sequence[Sequence[int]], wanted: Sequence[int], cost: ForwardCost) -> Plan:
    """Arrange sequences in trees.

    Args:
        sequences: non-empty token sequences; equal ones are arranged once.
        wanted: number of last tokens of each sequence whose places are requested.
        cost: of trees.

    Returns:
        The plan; the same for the same sequences in any order, up to the order of ``places``.
    """
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    unique: list[Ints] = []
    rank = [0] * len(sequences)
    for i in order:
        found = np.asarray(sequences[i], dtype=np.int64)
        if not unique or not np.array_equal(unique[-1], found):
            unique.append(found)
        rank[i] = len(unique) - 1
    builder = _Builder(unique)
    for group in _arrangement(unique, cost):
        builder.add(*group)
    places = [builder.places(rank[i], len(sequences[i]), wanted[i]) for i in range(len(sequences))]
    common = [_shared(*pair) for pair in itertools.pairwise(unique)]
    new = [range(begin, len(sequence)) for begin, sequence in zip([0, *common][: len(unique)], unique, strict=True)]
    return Plan(tuple(builder.trees), tuple(places), sum(map(len, new)), sum(depth + 1 for depths in new for depth in depths))


def _shared(first: Ints, second: Ints) -> int:
    """Return the length of the common beginning of two sequences."""
    size = min(len(first), len(second))
    differ = np.nonzero(first[:size] != second[:size])[0]
    return int(differ[0]) if len(differ) else size


def _trie(sequences: Sequence[Ints]) -> _Node:
    """Return the root of the trie of sorted, different sequences.

    There is one node for each branching and one for each sequence.
    """
    root = _Node(0, len(sequences), 0)
    stack = [root]
    for i, sequence in enumerate(sequences):
        common = _shared(sequences[i - 1], sequence) if i else 0
        last = None
        while stack[-1].depth > common:
            last = stack.pop()
            last.hi = i
        if stack[-1].depth < common and last is not None:
            stack[-1].children.pop()
            stack.append(_Node(last.lo, i, common, children=[last]))
            stack[-2].children.append(stack[-1])
        leaf = _Node(i, i + 1, len(sequence), is_end=True)
        stack[-1].children.append(leaf)
        stack.append(leaf)
    for node in stack:
        node.hi = len(sequences)
    for node in root.walk():
        node.below = sum(child.depth - node.depth + child.below for child in node.children)
    return root


_Group = tuple[int, int, int, bool]
"""(lo, hi, depth, is_prefix): sequences lo ≤ i < hi in one tree after ``depth`` tokens; or their
first ``depth`` tokens as a prefix."""


def _arrangement(sequences: Sequence[Ints], cost: ForwardCost) -> list[_Group]:
    """Return the groups of least cost, each prefix before the groups that follow it."""
    root = _trie(sequences)
    best: dict[int, tuple[float, list[_Group]]] = {}
    for node in root.walk():
        price, groups = _without_prefix(node, 0, cost, best)
        if node.depth > PREFIX_OVERHEAD and node.children:
            kept, follow = _after(node, cost)
            kept += cost.tree(node.depth, 0) + PREFIX_OVERHEAD
            if kept < price:
                price, groups = kept, [(node.lo, node.hi, node.depth, True), *follow]
        best[id(node)] = price, groups
        for child in node.children:
            del best[id(child)]
    return best[id(root)][1]


def _after(node: _Node, cost: ForwardCost) -> tuple[float, list[_Group]]:
    """Return least cost and groups of a node's sequences after a kept prefix.

    The prefix is the node's own tokens.
    """
    best: dict[int, tuple[float, list[_Group]]] = {}
    for below in node.walk():
        if below is not node:
            best[id(below)] = _without_prefix(below, node.depth, cost, best)
    return _apart(node, node.depth, cost, best)


def _without_prefix(node: _Node, start: int, cost: ForwardCost, best: dict[int, tuple[float, list[_Group]]]) -> tuple[float, list[_Group]]:
    """Return least cost and groups of a node's sequences from depth ``start``, without a prefix.

    The choice is between one tree for all of them and the best groups of each child.
    """
    tokens = node.depth - start + node.below
    together = cost.tree(tokens, start)
    group = [(node.lo, node.hi, start, False)]
    if not node.children:
        return together, group
    apart, groups = _apart(node, start, cost, best)
    if node.depth > start and tokens <= cost.longest and together <= apart:
        return together, group
    return apart, groups


def _apart(node: _Node, start: int, cost: ForwardCost, best: dict[int, tuple[float, list[_Group]]]) -> tuple[float, list[_Group]]:
    """Return cost and groups of a node's children, each on its own.

    A sequence that ends at the node is a group too.
    """
    price, groups = cost.tree(node.depth - start, start) if node.is_end else 0.0, []
    if node.is_end:
        groups.append((node.lo, node.lo + 1, start, False))
    for child in node.children:
        price += best[id(child)][0]
        groups += best[id(child)][1]
    return price, groups


class _Builder:
    """Builder of trees from groups; it keeps the places of each sequence's tokens."""

    def __init__(self, sequences: Sequence[Ints]) -> None:
        self.sequences = sequences
        self.trees: list[Tree] = []
        self.prefix_of: dict[int, int] = {}
        self.where: dict[int, tuple[int, int, Ints]] = {}

    def add(self, lo: int, hi: int, depth: int, is_prefix: bool) -> None:
        """Add a group's tree; a sequence that ends with its prefix needs none."""
        if is_prefix:
            self.prefix_of |= dict.fromkeys(range(lo, hi), len(self.trees))
            self.trees.append(_chain(self.sequences[lo][:depth]))
            return
        number, path = len(self.trees), np.zeros(0, dtype=np.int64)
        tokens: list[Ints] = []
        runs: list[tuple[int, int, int]] = []
        size = 0
        for i in range(lo, hi):
            sequence = self.sequences[i]
            common = max(_shared(self.sequences[i - 1], sequence), depth) if i > lo else depth
            new = sequence[common:]
            if len(new):
                runs.append((size, size + len(new), int(path[common - depth - 1]) if common > depth else -1))
                tokens.append(new)
            path = np.concatenate([path[: common - depth], np.arange(size, size + len(new))])
            size += len(new)
            self.where[i] = (number, depth, path)
        if size:
            depths = np.concatenate([np.arange(len(new)) for new in tokens])
            for (start, end, parent), _ in zip(runs, tokens, strict=True):
                depths[start:end] += depths[parent] + 1 if parent >= 0 else depth
            self.trees.append(Tree(np.concatenate(tokens), depths, tuple(runs), self.prefix_of.get(lo) if depth else None))

    def places(self, rank: int, length: int, wanted: int) -> Ints:
        """Return (w, 2): tree and token of the last w tokens of a sequence."""
        number, depth, path = self.where[rank]
        spots = [(number, int(path[i - depth])) if i >= depth else (self.prefix_of[rank], i) for i in range(length - wanted, length)]
        return np.asarray(spots, dtype=np.int64).reshape(wanted, 2)


def _chain(tokens: Ints) -> Tree:
    return Tree(tokens, np.arange(len(tokens)), ((0, len(tokens), -1),))
