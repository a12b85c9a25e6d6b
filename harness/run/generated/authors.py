"""What a method of a run writes with: the start model, other models, and words in the objective's prompt format."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from harness.config import composition
from harness.core.contexts import Author, WritingContext
from harness.core.errors import ConfigError, explain
from harness.core.progress import Progress, Silent
from harness.core.seeds import derive
from harness.core.sources import ModelSource
from harness.evaluation.backends import Evaluation
from harness.models.author import TransformersAuthor, restated
from harness.run.preparation import Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def context_of(prepared: Prepared, model: PreTrainedModel, progress: Progress, models: tuple[str, ...] = ()) -> WritingContext:
    """Return what a run's method may write with.

    Args:
        prepared: the run.
        model: its start model, in evaluation mode, on its device.
        progress: told how far it is; where it raises Interrupted, what is under way is lost.
        models: members of conf/model that the method names; each is loaded when it is asked for,
            and let go of with the context.
    """
    own = author_of(prepared, model, prepared.workspace.tokenizer_of(prepared.config), progress)

    loaded: dict[str, Author] = {}

    def other(name: str) -> Author:
        if name in loaded:
            return loaded[name]
        if name not in models:
            raise ConfigError(explain("author", got=repr(name), allowed=", ".join(models) or "none but the start model"))
        source = cast(ModelSource, composition.member("model", name))
        live = source.load().to(prepared.resolved.device)  # type: ignore[arg-type]
        loaded[name] = author_of(prepared, live, source.tokenizer(), progress, longest=source.longest_input())
        return loaded[name]

    return WritingContext(
        own=own,
        other=other,
        restated=restated,
        prompt_format=own.prompt_format,
        anchor=prepared.anchor,
        seed=seed_of(prepared),
        progress=progress,
    )


def seed_of(prepared: Prepared) -> int:
    """Return the seed of a run for what it writes."""
    return derive(prepared.config.seed, "writing")


def author_of(
    prepared: Prepared,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress | None = None,
    *,
    longest: int | None = None,
) -> TransformersAuthor:
    """Return a live model as an author of a run: what it writes has to fit into the run's rows."""
    resolved = prepared.resolved
    return TransformersAuthor(
        model=model,
        tokenizer=tokenizer,
        prompt_format=prepared.config.objective.prompt_format,
        max_length=min(resolved.max_length, longest or resolved.max_length),
        dtype=resolved.dtype,
        scored_tokens=cast(Evaluation, prepared.config.evaluation).likelihood_tokens,
        progress=progress or Silent(),
    )
