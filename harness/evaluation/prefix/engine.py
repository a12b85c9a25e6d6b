"""Trees to batches to logits at the wanted places; the check against the plain forward pass; memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from harness.evaluation.prefix import budget
from harness.evaluation.prefix.attention import Attention, KeysValues, NotShared, layout, packed, using
from harness.evaluation.prefix.tree import Cost, Ints, Plan, Tree, plan
from harness.seeds import stream

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**26
"""Size of the logits that are made at a time: large enough to read the output head seldom, small beside the model."""

TOLERANCE = 1e-3
"""Largest difference of any log-probability from the plain forward pass in float32, in nats, for sharing to count as valid."""

HALF_TOLERANCE = 0.5
"""The same for weights of half precision, whose own rounding moves log-probabilities by tenths."""


@dataclass(frozen=True)
class Batch:
    """Trees that run together: all after one prefix, or none; ``keep`` says that they are prefixes themselves."""

    trees: tuple[int, ...]
    prefix: int | None = None
    keep: bool = False


@dataclass
class Verdict:
    """What the check of a model has found: up to which depth it went, why nothing may be shared, whether its head ends the model."""

    depth: int = -1
    refusal: str | None = None
    head_is_last: bool = False


_VERDICTS: WeakKeyDictionary[PreTrainedModel, Verdict] = WeakKeyDictionary()
"""By model, since it is the architecture that is checked: once a model, not once an evaluation."""


class Engine:
    """Runs a causal language model on trees.

    Args:
        model: in evaluation mode, on its device; its attention is swapped for the time of a call only.
        tokens: token budget of a forward pass; None finds it from memory.
        autocast: dtype of mixed precision, or None.
        softmax_dtype: of the log-softmax; None is that of the logits.

    Attributes:
        tokens: the budget in force; halved when memory runs out, ``halvings`` times so far.
        verdict: what the check of the model has found.
        computed: tokens of the last call; ``operations``: its floating-point operations.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: int | None = None,
        autocast: torch.dtype | None = None,
        softmax_dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.autocast, self.softmax_dtype = model, autocast, softmax_dtype
        self.tokens = tokens or budget.automatic(model)
        self.halvings = 0
        self.computed = 0
        self.operations = 0.0
        self._head: Any = getattr(model, "get_output_embeddings", lambda: None)()
        self.verdict = _VERDICTS.setdefault(model, Verdict())
        self.kept: dict[int, KeysValues] = {}

    @property
    def cost(self) -> Cost:
        """What trees cost for this model."""
        return Cost(budget.attention_cost(self.model), self.tokens)

    def refusal(self, depth: int) -> str | None:
        """Return why sequences of up to ``depth`` tokens are not shared, or None where they may be.

        The first call compares a few random sequences, shared in every way, with the plain forward pass. A model that looks back only
        so far (a sliding window) is checked again, beyond that, before a longer sequence is shared.
        """
        windows = budget.windows(self.model)
        needed = max([16, *[window + 16 for window in windows if depth > window]])
        verdict = self.verdict
        if verdict.refusal is None and needed > verdict.depth:
            verdict.refusal, verdict.depth = self._check(needed), needed
            if verdict.refusal is not None:
                kind = self.model.config.model_type
                logger.warning("prefix: requests are not shared, %s runs on the plain path: %s", kind, verdict.refusal)
        return verdict.refusal

    def score(
        self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], advance: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each request's targets, in nats, and whether they are the model's own greedy choice.

        Args:
            inputs: token sequences.
            targets: what follows each of the last tokens of its input, one for each.
            advance: told how many inputs are done, now and then.
        """
        made = plan(inputs, [len(target) for target in targets], self.cost)
        self.computed, self.operations = 0, 0.0
        request = np.repeat(np.arange(len(inputs)), [len(target) for target in targets])
        queries = _Queries(np.concatenate(made.places), np.concatenate([np.asarray(target, dtype=np.int64) for target in targets]))
        left = np.bincount(request, minlength=len(inputs))
        for spots, logits in self.visit(made, queries.spots):
            done = queries.read(spots, log_softmax(logits, dim=-1, dtype=self.softmax_dtype))
            np.subtract.at(left, request[done], 1)
            advance(int(np.unique(request[done][left[request[done]] == 0]).size))
        totals = np.bincount(request, weights=queries.values, minlength=len(inputs))
        missed = np.bincount(request, weights=~queries.greedy, minlength=len(inputs))
        return [(float(total), bool(miss == 0)) for total, miss in zip(totals, missed, strict=True)]

    def visit(self, made: Plan, spots: Ints) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run a plan and yield the logits at the spots, a chunk at a time.

        Args:
            made: the plan.
            spots: (S, 2) different (tree, token) places, sorted.

        Yields:
            Indices of some spots (n,), and the logits there (n, V).
        """
        with self.ready():
            yield from self._visit(made, spots)

    def _visit(self, made: Plan, spots: Ints) -> Iterator[tuple[Ints, torch.Tensor]]:
        first = np.searchsorted(spots[:, 0], np.arange(len(made.trees) + 1))
        for batch in self._batches(made):
            where, chosen, start = [], [], 0
            for tree in batch.trees:
                numbers = np.arange(first[tree], first[tree + 1])
                chosen.append(numbers)
                where.append(start + spots[numbers, 1])
                start += len(made.trees[tree].tokens)
            yield from self._logits(made, batch, np.concatenate(where), np.concatenate(chosen))

    @contextmanager
    def ready(self, *, exact: bool = False) -> Iterator[None]:
        """Run forward passes in here; ``exact`` leaves mixed precision off."""
        mixed = self.autocast is not None and not exact
        try:
            with torch.inference_mode(), torch.autocast(self.model.device.type, dtype=self.autocast, enabled=mixed), packed(self.model):
                yield
        finally:
            self.kept.clear()

    def _batches(self, made: Plan) -> Iterator[Batch]:
        """Yield batches within the budget in force: prefixes, then the trees that follow each; trees of similar size together."""
        followers: dict[int | None, list[int]] = {}
        for number, tree in enumerate(made.trees):
            followers.setdefault(tree.prefix, []).append(number)
        prefixes = {number for number in followers if number is not None}
        size = lambda number: len(made.trees[number].tokens)  # noqa: E731
        yield from (Batch(group) for group in self._filled([n for n in followers.get(None, []) if n not in prefixes], size))
        for group in self._filled(sorted(prefixes), size):
            yield Batch(group, keep=True)
            for prefix in group:
                yield from (Batch(trees, prefix) for trees in self._filled(followers[prefix], size))
            self.kept.clear()

    def _filled(self, trees: Sequence[int], size: Callable[[int], int]) -> Iterator[tuple[int, ...]]:
        """Group trees, longest first, so that each group's tokens stay within the budget, or it is one tree."""
        group: list[int] = []
        tokens = 0
        for number in sorted(trees, key=size, reverse=True):
            if group and tokens + size(number) > self.tokens:
                yield tuple(group)
                group, tokens = [], 0
            group.append(number)
            tokens += size(number)
        if group:
            yield tuple(group)

    def _logits(self, made: Plan, batch: Batch, where: Ints, chosen: Ints) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run one batch; where memory runs out, halve the budget and run the batch in parts that stay within it."""
        size = lambda number: len(made.trees[number].tokens)  # noqa: E731
        try:
            read = self.run(made, batch, where)
        except RuntimeError as error:
            if not budget.out_of_memory(error) or (len(batch.trees) == 1 and made.trees[batch.trees[0]].is_chain):
                raise
            read = None
        if read is not None:
            for start in range(0, len(where), self._chunk):
                yield chosen[start : start + self._chunk], self.logits(read[start : start + self._chunk])
            return
        budget.release(self.model.device)
        while self.tokens >= sum(map(size, batch.trees)):  # unless another part of the same batch has done so
            self.halve()
        if len(batch.trees) == 1:
            yield from self._in_chains(made, batch, where, chosen)
            return
        start = 0
        for trees in self._filled(batch.trees, size):
            end = start + sum(map(size, trees))
            first, last = np.searchsorted(where, (start, end))
            yield from self._logits(made, Batch(trees, batch.prefix, batch.keep), where[first:last] - start, chosen[first:last])
            start = end

    def _in_chains(self, made: Plan, batch: Batch, where: Ints, chosen: Ints) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run the sequences of a tree for which memory does not suffice, each for itself."""
        left = np.ones(len(where), dtype=np.bool_)
        for chain, path in made.trees[batch.trees[0]].chains():
            inside = left & np.isin(where, path)
            left &= ~inside
            alone = Batch((len(made.trees),), batch.prefix)
            yield from self._logits(Plan((*made.trees, chain), ()), alone, np.searchsorted(path, where[inside]), chosen[inside])

    def halve(self) -> None:
        """Go on with half the budget, and say so."""
        budget.release(self.model.device)
        self.tokens = max(1, self.tokens // 2)
        self.halvings += 1
        logger.warning("prefix: out of memory; going on with a budget of %d tokens a forward pass", self.tokens)

    @property
    def _chunk(self) -> int:
        return max(32, CHUNK_BYTES // (4 * int(self.model.config.get_text_config().vocab_size)))

    def run(self, made: Plan, batch: Batch, where: Ints) -> torch.Tensor:
        """Run a batch, keeping keys and values of prefixes; return what ``forward`` does for the tokens ``where`` in its packed row."""
        trees = [made.trees[number] for number in batch.trees]
        prefix = self.kept[batch.prefix] if batch.prefix is not None else None
        length = len(made.trees[batch.prefix].tokens) if batch.prefix is not None else 0
        stores: list[KeysValues] = [{} for _ in trees] if batch.keep else []
        tokens, depths = np.concatenate([tree.tokens for tree in trees]), np.concatenate([tree.depths for tree in trees])
        read = self.forward(tokens, depths, layout(trees, self.model.device, prefix, length, stores), where)
        self.kept |= dict(zip(batch.trees, stores, strict=True)) if batch.keep else {}
        self._count(trees, length, len(where))
        return read

    def forward(self, tokens: Ints, positions: Ints, attention: Attention, where: Ints) -> torch.Tensor:
        """Run the model on one packed row.

        Args:
            tokens: (N,) ids.
            positions: (N,) of each in its own sequence.
            attention: what its layers call.
            where: (w,) the tokens that are asked for.

        Returns:
            What the output head is given there, (w, C), if nothing follows the head, else the logits, (w, V): see ``logits``.
        """
        device = self.model.device
        with using(attention), self._reading(torch.from_numpy(where).to(device)) as read:
            output = self.model(
                input_ids=torch.from_numpy(tokens)[None].to(device),
                position_ids=torch.from_numpy(positions)[None].to(device),
                use_cache=False,
            )
        return read[0] if self.verdict.head_is_last else cast(torch.Tensor, output.logits[0])

    def logits(self, read: torch.Tensor) -> torch.Tensor:
        """Return the logits (w, V) of what ``forward`` returned."""
        return cast(torch.Tensor, self._head(read)) if self.verdict.head_is_last else read

    def _count(self, trees: Sequence[Tree], prefix: int, wanted: int) -> None:
        """Count tokens and the floating-point operations that cannot be saved: linear layers, pairs of attention, the output head."""
        linear, pair, head = budget.operations(self.model)
        sizes = [len(tree.tokens) for tree in trees]
        self.computed += sum(sizes)
        self.operations += linear * sum(sizes) + pair * sum(size * (prefix + size / 2) for size in sizes) + head * wanted

    @contextmanager
    def _reading(self, wanted: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Hand the output head the wanted tokens alone: none where it is read here, chunk by chunk, and nothing follows it."""
        read: list[torch.Tensor] = []

        def select(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, *others = arguments
            read.append(hidden[0, wanted])
            return (hidden[:, :0] if self.verdict.head_is_last else read[0][None], *others)

        hook = self._head.register_forward_pre_hook(select)
        try:
            yield read
        finally:
            hook.remove()

    def _check(self, length: int) -> str | None:
        """Compare sharing with the plain forward pass on random tokens; return what is wrong, or None."""
        if self._head is None:
            return "it has no output head that can be read"
        if odd := budget.odd_positions(self.model):
            return odd
        try:
            worst = self._worst_difference(length)
        except (NotShared, TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and budget.out_of_memory(error):
                raise
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        allowed = TOLERANCE if self.model.dtype == torch.float32 else HALF_TOLERANCE
        return None if worst <= allowed else f"log-probabilities differ by {worst:.2g} nats from its plain forward pass"

    def _worst_difference(self, length: int) -> float:
        """Return the largest difference of a log-probability, over a prefix, a tree after it, a tree without it and a chain."""
        draw = stream(0, "prefix-check")
        words = int(self.model.config.get_text_config().vocab_size)

        def ids(size: int) -> Ints:
            return draw.integers(0, words, size, dtype=np.int64)

        stem, branch = ids(length), ids(5)
        sequences = [np.concatenate([stem, *part]) for part in ([branch, ids(2)], [branch, ids(3)], [ids(4)])]
        trees = (
            Tree(stem, np.arange(length), ((0, length, -1),)),
            _fork(sequences[0], sequences[1], length, length + 5, prefix=0),
            Tree(sequences[2][length:], np.arange(length, length + 4), ((0, 4, -1),), 0),
            _fork(sequences[0], sequences[1], 0, length + 5, prefix=None),
            Tree(sequences[2], np.arange(length + 4), ((0, length + 4, -1),)),
        )
        tails = [[(1, 5 + i) for i in (0, 1)], [(1, 7 + i) for i in range(3)], [(2, i) for i in range(4)]]
        again = [[(3, length + 5 + i) for i in (0, 1)], [(3, length + 7 + i) for i in range(3)], [(4, length + i) for i in range(4)]]
        expected = self._plain(sequences)
        worst = 0.0
        for places in (tails, again):
            spots = np.asarray([spot for tail in places for spot in tail], dtype=np.int64)
            order = np.lexsort((spots[:, 1], spots[:, 0]))
            found = torch.empty_like(expected)
            with self.ready(exact=True):
                for numbers, logits in self._visit(Plan(trees, ()), spots[order]):
                    found[torch.from_numpy(order[numbers])] = log_softmax(logits.float(), dim=-1)
            worst = max(worst, float((found - expected).abs().max()))
        return worst if worst == worst else float("inf")

    @contextmanager
    def _listening(self, heard: list[torch.Tensor]) -> Iterator[None]:
        """Note what the output head is given."""
        hook = self._head.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0]))
        try:
            yield
        finally:
            hook.remove()

    def _plain(self, sequences: Sequence[Ints]) -> torch.Tensor:
        """Return log-probabilities at the last 2, 3 and 4 tokens of three sequences, (9, V), and learn whether the head ends the model."""
        device, found, pure = self.model.device, [], True
        with torch.inference_mode():
            for sequence, size in zip(sequences, (2, 3, 4), strict=True):
                seen: list[torch.Tensor] = []
                with self._listening(seen):
                    logits = self.model(input_ids=torch.from_numpy(sequence)[None].to(device), use_cache=False).logits[0, -size:]
                pure = pure and len(seen) == 1 and torch.allclose(self._head(seen[0][0, -size:]).float(), logits.float(), atol=1e-4)
                found.append(log_softmax(logits.float(), dim=-1))
        self.verdict.head_is_last = pure
        return torch.cat(found)


def _fork(first: Ints, second: Ints, start: int, fork: int, prefix: int | None) -> Tree:
    """Return the tree of two sequences that part at ``fork``, from depth ``start``."""
    stem, one, other = first[start:fork], first[fork:], second[fork:]
    depths = np.concatenate([np.arange(start, len(first)), np.arange(fork, len(second))])
    cut, size = len(stem), len(stem) + len(one)
    runs = ((0, size, -1), (size, size + len(other), cut - 1))
    return Tree(np.concatenate([stem, one, other]), depths, runs, prefix)


class _Queries:
    """Which targets are asked for at which spots, and what was found."""

    def __init__(self, places: Ints, targets: Ints) -> None:
        self.spots, inverse = np.unique(places, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        self.order = np.argsort(inverse, kind="stable")
        self.bounds = np.searchsorted(inverse[self.order], np.arange(len(self.spots) + 1))
        self.targets = targets
        self.values = np.zeros(len(targets))
        self.greedy = np.zeros(len(targets), dtype=np.bool_)

    def read(self, spots: Ints, log_probs: torch.Tensor) -> Ints:
        """Take what is asked for at some spots from their log-probabilities (n, V); return the queries that were answered."""
        counts = self.bounds[spots + 1] - self.bounds[spots]
        asked = np.concatenate([self.order[self.bounds[spot] : self.bounds[spot + 1]] for spot in spots]) if len(spots) else spots
        row = torch.from_numpy(np.repeat(np.arange(len(spots)), counts)).to(log_probs.device)
        target = torch.from_numpy(self.targets[asked]).to(log_probs.device)
        self.values[asked] = log_probs[row, target].double().cpu().numpy()
        self.greedy[asked] = (log_probs.argmax(dim=-1)[row] == target).cpu().numpy()
        return cast(Ints, asked)
