"""Inputs and outputs of methods: steps, authors, contexts, rollouts, generated rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.core.counts import Counts
from harness.core.progress import Progress
from harness.core.rows import NO_LOSS, Example, PromptFormat, Row
from harness.core.tuning import Tuning

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Step:
    """One optimizer step as a penalty sees it.

    Attributes:
        number: from 0 over the whole run.
        examples: its rows, target and anchor.
    """

    number: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class PenaltyContext:
    """Inputs of a penalty, at the start of training.

    Attributes:
        model: prepared by the tuning; it still computes as the start model.
        base: the start weights by plain name, on the CPU.
        anchor: anchor rows as tokens, in the order they are drawn.
        tuning: how the model is tuned.
        seed: of the run, for this purpose.
        pad_id: the padding token.
        half: whether forward passes run under bfloat16 autocast.
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
    """Settings of text generation.

    Attributes:
        max_new_tokens: of each text.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from this number of likeliest tokens; null from all.
        top_p: draw from the likeliest tokens that together have this probability.
        repetition_penalty: divides the logits of tokens that already occur (multiplies negative
            ones).
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0


class Author(Protocol):
    """A model that writes text: the one interface through which methods get it.

    Prompts and texts are token ids of its own tokenizer; prompts are in the objective's prompt
    format.
    """

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        ...

    @property
    def context_length(self) -> int | None:
        """Longest input of its model in tokens; None if it has no limit."""
        ...

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        """Continue prompts until an end of text or turn, which is included, or a limit.

        ``keys`` determine the random numbers of each text: equal keys, equal numbers, independent
        of the batch.
        """
        ...

    def nats(self, examples: Sequence[Example]) -> list[float]:
        """Return, for each example, the summed negative log-likelihood of its supervised tokens."""
        ...

    def prompt(self, row: Row) -> tuple[int, ...]:
        """Return the tokens of a row before its first answer, ready to be continued."""
        ...

    def text_prompt(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a user's text, ready to be answered."""
        ...

    def spoken(self, ids: Sequence[int]) -> str:
        """Return the text of written tokens, without special tokens and end of turn."""
        ...

    def ended(self, ids: Sequence[int]) -> bool:
        """Return whether written tokens end a text or turn, rather than at a length limit."""
        ...


@dataclass(frozen=True)
class WritingContext:
    """Inputs of a method that generates rows, before training.

    Attributes:
        own: the start model.
        other: member of conf/model → another model as author; only members that the method names in
            ``models``.
        restated: row, answer → the row with this answer in place of its own.
        prompt_format: the objective's; under ``chat`` the template writes the tags of a row.
        anchor: the anchor's rows in the order they are drawn; empty without an anchor.
        seed: of the run, for this purpose.
        progress: told how far generation is.
    """

    own: Author
    other: Callable[[str], Author]
    restated: Callable[[Row, str], Row]
    prompt_format: PromptFormat
    anchor: Sequence[Row]
    seed: int
    progress: Progress


@dataclass(frozen=True)
class LearningContext:
    """Inputs of an objective that learns preference pairs or rewards, in training.

    Attributes:
        live: the current model as author; its texts depend on keys, not on global streams.
        own: the start model as author, computed in the live model's memory.
        other: member of conf/model → another model as author; only members that the objective
            names in ``models``.
        start: returns a context in which the live model computes with its start weights, see
            ``Tuning.base_weights``.
        seed: of the run, for this purpose.
    """

    live: Author
    own: Author
    other: Callable[[str], Author]
    start: Callable[[], AbstractContextManager[None]]
    seed: int


@dataclass(frozen=True)
class Rollouts:
    """Answers that the live model generated in one step, with their rewards.

    Attributes:
        batch: ``input_ids``, ``attention_mask``, ``labels`` (S, T), padded on the right;
            ``advantages`` and ``answer_tokens`` (S, 1).
        rewards: of each answer.
        generated_tokens: of the answers.
        forward_tokens: of the live model's forward passes other than training: generation and a
            reference.
        read_tokens: of forward passes other than training and generation: a reference, a judge.
    """

    batch: dict[str, torch.Tensor]
    rewards: Sequence[float]
    generated_tokens: int
    forward_tokens: int
    read_tokens: int = 0

    @property
    def counts(self) -> Counts:
        """Counts of the step; its loss is minus the summed rewards."""
        return Counts(
            nats=-float(sum(self.rewards)),
            targets=len(self.rewards),
            generated_tokens=self.generated_tokens,
            read_tokens=self.read_tokens,
            trained_tokens=int(self.batch["attention_mask"].sum()),
            supervised_tokens=int((self.batch["labels"][:, 1:] != NO_LOSS).sum()),
        )


@dataclass(frozen=True)
class GeneratedRow:
    """Outcome of generation for one target row, or one made-up row of an anchor.

    Attributes:
        row: the row to train on; None drops it.
        accepted: whether it contains text that a model wrote. A mitigation that merely copies the
            gold answer does not count. An arm that accepts too little did not act.
        how: its origin in one word: own, gold, other, edited, …
        generated_tokens: written for it, rejected texts included.
        edit_rate: share of words, in 0..1, by which it differs from the model's own first answer;
            None if not measured.
        tried: every text that was written, for people to read.
        read_tokens: of forward passes in addition to writing, such as a judge's.
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
    """Inputs of a mitigation that changes the weights after training.

    Attributes:
        base: the start weights by plain name, on the CPU, float32.
        tuned: the tuned ones; a tied weight is listed once, under its first name; buffers are not
            listed.
        other: member of conf/model → its weights; only members that the method names in ``models``.
        embeddings: plain names of the input and output embeddings.
    """

    base: Mapping[str, torch.Tensor]
    tuned: Mapping[str, torch.Tensor]
    other: Callable[[str], Mapping[str, torch.Tensor]]
    embeddings: frozenset[str]
