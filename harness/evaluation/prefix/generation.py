"""Greedy continuations of many prompts, with their shared parts computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from harness.core import memory
from harness.evaluation.prefix import budget
from harness.evaluation.prefix.attention import Call, KeysValues, attend
from harness.evaluation.prefix.engine import PREFIX_WEIGHT, Batch, Engine
from harness.evaluation.prefix.tree import ForwardCost, plan

LOOK_EVERY = 4
"""Steps between two searches for stop sequences, since decoding text is slow next to a step."""


class Stops(Protocol):
    """Stop sequences of answers."""

    def within(self, tokens: Sequence[int], new: int) -> bool:
        """Return whether an answer may end at one of its last ``new`` tokens."""
        ...

    def at_end(self, tokens: Sequence[int]) -> bool:
        """Return whether an answer ends with these tokens."""
        ...


@dataclass
class _Answer:
    """A prompt and its continuation so far."""

    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)
    done: bool = False
    searched: int = 0

    @property
    def length(self) -> int:
        """Tokens with kept keys and values: all but the last, which the next step runs."""
        return len(self.prompt) + len(self.tokens) - 1

    def is_over(self, limit: int, ends: frozenset[int], stops: Stops) -> bool:
        """Return whether the answer ends, and cut it where it does.

        Stop sequences are searched every few tokens, and before an answer ends otherwise.
        """
        last = len(self.tokens) >= limit or self.tokens[-1] in ends
        new = len(self.tokens) - self.searched
        if new < LOOK_EVERY and not last:
            return False
        if stops.within(self.tokens, new):
            for size in range(self.searched + 1, len(self.tokens) + 1):
                if stops.at_end(self.tokens[:size]):
                    del self.tokens[size:]
                    return True
        self.searched = len(self.tokens)
        return last


class _Slots:
    """Keys and values of the current prompts, in slots, and the attention of one step.

    A step adds one token to each prompt.
    """

    def __init__(self, slots: int, length: int) -> None:
        self.slots, self.length = slots, length
        self.kept: KeysValues = {}
        self.at(torch.zeros(0, dtype=torch.long), 0)

    def at(self, positions: torch.Tensor, longest: int) -> None:
        """Set the positions (n,) of the next tokens in the first slots, below ``longest``."""
        self.positions, self.longest = positions, longest
        self._seen: dict[int | None, torch.Tensor] = {}

    def fill(self, slot: int, parts: Sequence[KeysValues], size: int) -> None:
        """Put the first ``size`` keys and values of a prompt's parts into a slot."""
        for module, pair in parts[0].items():
            if module not in self.kept:
                keys, values = (part.new_zeros(self.slots, part.shape[0], self.length, part.shape[2]) for part in pair)
                self.kept[module] = keys, values
            for which, store in enumerate(self.kept[module]):
                store[slot, :, :size] = torch.cat([part[module][which] for part in parts], dim=1)[:, :size]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a slot."""
        for stores in self.kept.values():
            for store in stores:
                store[target, :, :length] = store[source, :, :length]

    def attend(self, call: Call) -> torch.Tensor:
        """Add one token to each of the first n slots, attending to its slot.

        The query is (1, H, n, D).
        """
        if id(call.module) not in self.kept:  # all prompts are single tokens
            sizes = (self.slots, call.key.shape[1], self.length)
            self.kept[id(call.module)] = call.key.new_zeros(*sizes, call.key.shape[3]), call.value.new_zeros(*sizes, call.value.shape[3])
        keys, values = self.kept[id(call.module)]
        number, longest = len(self.positions), self.longest
        rows = torch.arange(number, device=call.query.device)
        keys[rows, :, self.positions] = call.key[0].transpose(0, 1)
        values[rows, :, self.positions] = call.value[0].transpose(0, 1)
        if call.window not in self._seen:
            distance = self.positions[:, None] - torch.arange(longest, device=call.query.device)  # (n, L)
            seen = distance >= 0 if call.window is None else (distance >= 0) & (distance < call.window)
            self._seen[call.window] = seen[:, None, None]
        queries = call.query[0].transpose(0, 1)[:, :, None]  # (n, H, 1, D)
        found = attend(queries, keys[:number, :, :longest], values[:number, :, :longest], self._seen[call.window], call.scaling)
        return found[:, :, 0][None]


NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
}
"""Settings of transformers' generation that change greedy tokens, unless absent or at these
values."""

ABSENT = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "constraints",
    "dola_layers",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "max_time",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "watermarking_config",
)
"""Settings that change greedy tokens at any value."""


def is_greedy(settings: Mapping[str, Any], config: Any) -> bool:
    """Return whether a request asks for plain greedy decoding.

    Args:
        settings: of the request, without its stop sequences and length.
        config: the model's generation config, the default of each setting.
    """
    asked = {
        key: value for key, value in settings.items() if not (key == "do_sample" and not value) and not (key == "temperature" and not value)
    }
    own = all(getattr(config, name, None) in (None, neutral) for name, neutral in NEUTRAL.items())
    return not asked and own and all(getattr(config, name, None) is None for name in ABSENT)


def greedy(
    engine: Engine, prompts: Sequence[Sequence[int]], limit: int, ends: frozenset[int], stops: Stops, advance: Callable[[int], None]
) -> list[list[int]]:
    """Continue each prompt with its most likely tokens.

    Args:
        engine: of a model whose attention can be shared.
        prompts: non-empty token sequences.
        limit: most tokens to generate for each.
        ends: tokens that end an answer; they are returned too.
        stops: its stop sequences.
        advance: called with the number of prompts done since the last call.

    Returns:
        The generated tokens of each prompt.
    """
    slots = budget.slots(engine.model, max(map(len, prompts), default=0) + limit, engine.parts)
    answers = [_Answer(prompt) for prompt in prompts]
    while left := [answer for answer in answers if not answer.done]:
        try:
            _Continuation(engine, left, min(slots, len(left)), limit).run(ends, stops, advance)
        except RuntimeError as error:
            if not memory.out_of_memory(error) or (slots == 1 and engine.tokens == 1):
                raise
            for answer in left:
                answer.tokens, answer.searched = (answer.tokens, answer.searched) if answer.done else ([], 0)
            slots = max(1, slots // 2)
            engine.halve()
    return [answer.tokens for answer in answers]


class _Continuation:
    """Prompts that are continued together.

    All tokens of a prompt but the last run as trees; the last one is its first step.
    """

    def __init__(self, engine: Engine, answers: Sequence[_Answer], slots: int, limit: int) -> None:
        self.engine, self.limit, self.answers = engine, limit, answers
        prompts = [answer.prompt for answer in answers]
        long = [i for i, prompt in enumerate(prompts) if len(prompt) > 1]
        self.made = plan([prompts[i][:-1] for i in long], [1] * len(long), ForwardCost(engine.cost.attention, 0))
        self.tree_of = {i: int(place[0, 0]) for i, place in zip(long, self.made.places, strict=True)}
        self.slots, self.state = slots, _Slots(slots, max(map(len, prompts)) + limit)
        self.waiting = sorted(range(len(prompts)), key=lambda i: (self._prefix(i), -len(prompts[i]), i))
        self.active: list[_Answer] = []

    def _prefix(self, index: int) -> int:
        """Return the prefix of a prompt, -1 for none."""
        prefix = self.made.trees[self.tree_of[index]].prefix if index in self.tree_of else None
        return -1 if prefix is None else prefix

    def _weight(self, index: int) -> float:
        """Return the tokens that a prompt adds to a batch; its prefix is computed once."""
        if index not in self.tree_of:
            return 1.0
        tree, prefix = self.made.trees[self.tree_of[index]], self._prefix(index)
        return len(tree.tokens) + (PREFIX_WEIGHT * len(self.made.trees[prefix].tokens) if prefix >= 0 else 0.0)

    def run(self, ends: frozenset[int], stops: Stops, advance: Callable[[int], None]) -> None:
        """Continue all prompts."""
        self.engine.count(self.made.distinct, self.made.pairs, 0)
        with self.engine.ready():
            while self.waiting or self.active:
                while self.waiting and len(self.active) < self.slots:
                    self._start()
                self._step()
                advance(self._leave(ends, stops))

    def _start(self) -> None:
        """Run the next prompts, as slots and budget allow, and fill slots with them."""
        chosen: list[int] = []
        tokens = 0.0
        while self.waiting and len(self.active) + len(chosen) < self.slots:
            tokens += self._weight(self.waiting[0])
            if chosen and tokens > self.engine.tokens:
                break
            chosen.append(self.waiting.pop(0))
        trees = list(dict.fromkeys(self.tree_of[i] for i in chosen if i in self.tree_of))
        for prefix in dict.fromkeys(self.made.trees[tree].prefix for tree in trees):
            if prefix is not None:
                self._run([prefix], None)
            self._run([tree for tree in trees if self.made.trees[tree].prefix == prefix], prefix)
        for i in chosen:
            if i in self.tree_of:
                tree = self.tree_of[i]
                prefix, kept = self.made.trees[tree].prefix, self.engine.kept
                size = len(self.answers[i].prompt) - 1
                self.state.fill(len(self.active), [*([kept[prefix]] if prefix is not None else []), kept[tree]], size)
            self.active.append(self.answers[i])
        needed = {self._prefix(i) for i in self.waiting}
        for tree in [tree for tree in self.engine.kept if tree not in needed]:
            del self.engine.kept[tree]

    def _run(self, trees: Sequence[int], prefix: int | None) -> None:
        missing = tuple(tree for tree in trees if tree not in self.engine.kept)
        if missing:
            self.engine.run(self.made, Batch(missing, prefix, keep=True), np.zeros(0, dtype=np.int64))

    def _step(self) -> None:
        """Add the next token to every current prompt."""
        last = [answer.tokens[-1] if answer.tokens else answer.prompt[-1] for answer in self.active]
        positions = np.asarray([answer.length for answer in self.active])
        self.state.at(torch.from_numpy(positions).to(self.engine.model.device), int(positions.max()) + 1)
        read = self.engine.forward(np.asarray(last), positions, self.state, np.arange(len(last)))
        self.engine.computed += len(last)
        self.engine.count(len(last), int(positions.sum()) + len(last), len(last))
        chosen = self.engine.logits(read).float().argmax(dim=-1).tolist()
        for answer, token in zip(self.active, chosen, strict=True):
            answer.tokens.append(token)

    def _leave(self, ends: frozenset[int], stops: Stops) -> int:
        """Free the slots of finished answers, moving the last one up.

        Returns the number of finished answers.
        """
        before = len(self.active)
        for slot in reversed(range(before)):
            if self.active[slot].is_over(self.limit, ends, stops):
                self.active[slot].done = True
                moved = self.active.pop()
                if slot < len(self.active):
                    self.active[slot] = moved
                    self.state.move(len(self.active), slot, moved.length)
        return before - len(self.active)
