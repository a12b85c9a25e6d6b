"""What an objective that learns pairs or rewards learns with: the live model as author, and what it was at the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from harness.config import composition
from harness.config.resolution import Resolved
from harness.core.contexts import Author, LearningContext, Sampling
from harness.core.methods import Objective
from harness.core.progress import Silent
from harness.core.rows import Example, Row
from harness.core.tuning import Tuning
from harness.models.author import TransformersAuthor
from harness.models.forward import without_dropout

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCORED_TOKENS = 4096
"""Padded tokens of one forward pass of a judge."""


@dataclasses.dataclass(frozen=True)
class _LiveAuthor:
    """The model as it stands, without dropout."""

    author: TransformersAuthor
    tokenizer: PreTrainedTokenizerBase

    @property
    def context_length(self) -> int | None:
        return self.author.context_length

    def prompt(self, row: Row) -> tuple[int, ...]:
        return self.author.prompt(row)

    def text_prompt(self, text: str) -> tuple[int, ...]:
        return self.author.text_prompt(text)

    def spoken(self, ids: Sequence[int]) -> str:
        return self.author.spoken(ids)

    def ended(self, ids: Sequence[int]) -> bool:
        return self.author.ended(ids)

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        with without_dropout(self.author.model):
            return self.author.write(prompts, keys, sampling)

    def nats(self, examples: Sequence[Example]) -> list[float]:
        with without_dropout(self.author.model):
            return self.author.nats(examples)


@dataclasses.dataclass(frozen=True)
class _AtTheStart(_LiveAuthor):
    """The same model with the weights it started from."""

    tuning: Tuning
    base: Mapping[str, torch.Tensor]

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        with self.tuning.base_weights(self.author.model, self.base):
            return super().write(prompts, keys, sampling)

    def nats(self, examples: Sequence[Example]) -> list[float]:
        with self.tuning.base_weights(self.author.model, self.base):
            return super().nats(examples)


def context_of(
    model: PreTrainedModel,
    base: Mapping[str, torch.Tensor],
    *,
    tokenizer: PreTrainedTokenizerBase,
    tuning: Tuning,
    objective: Objective,
    resolved: Resolved,
    seed: int,
) -> LearningContext:
    """Return what a run learns with.

    Args:
        model: live, prepared by the tuning, on its device.
        base: the start weights by plain name, on the CPU.
        tokenizer: the model's.
        tuning: how it is tuned.
        objective: says in which format it is prompted, and which other models it needs.
        resolved: dtype and length of rows.
        seed: of the run, for this purpose.
    """
    author = TransformersAuthor(
        model=model,
        tokenizer=tokenizer,
        prompt_format=objective.prompt_format,
        max_length=resolved.max_length,
        dtype=resolved.dtype,
        scored_tokens=SCORED_TOKENS,
        progress=Silent(),
    )
    return LearningContext(
        live=_LiveAuthor(author, tokenizer),
        own=_AtTheStart(author, tokenizer, tuning, base),
        other=_others(author, objective.models),
        start=lambda: tuning.base_weights(model, base),
        seed=seed,
    )


def _others(author: TransformersAuthor, names: tuple[str, ...]) -> Callable[[str], Author]:
    @cache
    def other(name: str) -> Author:
        if name not in names:
            raise KeyError(name)
        source = composition.member("model", name)
        model = source.load().to(author.model.device)
        return dataclasses.replace(author, model=model, tokenizer=source.tokenizer(), max_length=source.longest_input())

    return other
