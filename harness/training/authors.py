"""Authors of objectives that learn pairs or rewards: the live model, and its start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from harness.config.resolution import Resolved
from harness.core.contexts import Author, LearningContext, Sampling
from harness.core.methods import Objective
from harness.core.progress import Silent
from harness.core.rows import Example, Row
from harness.core.tuning import Tuning
from harness.models.author import TransformersAuthor
from harness.models.forward import without_dropout
from harness.models.loading import load_member

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCORED_TOKENS = 4096
"""Padded tokens of one forward pass of a judge."""


@dataclasses.dataclass(frozen=True)
class _LiveAuthor:
    """The live model, without dropout."""

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
    """The live model with the weights it started from."""

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
    """Return the authors of a run, and how they are prompted.

    Args:
        model: live, prepared by the tuning, on its device.
        base: the start weights by plain name, on the CPU.
        tokenizer: the model's.
        tuning: of the run.
        objective: gives the prompt format and names other models.
        resolved: dtype and length of rows.
        seed: for the draws of the authors.
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
        loaded = load_member(name, author.model.device, names)
        return dataclasses.replace(author, model=loaded.model, tokenizer=loaded.tokenizer, max_length=loaded.longest_input)

    return other
