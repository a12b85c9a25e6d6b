"""What methods are given to act on, and what they give back: an optimizer step, penalties, text that models write, weights.

The protocols of the methods themselves are in ``harness.interfaces``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.interfaces import Example, Progress, PromptFormat, Row, Tuning


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
        repetition_penalty: logits of tokens that stand already are divided by it (multiplied where negative).
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

        ``keys`` decide the random numbers of each: equal keys, equal numbers, whatever stands beside them in a batch.
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
        other: member of conf/model → another model as author; only those that the method names in ``models``.
        prompt: row → token ids of all before its first answer, in the objective's prompt format, ready to be continued by an author.
        text_prompt: user's text → token ids, in the same format: for prompts of the method's own making.
        spoken: token ids an author wrote → their text, without special tokens and end of turn.
        ended: token ids an author wrote → whether their last one ends a text or turn: they were not cut at a limit.
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
        live: the model as it stands, as author; what it writes depends on keys, not on global streams.
        own: the start model: it scores, with the live model's memory, and does not write.
        other: member of conf/model → another model as author; only those that the objective names in ``models``.
        start: returns a context in which the live model computes with the weights it started from, see ``Tuning.base_weights``.
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
class Written:
    """What became of one row (or, of pseudo-replay, one made-up row).

    Attributes:
        row: what is trained on; None leaves the row out.
        accepted: whether something that a model wrote stands in it (of a remedy, something other than the gold answer: a copy of it is
            the plain row); an arm that accepts too little did not act.
        how: how it came about, one word: own, gold, other, edited, …
        generated_tokens: written for it, what was thrown away included.
        edit_rate: share of words, in 0..1, by which it differs from the model's own first answer; None where that was not asked for.
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
        tuned: the tuned ones; a tied weight is there once, under its first name, and buffers are not.
        other: member of conf/model → its weights; only those that the method names in ``models``.
        embeddings: plain names of the input and output embeddings.
    """

    base: Mapping[str, torch.Tensor]
    tuned: Mapping[str, torch.Tensor]
    other: Callable[[str], Mapping[str, torch.Tensor]]
    embeddings: frozenset[str]
