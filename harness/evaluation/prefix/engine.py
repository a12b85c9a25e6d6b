"""Trees to batches to logits at the wanted places; smaller batches where memory runs out."""

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

from harness.core import memory
from harness.evaluation.prefix import budget
from harness.evaluation.prefix.attention import Attention, KeysValues, layout, packed, using
from harness.evaluation.prefix.linear import fast
from harness.evaluation.prefix.tree import ForwardCost, Ints, Plan, plan
from harness.models import halved

logger = logging.getLogger(__name__)

PREFIX_WEIGHT = 1 / 16
"""Memory of one kept token of a prefix, copied for a tree in one layer, as a share of a computed
token's (two of about thirty vectors)."""

CHUNK_BYTES = 2**26
"""Size of the logits computed at a time: large enough to read the output head rarely, small next to
the model."""


@dataclass(frozen=True)
class Batch:
    """Trees that run together: all after one prefix, or none.

    With ``keep`` they are prefixes themselves.
    """

    trees: tuple[int, ...]
    prefix: int | None = None
    keep: bool = False


@dataclass
class Verdict:
    """Result of the check of a model.

    Attributes:
        depth: of the longest sequences checked so far.
        refusal: why no request may be shared, or None.
        head_is_last: whether the output head is the model's last operation.
    """

    depth: int = -1
    refusal: str | None = None
    head_is_last: bool = False


_VERDICTS: WeakKeyDictionary[PreTrainedModel, Verdict] = WeakKeyDictionary()
"""By model: the check is on the architecture, so it runs once per model, not per evaluation."""


class Engine:
    """Runs a causal language model on trees.

    Args:
        model: in evaluation mode, on its device; its attention is replaced during a call only.
        tokens: token budget of a forward pass; None finds it from memory.
        autocast: dtype of mixed precision, or None.
        softmax_dtype: of the log-softmax; None is that of the logits.

    Attributes:
        tokens: the current budget; halved when memory runs out, ``halvings`` times so far.
        parts: what it is divided by.
        verdict: result of the check of the model.
        computed: tokens since ``begin``; ``operations``: floating-point operations that any
            arrangement of them needs.
        windows: sliding window of each layer in the last forward pass, None for no window.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: int | None = None,
        autocast: torch.dtype | None = None,
        softmax_dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.autocast, self.softmax_dtype = model, autocast, softmax_dtype
        longest = tokens or budget.automatic(model)
        self.tokens = self._found = tokens or min(longest, budget.in_cache(model))
        self._trees = longest // self._found
        self.parts = 1
        self.halvings = 0
        self.computed = 0
        self.operations = 0.0
        self.head: Any = getattr(model, "get_output_embeddings", lambda: None)()
        self.verdict = _VERDICTS.setdefault(model, Verdict())
        self.windows: list[int | None] = []
        self.kept: dict[int, KeysValues] = {}

    @property
    def cost(self) -> ForwardCost:
        """The cost of trees for this model; one tree may exceed the budget where memory allows."""
        return ForwardCost(budget.attention_cost(self.model), self.tokens * self._trees)

    def divide(self, parts: int) -> None:
        """Divide the budget by a number, and a call's requests into as many batches at least."""
        self.parts *= parts
        self.tokens = self._found = max(1, self._found // parts)

    def begin(self) -> None:
        """Reset the counts and the budget, so that no call's batches depend on another's."""
        self.tokens = self._found
        self.computed, self.operations = 0, 0.0

    def score(
        self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], advance: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        """Return each request's log-likelihood in nats, and whether its targets are greedy.

        Args:
            inputs: token sequences.
            targets: of each input, the tokens after its last ones, one for each of them.
            advance: called with the number of inputs done since the last call.
        """
        made = plan(inputs, [len(target) for target in targets], self.cost)
        request = np.repeat(np.arange(len(inputs)), [len(target) for target in targets])
        queries = _Queries(np.concatenate(made.places), np.concatenate([np.asarray(target, dtype=np.int64) for target in targets]))
        left = np.bincount(request, minlength=len(inputs))
        self.count(made.distinct, made.pairs, len(queries.spots))
        if self.parts > 1:
            self.tokens = max(1, min(self.tokens, made.distinct // self.parts))
        for spots, log_probs in self.visit(made, queries.spots, lambda logits: log_softmax(logits, dim=-1, dtype=self.softmax_dtype)):
            done = queries.read(spots, log_probs)
            np.subtract.at(left, request[done], 1)
            advance(int(np.unique(request[done][left[request[done]] == 0]).size))
        totals = np.bincount(request, weights=queries.values, minlength=len(inputs))
        missed = np.bincount(request, weights=~queries.greedy, minlength=len(inputs))
        return [(float(total), bool(miss == 0)) for total, miss in zip(totals, missed, strict=True)]

    def visit(
        self, made: Plan, spots: Ints, read: Callable[[torch.Tensor], torch.Tensor], *, exact: bool = False
    ) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run a plan and yield values read from the logits at spots, in chunks.

        Args:
            made: the plan.
            spots: (S, 2) different (tree, token) places, sorted.
            read: maps logits (n, V) to the values.
            exact: without mixed precision.

        Yields:
            Indices of some spots (n,), and the result of ``read`` for their logits.
        """
        first = np.searchsorted(spots[:, 0], np.arange(len(made.trees) + 1))
        with self.ready(exact=exact):
            for batch in self._batches(made):
                where, chosen, start = [], [], 0
                for tree in batch.trees:
                    numbers = np.arange(first[tree], first[tree + 1])
                    chosen.append(numbers)
                    where.append(start + spots[numbers, 1])
                    start += len(made.trees[tree].tokens)
                yield from self._reads(made, batch, np.concatenate(where), np.concatenate(chosen), read)

    @contextmanager
    def ready(self, *, exact: bool = False) -> Iterator[None]:
        """Prepare the model for forward passes; ``exact`` turns mixed precision off."""
        mixed = self.autocast is not None and not exact
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.model.device.type, dtype=self.autocast, enabled=mixed),
                halved.weights(self.model, mixed and self.autocast == torch.bfloat16),
                packed(self.model),
                fast(self.model),
            ):
                yield
        finally:
            self.kept.clear()

    def _batches(self, made: Plan) -> Iterator[Batch]:
        """Yield batches within the current budget: prefixes, and the trees after each.

        Trees of similar size share a batch.
        """
        followers: dict[int | None, list[int]] = {}
        for number, tree in enumerate(made.trees):
            followers.setdefault(tree.prefix, []).append(number)
        prefixes = {number for number in followers if number is not None}
        size = lambda number: len(made.trees[number].tokens)  # noqa: E731
        yield from (Batch(group) for group in self._filled([n for n in followers.get(None, []) if n not in prefixes], size))
        for group in self._filled(sorted(prefixes), size):
            yield Batch(group, keep=True)
            for prefix in group:
                yield from (Batch(trees, prefix) for trees in self._filled(followers[prefix], size, len(made.trees[prefix].tokens)))
            self.kept.clear()

    def _filled(self, trees: Sequence[int], size: Callable[[int], int], prefix: int = 0) -> Iterator[tuple[int, ...]]:
        """Group trees, longest first, within the budget; a larger tree is alone.

        During a layer each tree holds a copy of its prefix's keys and values, which weigh less than
        computed tokens.
        """
        group: list[int] = []
        tokens = 0.0
        for number in sorted(trees, key=size, reverse=True):
            weight = size(number) + PREFIX_WEIGHT * prefix
            if group and tokens + weight > self.tokens:
                yield tuple(group)
                group, tokens = [], 0.0
            group.append(number)
            tokens += weight
        if group:
            yield tuple(group)

    def _reads(
        self, made: Plan, batch: Batch, where: Ints, chosen: Ints, read: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run one batch.

        Where memory runs out, halve the budget and run the batch in parts within it.
        """
        size = lambda number: len(made.trees[number].tokens)  # noqa: E731
        try:
            hidden = self.run(made, batch, where)
        except RuntimeError as error:
            if not memory.out_of_memory(error) or (len(batch.trees) == 1 and made.trees[batch.trees[0]].is_chain):
                raise
            hidden = None
        if hidden is not None:
            yield from self._chunks(hidden, chosen, read)
            return
        memory.release(self.model.device)
        while self.tokens >= sum(map(size, batch.trees)):  # unless another part of this batch has done so
            self.halve()
        if len(batch.trees) == 1:
            yield from self._in_chains(made, batch, where, chosen, read)
            return
        start = 0
        for trees in self._filled(batch.trees, size):
            end = start + sum(map(size, trees))
            first, last = (int(np.searchsorted(where, edge)) for edge in (start, end))
            part = Batch(trees, batch.prefix, batch.keep)
            yield from self._reads(made, part, where[first:last] - start, chosen[first:last], read)
            start = end

    def _chunks(
        self, hidden: torch.Tensor, chosen: Ints, read: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Read logits in chunks, in smaller ones where memory runs out."""
        start, size = 0, max(32, CHUNK_BYTES // (4 * int(self.model.config.get_text_config().vocab_size)))
        while start < len(hidden):
            try:
                found = read(self.logits(hidden[start : start + size]))
            except RuntimeError as error:
                if not memory.out_of_memory(error) or size == 1:
                    raise
                found = None
            if found is None:
                memory.release(self.model.device)
                size = max(1, size // 2)
                continue
            yield chosen[start : start + size], found
            start += size

    def _in_chains(
        self, made: Plan, batch: Batch, where: Ints, chosen: Ints, read: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Run each sequence of a tree alone, where memory does not suffice for the tree."""
        left = np.ones(len(where), dtype=np.bool_)
        for chain, path in made.trees[batch.trees[0]].chains():
            inside = left & np.isin(where, path)
            left &= ~inside
            alone = Batch((len(made.trees),), batch.prefix)
            yield from self._reads(Plan((*made.trees, chain), ()), alone, np.searchsorted(path, where[inside]), chosen[inside], read)

    def halve(self) -> None:
        """Halve the budget, with a warning."""
        memory.release(self.model.device)
        self.tokens = max(1, self.tokens // 2)
        self.halvings += 1
        logger.warning("prefix: out of memory; continuing with a budget of %d tokens per forward pass", self.tokens)

    def run(self, made: Plan, batch: Batch, where: Ints) -> torch.Tensor:
        """Run a batch, and keep keys and values of prefixes.

        Returns the result of ``forward`` for the tokens ``where`` in its packed row.
        """
        trees = [made.trees[number] for number in batch.trees]
        prefix = self.kept[batch.prefix] if batch.prefix is not None else None
        length = len(made.trees[batch.prefix].tokens) if batch.prefix is not None else 0
        stores: list[KeysValues] = [{} for _ in trees] if batch.keep else []
        tokens, depths = np.concatenate([tree.tokens for tree in trees]), np.concatenate([tree.depths for tree in trees])
        read = self.forward(tokens, depths, layout(trees, self.model.device, prefix, length, stores), where)
        self.kept |= dict(zip(batch.trees, stores, strict=True)) if batch.keep else {}
        self.computed += len(tokens)
        return read

    def forward(self, tokens: Ints, positions: Ints, attention: Attention, where: Ints) -> torch.Tensor:
        """Run the model on one packed row.

        Args:
            tokens: (N,) ids.
            positions: (N,) of each in its own sequence.
            attention: for its layers.
            where: (w,) the wanted tokens.

        Returns:
            The input of the output head there, (w, C), if the head is the last operation, else the
            logits, (w, V): see ``logits``.
        """
        device = self.model.device
        with using(attention) as self.windows, self._reading(torch.from_numpy(where).to(device)) as read:
            output = self.model(
                input_ids=torch.from_numpy(tokens)[None].to(device),
                position_ids=torch.from_numpy(positions)[None].to(device),
                use_cache=False,
            )
        return read[0] if self.verdict.head_is_last else cast(torch.Tensor, output.logits[0])

    def logits(self, read: torch.Tensor) -> torch.Tensor:
        """Return the logits (w, V) for a result of ``forward``."""
        return cast(torch.Tensor, self.head(read)) if self.verdict.head_is_last else read

    def count(self, tokens: int, pairs: int, wanted: int) -> None:
        """Count the operations of tokens, (query, key) pairs and tokens of the output head."""
        linear, pair, head = budget.operations(self.model)
        self.operations += linear * tokens + pair * pairs + head * wanted

    @contextmanager
    def _reading(self, wanted: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Give the output head the wanted tokens alone.

        It gets none if it is the last operation: ``logits`` then applies it, chunk by chunk.
        """
        read: list[torch.Tensor] = []

        def select(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, *others = arguments
            read.append(hidden[0, wanted])
            return (hidden[:, :0] if self.verdict.head_is_last else read[0][None], *others)

        hook = self.head.register_forward_pre_hook(select)
        try:
            yield read
        finally:
            hook.remove()


class _Queries:
    """Targets by spot, and their log-probabilities."""

    def __init__(self, places: Ints, targets: Ints) -> None:
        self.spots, inverse = np.unique(places, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        self.order = np.argsort(inverse, kind="stable")
        self.bounds = np.searchsorted(inverse[self.order], np.arange(len(self.spots) + 1))
        self.targets = targets
        self.values = np.zeros(len(targets))
        self.greedy = np.zeros(len(targets), dtype=np.bool_)

    def read(self, spots: Ints, log_probs: torch.Tensor) -> Ints:
        """Store the targets' values from the log-probabilities (n, V) of some spots.

        Returns the queries that were answered.
        """
        counts = self.bounds[spots + 1] - self.bounds[spots]
        asked = np.concatenate([self.order[self.bounds[spot] : self.bounds[spot + 1]] for spot in spots]) if len(spots) else spots
        row = torch.from_numpy(np.repeat(np.arange(len(spots)), counts)).to(log_probs.device)
        target = torch.from_numpy(self.targets[asked]).to(log_probs.device)
        self.values[asked] = log_probs[row, target].double().cpu().numpy()
        self.greedy[asked] = (log_probs.argmax(dim=-1)[row] == target).cpu().numpy()
        return cast(Ints, asked)
