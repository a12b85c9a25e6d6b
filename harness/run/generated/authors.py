"""Models that generate rows for the methods of a run, with their text tools."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from harness.core.methods import Author, WritingContext
from harness.core.progress import Progress, Silent
from harness.core.seeds import derive
from harness.models.author import TransformersAuthor, restated
from harness.models.loading import load_member
from harness.run.preparation import Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def context_of(prepared: Prepared, model: PreTrainedModel, progress: Progress, models: tuple[str, ...] = ()) -> WritingContext:
    """Return the models and text tools with which a method generates rows.

    Args:
        prepared: the run.
        model: its start model, in evaluation mode, on its device.
        progress: told of generated text. If it raises Interrupted, the text under way is lost.
        models: members of conf/model that the method names; each is loaded when first used, and
            kept as long as the context.
    """
    own = author_of(prepared, model, prepared.workspace.tokenizer_of(prepared.config), progress)

    @cache
    def other(name: str) -> Author:
        found = load_member(name, prepared.resolved.device, models)
        return author_of(prepared, found.model, found.tokenizer, progress, longest=found.longest_input)

    return WritingContext(
        own=own,
        other=other,
        prompt=own.prompt,
        text_prompt=own.text_prompt,
        spoken=own.spoken,
        ended=own.ended,
        restated=restated,
        prompt_format=own.prompt_format,
        anchor=prepared.anchor,
        seed=seed_of(prepared),
        progress=progress,
    )


def seed_of(prepared: Prepared) -> int:
    """Return the seed of a run for its generated rows."""
    return derive(prepared.config.seed, "writing")


def author_of(
    prepared: Prepared,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress | None = None,
    *,
    longest: int | None = None,
) -> TransformersAuthor:
    """Return a live model as an author; its texts fit into the run's rows.

    Args:
        prepared: the run.
        model: in evaluation mode, on its device.
        tokenizer: of the model.
        progress: told of generated text.
        longest: most tokens that the model reads, if it is not the start model.
    """
    resolved = prepared.resolved
    return TransformersAuthor(
        model=model,
        tokenizer=tokenizer,
        prompt_format=prepared.config.objective.prompt_format,
        max_length=min(resolved.max_length, longest or resolved.max_length),
        dtype=resolved.dtype,
        scored_tokens=prepared.config.evaluation.likelihood_tokens,
        progress=progress or Silent(),
    )
