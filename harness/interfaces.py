"""The protocols and row types every part agrees on. Read this first.

Words (one vocabulary: yaml key = field = table column = axis label):

- run: one training trajectory (start model, tuning, objective, mitigation, data, schedule, seed).
- point: (run, volume), the state of a run after a given volume of data, evaluated. Volume 0 is *before*.
- volume: target rows seen once, in permutation order.
- target / probe: the role of a suite: what is being learned / what could be forgotten.
- anchor: the declared data that stand for the past (replay draws on it), with a recorded budget.

The way through: compose → plan → load model → rows → tuning.prepare → train (objective + penalty) → evaluate → Record →
tidy table → forgetting, statistics → figures, tables, page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

RowKind = Literal["text", "completion", "chat"]
Split = Literal["train", "test"]
Origin = Literal["target", "anchor"]
PromptFormat = Literal["plain", "chat"]


@dataclass(frozen=True)
class Turn:
    """One piece of a row: who says it and what. ``role`` is ``text`` for plain text, else ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One training or evaluation row, whatever its source: text is one ``text`` turn, a completion is user then assistant."""

    turns: tuple[Turn, ...]
    kind: RowKind

    @property
    def id(self) -> str:
        """Content hash, 16 hexadecimal digits; equal rows have equal ids."""
        content = json.dumps([self.kind, [(turn.role, turn.content) for turn in self.turns]], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """All contents, joined by newlines: what the overlap check reads."""
        return "\n".join(turn.content for turn in self.turns)


@dataclass(frozen=True)
class Example:
    """One row as tokens. ``supervised[t]`` says whether token ``t`` is a target of the loss (as label, before any shift)."""

    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    origin: Origin
    row_id: str
    truncated: bool = False

    @property
    def supervised_tokens(self) -> int:
        """Tokens with a loss; the first token of a sequence never has one."""
        return sum(self.supervised[1:])


class Source(Protocol):
    """A data set: what a member of ``conf/data/`` (and of the anchor group) configures."""

    @property
    def volumes(self) -> tuple[int, ...]:
        """Volumes to reach, in target rows."""
        ...

    @property
    def kind(self) -> RowKind:
        """What its rows are."""
        ...

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in the order of the source. Raises DataError."""
        ...


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is built.

    Attributes:
        params_total: number of parameters (shared ones counted once).
        context_length: longest input in tokens.
        content: what decides its numbers, by name (recipe hash, or file hashes); part of every identity.
        linear: last name of its linear layers, but for the output head → inputs plus outputs of all layers of that name: so many
            parameters has an adapter of rank 1.
    """

    params_total: int
    context_length: int
    content: Mapping[str, str]
    linear: Mapping[str, int] = field(default_factory=dict)


class ModelSource(Protocol):
    """A pretrained causal language model: what a member of ``conf/model/`` configures."""

    def facts(self) -> ModelFacts:
        """Inspect without building: size, context, content. Raises ModelError where it cannot be loaded."""
        ...

    def longest_input(self) -> int:
        """Return its context length in tokens, known without its weights. Raises ModelError."""
        ...

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return its tokenizer, loaded without its weights. Raises ModelError."""
        ...

    def load(self) -> PreTrainedModel:
        """Return the model in float32, in evaluation mode, on the CPU."""
        ...

    def weights_sha256(self) -> str:
        """Hash of the weight bytes, available once loaded."""
        ...


class Tuning(Protocol):
    """Which weights move."""

    def default_learning_rate(self, params_total: int) -> float:
        """Return the starting rate for a model of this size where none was searched."""
        ...

    def trainable(self, facts: ModelFacts) -> int:
        """Return how many parameters will move, told before the model is built."""
        ...

    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Return the model to train, its trainable parameters marked."""
        ...

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return what was resolved (rank, modules, …) for the record."""
        ...

    def deltas(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (plain weight name, tuned minus base), differentiable, for every weight that can move."""
        ...

    def merged(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the tuned weights by plain name, detached, on the CPU."""
        ...

    def base_weights(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        """Return a context in which the model computes with the weights it started from, to the last bit.

        After it, also after an error, the tuned weights are those from before to the last bit, in the same parameter objects, so that
        training goes on undisturbed. Use a region of autocast for each side: outside inference mode it keeps the weights it has cast.
        """
        ...

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write what is needed to load the tuned model again (safetensors)."""
        ...


class Objective(Protocol):
    """What is learned: the rows it needs, how they become batches, and the Trainer that learns from them."""

    needs: ClassVar[frozenset[RowKind]]

    @property
    def prompt_format(self) -> PromptFormat:
        """Whether rows are joined as they are or go through the chat template."""
        ...

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Return a row as tokens with its mask, at most ``max_length`` of them."""
        ...

    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels`` of shape (S, T); label -100 has no loss."""
        ...

    def trainer(self) -> type[Trainer]:
        """Return the Trainer class whose loop learns from the batches."""
        ...


@dataclass(frozen=True)
class PenaltyContext:
    """What a penalty may be made from, at the start of training."""

    model: PreTrainedModel
    base: Mapping[str, torch.Tensor]
    anchor: Sequence[Example]
    tuning: Tuning
    seed: int


Penalty = Callable[["PreTrainedModel"], "torch.Tensor"]


class Mitigation(Protocol):
    """What protects the past: in the data or in the loss; each place defaults to doing nothing.

    ``strength`` names the field whose 0 switches the mitigation off (then it equals ``none`` bit for bit); ``none`` has no such field.
    """

    @property
    def needs_anchor(self) -> bool:
        """Whether it draws on the anchor."""
        ...

    def anchor_rows(self, target_rows: int) -> int:
        """Return how many anchor rows a run of so many target rows draws; an estimate where that depends on their length."""
        ...

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        """Return the rows of every step, target and anchor.

        Args:
            steps: target rows by optimizer step, in permutation order.
            anchor: anchor rows in permutation order.

        Returns:
            As many steps; a prefix of the steps depends only on the same prefix of the arguments, so that volumes nest.
        """
        ...

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Return what is added to the loss once an optimizer step, or None for nothing.

        It depends on the live model and the global random streams alone: training may go on from a saved state, or in several processes.
        """
        ...


class Interrupted(BaseException):
    """The work under way is to stop soon: a time limit, preemption, Ctrl-C.

    No Exception: it is no failure, and nothing that guards one task or run against errors may swallow it.
    """


class Progress(Protocol):
    """Where long work says how far it is. Implementations never print to standard output and raise nothing but Interrupted.

    ``stage`` and ``advance`` raise Interrupted once the work is to stop: what is under way is then saved, or dropped and done again.
    """

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of so many units (steps, requests, …), ending the one before."""
        ...

    def advance(self, units: int = 1) -> None:
        """Say that so many more units of the stage are done."""
        ...

    def say(self, message: str) -> None:
        """Log one line."""
        ...


class Silent:
    """A Progress that says nothing."""

    def stage(self, name: str, total: int) -> None:
        """Ignore."""

    def advance(self, units: int = 1) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""
