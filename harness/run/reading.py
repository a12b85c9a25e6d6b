"""Checks of the tokens and lengths that a model reads, and what changes how they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.config.resolution import Resolved
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, DataError, EvaluationError, explain
from harness.core.rows import Example, Row
from harness.core.sources import ModelFacts
from harness.data import specials
from harness.evaluation import hashes
from harness.evaluation.evaluator import PreparedSuite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 60
"""Characters of a row in a message."""


def identity(prepared: PreparedSuite, facts: ModelFacts, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what an evaluation changes in how a model reads a suite; empty for most models."""
    _, after = specials.added(tokenizer) if prepared.tasks else ([], [])
    limit = facts.batch_limit
    return {
        **({"left_out_after_texts": after} if after else {}),
        **({"alone_above": limit} if limit is not None and facts.context_length > limit else {}),
    }


def check_template(config: RunConfig, facts: ModelFacts, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ConfigError if a chat template in use writes a token without an embedding row."""
    keys = {"objective.prompt_format": config.objective.prompt_format, "evaluation.prompt_format": config.evaluation.prompt_format}
    used = [key for key, value in keys.items() if value == "chat"]
    strays = _strays(facts, tokenizer)
    if not used or not strays or not tokenizer.chat_template:
        return
    if name := specials.in_template(tokenizer, strays):
        got = f"chat, with {config.labels.model}, whose template writes {name!r} (token {strays[name]})"
        raise ConfigError(explain(used[0], got=got, allowed=_rows(facts), fix=_FIX))


_FIX = "a model whose embedding was resized for these tokens (resize_token_embeddings), or the model's own tokenizer"


def check_suite(prepared: PreparedSuite, facts: ModelFacts, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise EvaluationError if a text of a suite has a token without an embedding row."""
    strays = _strays(facts, tokenizer)
    for where, text in _texts(prepared) if strays else ():
        if name := specials.in_text(text, tokenizer, strays):
            got = f"{name!r} (token {strays[name]}) in its text"
            fix = "other items, or a model whose embedding has these rows"
            raise EvaluationError(explain(f"suite {prepared.suite.name}, {where}", got=got, allowed=_rows(facts), fix=fix))


def check_rows(rows: Sequence[Row], examples: Sequence[Example], facts: ModelFacts, resolved: Resolved, config: RunConfig) -> None:
    """Check rows that a run trains on.

    Raises:
        DataError: for a token without an embedding row.
        ConfigError: if rows may be so long that their loss depends on others of their micro-batch.
    """
    if facts.batch_limit is not None and resolved.max_length > facts.batch_limit:
        got = f"{resolved.max_length}, with {config.labels.model}, whose rotary positions depend on the longest row of a batch beyond that"
        fix = f"training.max_length={facts.batch_limit}"
        raise ConfigError(explain("training.max_length", got=got, allowed=f"at most {facts.batch_limit}", fix=fix))
    vocabulary = facts.vocabulary
    for row, example in zip(rows, examples, strict=True) if vocabulary is not None else ():
        parts = [example, *([example.rejected] if example.rejected else [])]
        stray = next((token for part in parts for token in part.input_ids if vocabulary is not None and token >= vocabulary), None)
        if stray is not None:
            text = " ".join(" ".join(turn.content for turn in row.turns).split())
            got = f"token {stray} in the {example.origin} row that begins {text[:SHOWN]!r}"
            raise DataError(explain("data", got=got, allowed=_rows(facts), fix=f"other rows, or {_FIX}"))


def _rows(facts: ModelFacts) -> str:
    return f"tokens 0 to {(facts.vocabulary or 0) - 1}: the model has {facts.vocabulary} embedding rows"


def _strays(facts: ModelFacts, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    return {} if facts.vocabulary is None else specials.beyond(tokenizer, facts.vocabulary)


def _texts(prepared: PreparedSuite) -> Iterator[tuple[str, str]]:
    """Yield the place and text of everything that a suite asks or scores."""
    for number, row in enumerate(prepared.rows, 1):
        yield f"row {number}", "\n".join(turn.content for turn in row.turns)
    for name, task in prepared.tasks.items():
        for index, asked in zip(prepared.items[name], hashes.asked(task, prepared.items[name]), strict=True):
            yield f"task {name}, document {index}", str(asked)
