"""Protocols of the methods, and what they are given: optimizer steps, penalties, authors, weights.

Read this first.

Words (one vocabulary: yaml key = field = table column = axis label):

- run: one training trajectory (start model, tuning, objective, mitigation, data, schedule, seed).
- point: (run, volume), the state of a run after a given volume of data, evaluated. Volume 0 is
  *before*.
- volume: target rows seen once, in permutation order.
- target / probe: the role of a suite: what is being learned / what could be forgotten.
- anchor: the declared data that stand for the past (replay draws on it), with a recorded budget.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from harness.core.progress import Progress
from harness.core.rows import Example, Origin, PromptFormat, Row, RowKind
from harness.core.sources import ModelFacts, Source

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True)
class Step:
    """One optimizer step as a penalty sees it: its number, from 0 over the whole run, and its rows, target and anchor."""

    number: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class PenaltyContext:
    """What a penalty may be made from, at the start of training.

    Attributes:
        model: prepared by the tuning; it computes as the start model still.
        base: the start weights by plain name, on the CPU.
        anchor: anchor rows as tokens, in the order they are drawn.
        pad_id: to pad with.
        half: whether forward passes are to run under bfloat16 autocast.
    """

    model: PreTrainedModel
    base: Mapping[str, torch.Tensor]
    anchor: Sequence[Example]
    tuning: Tuning
    seed: int
    pad_id: int = 0
    half: bool = False


Penalty = Callable[["PreTrainedModel", Step], "torch.Tensor"]


@dataclass(frozen=True)
class Sampling:
    """How text is written.

    Attributes:
        max_new_tokens: of each text.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: draw from so many likeliest tokens alone; null from all.
        top_p: draw from the likeliest tokens that together have this probability.
        repetition_penalty: logits of tokens that stand already are divided by it (multiplied where
            negative).
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0


class Author(Protocol):
    """A model that writes: the one interface through which methods get text."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its own."""
        ...

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        """Continue prompts, token ids, until an end of text or turn (part of what is returned) or a limit.

        ``keys`` decide the random numbers of each: equal keys, equal numbers, whatever stands
            beside them in a batch.
        """
        ...

    def nats(self, examples: Sequence[Example]) -> list[float]:
        """Return the negative log-likelihood of the supervised tokens of each example, summed, in nats."""
        ...


@dataclass(frozen=True)
class WritingContext:
    """What a method may write with, before training.

    Attributes:
        own: the start model.
        other: member of conf/model → another model as author; only those that the method names in
            ``models``.
        prompt: row → token ids of all before its first answer, in the objective's prompt format,
            ready to be continued by an author.
        text_prompt: user's text → token ids, in the same format: for prompts of the method's own
            making.
        spoken: token ids an author wrote → their text, without special tokens and end of turn.
        ended: token ids an author wrote → whether their last one ends a text or turn: they were not
            cut at a limit.
        restated: row, answer → the row with this answer in place of its own.
        prompt_format: the objective's; under ``chat`` the template writes the tags of a row.
        anchor: the anchor's rows in the order they are drawn; empty without an anchor.
        seed: of the run, for this purpose.
    """

    own: Author
    other: Callable[[str], Author]
    prompt: Callable[[Row], tuple[int, ...]]
    text_prompt: Callable[[str], tuple[int, ...]]
    spoken: Callable[[Sequence[int]], str]
    ended: Callable[[Sequence[int]], bool]
    restated: Callable[[Row, str], Row]
    prompt_format: PromptFormat
    anchor: Sequence[Row]
    seed: int
    progress: Progress


@dataclass(frozen=True)
class LearningContext:
    """What an objective that learns pairs or rewards learns with, in training.

    Attributes:
        live: the model as it stands, as author; what it writes depends on keys, not on global
            streams.
        own: the start model: it scores, with the live model's memory, and does not write.
        other: member of conf/model → another model as author; only those that the objective names
            in ``models``.
        start: returns a context in which the live model computes with the weights it started from,
            see ``Tuning.base_weights``.
        text_prompt, spoken: as in ``WritingContext``.
        seed: of the run, for this purpose.
    """

    live: Author
    own: Author
    other: Callable[[str], Author]
    start: Callable[[], AbstractContextManager[None]]
    text_prompt: Callable[[str], tuple[int, ...]]
    spoken: Callable[[Sequence[int]], str]
    seed: int


@dataclass(frozen=True)
class GeneratedRow:
    """What became of one row (or, of pseudo-replay, one made-up row).

    Attributes:
        row: what is trained on; None leaves the row out.
        accepted: whether something that a model wrote stands in it (of a remedy, something other
            than the gold answer: a copy of it is the plain row); an arm that accepts too little did
            not act.
        how: how it came about, one word: own, gold, other, edited, …
        generated_tokens: written for it, what was thrown away included.
        edit_rate: share of words, in 0..1, by which it differs from the model's own first answer;
            None where that was not asked for.
        tried: what was written, for people to look at.
        read_tokens: of forward passes beside writing, such as a judge's.
    """

    row: Row | None
    accepted: bool
    how: str
    generated_tokens: int
    edit_rate: float | None = None
    tried: tuple[str, ...] = ()
    read_tokens: int = 0


@dataclass(frozen=True)
class WeightsContext:
    """What a weight remedy may be made from.

    Attributes:
        base: the start weights by plain name, on the CPU, float32.
        tuned: the tuned ones; a tied weight is there once, under its first name, and buffers are
            not.
        other: member of conf/model → its weights; only those that the method names in ``models``.
        embeddings: plain names of the input and output embeddings.
    """

    base: Mapping[str, torch.Tensor]
    tuned: Mapping[str, torch.Tensor]
    other: Callable[[str], Mapping[str, torch.Tensor]]
    embeddings: frozenset[str]


Learns = Literal["tokens", "pairs", "rewards"]
"""What an objective learns from: the tokens of rows, pairs of a better and a worse answer, or
rewards of what the model writes itself."""


class Tuning(ABC):
    """Which weights move."""

    @abstractmethod
    def default_learning_rate(self, params_total: int) -> float:
        """Return the starting rate for a model of this size where none was searched."""

    @abstractmethod
    def trainable(self, facts: ModelFacts) -> int:
        """Return how many parameters will move, told before the model is built."""

    @abstractmethod
    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Return the model to train, its trainable parameters marked."""

    @abstractmethod
    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return what was resolved (rank, modules, …) for the record."""

    @abstractmethod
    def deltas(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (plain weight name, tuned minus base), differentiable, for every weight that can move."""

    @abstractmethod
    def merged(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the tuned weights by plain name, detached, on the CPU."""

    @abstractmethod
    def base_weights(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        """Return a context in which the model computes with the weights it started from, to the last bit.

        After it, also after an error, the tuned weights are those from before to the last bit, in
        the same parameter objects, so that training goes on undisturbed. Use a region of autocast
        for each side: outside inference mode it keeps the weights it has cast.
        """

    @abstractmethod
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write what is needed to load the tuned model again (safetensors)."""


class Objective(ABC):
    """What is learned: the rows it needs, how they become batches, and the Trainer that learns from them.

    Attributes:
        needs: kinds of rows that it takes.
        learns: see ``Learns``; decides with which mitigations it goes together.
        rate_share: what the default learning rate of a tuning, which is that of supervised
            training, is multiplied by.
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

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return what is trained on in place of rows, as ``Mitigation.write`` does."""
        return []

    @property
    @abstractmethod
    def prompt_format(self) -> PromptFormat:
        """Whether rows are joined as they are or go through the chat template."""

    @abstractmethod
    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Return a row as tokens with its mask, at most ``max_length`` of them."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels`` of shape (S, T).

        Label -100 has no loss.
        """

    @abstractmethod
    def trainer(self) -> type[Trainer]:
        """Return the Trainer class whose loop learns from the batches."""


class Mitigation:
    """What protects the past: in the data, in the loss, or in the weights afterwards.

    Each place defaults to doing nothing.

    A method derives from this class and overrides what it does. ``strength`` names the field whose
    0 switches it off (then it equals ``none`` bit for bit); ``none`` has no such field.
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
        """Return why it means nothing together with these, in a few words for "got".

        Empty where it goes.
        """
        return ""

    def anchor_rows(self, target_rows: int) -> int:
        """Return how many anchor rows a run of so many target rows draws.

        An estimate where that depends on their length.
        """
        return 0

    def least_anchor_rows(self, target_rows: int) -> int:
        """Return how many it draws at least, whatever their length."""
        return self.anchor_rows(target_rows)

    @property
    def writes(self) -> Literal["", "targets", "anchor"]:
        """Whether ``write`` is to be asked before training: for other targets, or for an anchor that ``mix`` draws on."""
        return ""

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return what models wrote.

        What becomes of a row depends on that row (and the seed) alone, so that it can be kept.

        Args:
            rows: ``targets``: target rows, each to be answered by one ``GeneratedRow``. ``anchor``:
                the target rows of the run; as many are returned as ``anchor_rows`` says, the i-th
                one not depending on how many there are.
            context: authors and words.
        """
        return []

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        """Return the rows of every step, target and anchor.

        Args:
            steps: target rows by optimizer step, in permutation order.
            anchor: anchor rows in permutation order.

        Returns:
            As many steps; a prefix of the steps depends only on the same prefix of the arguments,
            so that volumes nest.
        """
        return [list(step) for step in steps]

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Return what is added to the loss once an optimizer step, or None for nothing.

        It depends on the step, the live model and the global random streams alone: training may go
        on from a saved state, or in several processes.
        """
        return None

    def extra_tokens(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> int:
        """Return the tokens of forward passes beside training's own that so many steps take: reference model, Fisher, anchor."""
        return 0

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The coefficients at which ``weights`` is measured at each volume.

        None for a method that changes no weights afterwards.
        """
        return ()

    @property
    def coefficient(self) -> float | None:
        """The one of them that the method stands for.

        None: chosen at each volume on the target's select items.
        """
        return None

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the weights that are measured, by plain name.

        No training: one trained run serves every coefficient.
        """
        return dict(context.tuned)

    @property
    def keeps_best(self) -> bool:
        """Whether the run stands, at each volume, for the volume so far that is best on the target's select items."""
        return False
