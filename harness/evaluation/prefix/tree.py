"""Token sequences to trees in which each shared token stands once. Pure: numpy only.

Sorted, the sequences form a trie. At each of its branchings there are three ways, and the one of
least estimated cost is taken:

- one tree: the shared part stands once at its root, every branch attends to it under a tree mask.
  Attention is computed for all pairs of tokens of a tree, so this pays for short branches: the
  choices of one question.
- a prefix: the shared part is run once and its keys and values are kept for the trees of its
  branches. This pays for long shared parts: the worked examples of every question. There is one
  level of it.
- apart: each branch is a tree of its own, which computes the shared part again. This pays where
  little is shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

PREFIX_OVERHEAD = 32.0
"""What a prefix costs beyond its tokens (a batch of its own, copies of its keys and values), in
tokens; rarely decisive."""

PREFIX_COPY = 0.01
"""Cost of attending to one kept token from one more tree, in tokens: its keys and values are
copied beside the tree's own."""


@dataclass(frozen=True)
class ForwardCost:
    """What a tree costs, in tokens of its linear layers: T · (1 + attention · (T + P)) for T tokens after a prefix of P.

    Attributes:
        attention: cost of one (query, key) pair.
        longest: no tree of several sequences is longer than this, in tokens.
    """

    attention: float
    longest: int

    def tree(self, tokens: int, prefix: int) -> float:
        """Return the cost of a tree of so many tokens after a prefix."""
        return tokens * (1.0 + self.attention * (tokens + prefix)) + PREFIX_COPY * prefix if tokens else 0.0


@dataclass(frozen=True)
class Tree:
    """Sequences that share a beginning, each token once, in the order of a depth-first walk.

    Attributes:
        tokens: (T,) ids.
        depths: (T,) position of each token in the sequences it stands in.
        runs: (start, end, parent) of each chain of tokens; parent is the index of the token before
            it, -1 at the root.
        prefix: index of the tree whose one sequence comes before this one's root, or None.
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
        """Return (T, T): whether token i (row) may attend to token j: j is i or one of its ancestors."""
        size = len(self.tokens)
        seen = np.zeros((size, size), dtype=np.bool_)
        for start, end, parent in self.runs:
            seen[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
            if parent >= 0:
                seen[start:end, : parent + 1] |= seen[parent, : parent + 1]
        return seen

    def chains(self) -> Iterator[tuple[Tree, Ints]]:
        """Yield trees of one sequence that together hold every token of this one, and where each of their tokens stands in it."""
        seen, inner = self.visible(), {parent for _, _, parent in self.runs}
        for _, end, _ in self.runs:
            if end - 1 not in inner:
                path = np.nonzero(seen[end - 1])[0].astype(np.int64)
                yield Tree(self.tokens[path], self.depths[path], ((0, len(path), -1),), self.prefix), path


@dataclass(frozen=True)
class Plan:
    """Trees, and where the last tokens of each sequence stand in them.

    Attributes:
        trees: prefixes before the trees that need them.
        places: for each sequence (w, 2): (tree, token) of its last w tokens, as asked for.
        distinct: tokens that differ in themselves or in what precedes them: no arrangement computes
            fewer.
        pairs: (query, key) pairs of their attention.
    """

    trees: tuple[Tree, ...]
    places: tuple[Ints, ...]
    distinct: int = 0
    pairs: int = 0


@dataclass(eq=False)
class _Node:
    """A branching of the trie, or a sequence's end: sequences lo ≤ i < hi of the sorted ones share ``depth`` tokens.

    Where ``is_end``, sequence ``lo`` is these very tokens; ``below`` counts the tokens of the
    branches.
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
        sequences: non-empty token sequences; equal ones stand once.
        wanted: how many of each sequence's last tokens are asked for.
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
    """Return how many tokens two sequences begin with in common."""
    size = min(len(first), len(second))
    differ = np.nonzero(first[:size] != second[:size])[0]
    return int(differ[0]) if len(differ) else size


def _trie(sequences: Sequence[Ints]) -> _Node:
    """Return the root of the trie of sorted, different sequences: one node a branching, one a sequence."""
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
    """Return the least cost of the sequences of a node whose tokens so far are a kept prefix, and the groups."""
    best: dict[int, tuple[float, list[_Group]]] = {}
    for below in node.walk():
        if below is not node:
            best[id(below)] = _without_prefix(below, node.depth, cost, best)
    return _apart(node, node.depth, cost, best)


def _without_prefix(node: _Node, start: int, cost: ForwardCost, best: dict[int, tuple[float, list[_Group]]]) -> tuple[float, list[_Group]]:
    """Choose between one tree for all sequences of a node, from depth ``start``, and what is best for its children."""
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
    """Return cost and groups of a node's children, each for itself, and of the sequence that ends here if one does."""
    price, groups = cost.tree(node.depth - start, start) if node.is_end else 0.0, []
    if node.is_end:
        groups.append((node.lo, node.lo + 1, start, False))
    for child in node.children:
        price += best[id(child)][0]
        groups += best[id(child)][1]
    return price, groups


class _Builder:
    """Makes trees of groups and remembers where each sequence's tokens stand."""

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
        """Return (w, 2): the tree and token of each of the last w tokens of a sequence."""
        number, depth, path = self.where[rank]
        spots = [(number, int(path[i - depth])) if i >= depth else (self.prefix_of[rank], i) for i in range(length - wanted, length)]
        return np.asarray(spots, dtype=np.int64).reshape(wanted, 2)


def _chain(tokens: Ints) -> Tree:
    return Tree(tokens, np.arange(len(tokens)), ((0, len(tokens), -1),))
