"""The protocols and row types every part agrees on. Read this first.

Words (one vocabulary: yaml key = field = table column = axis label):

- run: one training trajectory (start model, tuning, objective, mitigation, data, schedule, seed).
- point: (run, volume), the state of a run after a given volume of data, evaluated. Volume 0 is *before*.
- volume: target rows seen once, in permutation order.
- target / probe: the role of a suite: what is being learned / what could be forgotten.
- anchor: the declared data that stand for the past (replay draws on it), with a recorded budget.

What methods are given to act on, and give back, lies in ``harness.contexts``.

The way through: compose → plan → load model → rows → tuning.prepare → train (objective + penalty) → evaluate → Record →
tidy table → forgetting, statistics → figures, tables, page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.contexts import Penalty, PenaltyContext, Sampling, Step, WeightsContext, WritingContext, Written

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

__all__ = ["Penalty", "PenaltyContext", "Sampling", "Step", "WeightsContext", "WritingContext", "Written"]

RowKind = Literal["text", "completion", "chat", "preference"]
Split = Literal["train", "test"]
Origin = Literal["target", "anchor"]
PromptFormat = Literal["plain", "chat"]
Learns = Literal["tokens", "pairs", "rewards"]
"""What an objective learns from: the tokens of rows, pairs of a better and a worse answer, or rewards of what the model writes itself."""


@dataclass(frozen=True)
class Turn:
    """One piece of a row: who says it and what.

    ``role`` is ``text`` for plain text, else ``system``, ``user`` or ``assistant``; ``rejected`` is the worse answer of a preference row.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One training or evaluation row, whatever its source.

    Text is one ``text`` turn; a completion is (system,) user, assistant; a preference is (system,) user, assistant (the better answer),
    rejected (the worse one).
    """

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
    """One row as tokens. ``supervised[t]`` says whether token ``t`` is a target of the loss (as label, before any shift).

    Attributes:
        rejected: of a preference row, the same prompt with the worse answer.
        row: the row itself, where an objective needs its text (to reward an answer).
    """

    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    origin: Origin
    row_id: str
    truncated: bool = False
    rejected: Example | None = None
    row: Row | None = None

    @property
    def tokens(self) -> int:
        """All tokens, those of a worse answer and its prompt too."""
        return len(self.input_ids) + (len(self.rejected.input_ids) if self.rejected else 0)

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
        parts: ``attention`` or ``mlp`` → the same of all linear layers that lie in it.
        blocks: parameters of each block, the bottom one first; empty where they are not known.
        embeddings: parameters of embeddings (tokens, learned positions), with an output head that is tied to them.
    """

    params_total: int
    context_length: int
    content: Mapping[str, str]
    linear: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    embeddings: int = 0


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
    """What is learned: the rows it needs, how they become batches, and the Trainer that learns from them.

    Attributes:
        needs: kinds of rows that it takes.
        learns: see ``Learns``; decides with which mitigations it goes together.
        rate_share: what the default learning rate of a tuning, which is that of supervised training, is multiplied by.
    """

    needs: ClassVar[frozenset[RowKind]]
    learns: ClassVar[Learns] = "tokens"
    rate_share: ClassVar[float] = 1.0

    @property
    def models(self) -> tuple[str, ...]:
        """Members of conf/model beside the start model that it needs (a judge)."""
        return ()

    @property
    def writes(self) -> bool:
        """Whether ``write`` is to be asked before training."""
        return False

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[Written]:
        """Return what is trained on in place of rows, as ``Mitigation.write`` does."""
        return []

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


class Mitigation(Protocol):
    """What protects the past: in the data, in the loss, or in the weights afterwards; each place defaults to doing nothing.

    A method derives from this class and overrides what it does. ``strength`` names the field whose 0 switches it off (then it equals
    ``none`` bit for bit); ``none`` has no such field.
    """

    @property
    def models(self) -> tuple[str, ...]:
        """Members of conf/model beside the start model that it needs."""
        return ()

    @property
    def needs_anchor(self) -> bool:
        """Whether it draws on the anchor."""
        return False

    @property
    def trains_on_anchor(self) -> bool:
        """Whether anchor rows are mixed into the rows that are learned, so that the objective has to take them."""
        return self.needs_anchor

    def refuses(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Return why it means nothing together with these, in a few words for "got"; empty where it goes."""
        return ""

    def anchor_rows(self, target_rows: int) -> int:
        """Return how many anchor rows a run of so many target rows draws; an estimate where that depends on their length."""
        return 0

    def least_anchor_rows(self, target_rows: int) -> int:
        """Return how many it draws at least, whatever their length."""
        return self.anchor_rows(target_rows)

    @property
    def writes(self) -> Literal["", "targets", "anchor"]:
        """Whether ``write`` is to be asked before training: for other targets, or for an anchor that ``mix`` draws on."""
        return ""

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[Written]:
        """Return what models wrote. What becomes of a row depends on that row (and the seed) alone, so that it can be kept.

        Args:
            rows: ``targets``: target rows, each to be answered by one ``Written``. ``anchor``: the target rows of the run; as many are
                returned as ``anchor_rows`` says, the i-th one not depending on how many there are.
            context: authors and words.
        """
        return []

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        """Return the rows of every step, target and anchor.

        Args:
            steps: target rows by optimizer step, in permutation order.
            anchor: anchor rows in permutation order.

        Returns:
            As many steps; a prefix of the steps depends only on the same prefix of the arguments, so that volumes nest.
        """
        return [list(step) for step in steps]

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Return what is added to the loss once an optimizer step, or None for nothing.

        It depends on the step, the live model and the global random streams alone: training may go on from a saved state, or in several
        processes.
        """
        return None

    def extra_tokens(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> int:
        """Return the tokens of forward passes beside training's own that so many steps take: reference model, Fisher, anchor."""
        return 0

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The coefficients at which ``weights`` is measured at each volume; none for a method that changes no weights afterwards."""
        return ()

    @property
    def coefficient(self) -> float | None:
        """The one of them that the method stands for; None: chosen at each volume on the target's select items."""
        return None

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the weights that are measured, by plain name. No training: one trained run serves every coefficient."""
        return dict(context.tuned)

    @property
    def keeps_best(self) -> bool:
        """Whether the run stands, at each volume, for the volume so far that is best on the target's select items."""
        return False


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
