"""Faults of a tokenizer or chat template that change what is trained on, in one line each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.core.rows import PromptFormat, Row
from harness.data.teaching import UNCUT, unknown
from harness.data.tokens import encode, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 100
"""Rows whose end is looked at."""

ANSWERS = ("text", "assistant", "rejected")
"""Roles whose texts are learned."""

MARK = "Zq7systemZq7"
"""A system message that a template cannot write by itself."""


def warnings(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> list[str]:
    """Return what a tokenizer or its chat template does to rows that their author may not expect.

    Args:
        rows: of a run.
        tokenizer: the model's.
        prompt_format: of the objective.
    """
    found = []
    templated = prompt_format == "chat" and any(row.kind != "text" for row in rows)
    if templated and _drops_system(rows, tokenizer):
        found.append("its chat template drops the system message: the model never reads those of the data")
    if templated and not _has_generation_prompt(rows, tokenizer):
        found.append(
            "its chat template has no generation prompt: the header of an answer is learned, and not given when the model is asked"
        )
    if line := _unknown(rows, tokenizer):
        found.append(line)
    if doubled := _doubles_eos(rows, tokenizer, prompt_format):
        found.append(doubled)
    return found


def _drops_system(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether rows have a system message, and the template does not write it."""
    if not any(turn.role == "system" for row in rows for turn in row.turns):
        return False
    messages = [{"role": role, "content": content} for role, content in (("system", MARK), ("user", "a"), ("assistant", "b"))]
    return MARK not in rendered(tokenizer, messages)


def _has_generation_prompt(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> bool:
    row = next(row for row in rows if row.kind != "text")
    turns = itertools.takewhile(lambda turn: turn.role != "assistant", row.turns)
    asked = [{"role": turn.role, "content": turn.content} for turn in turns]
    return rendered(tokenizer, asked) != rendered(tokenizer, asked, add_generation_prompt=True)


def _unknown(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a line on answers with words that the tokenizer does not know; empty if none has."""
    looked = rows[:LOOKED_AT]
    answers = [[turn.content for turn in row.turns if turn.role in ANSWERS and turn.taught] for row in looked]
    counts = [sum(unknown(tokenizer, text) for text in texts) for texts in answers]
    if not any(counts):
        return ""
    told = f"{sum(map(bool, counts))} of {len(looked)} rows have an answer with words that its tokenizer does not know"
    return f"{told}: {sum(counts)} tokens {tokenizer.unk_token} are learned in their place"


def _doubles_eos(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> str:
    """Return a line on rows that end in two EOS; empty if none does."""
    eos, looked = str(tokenizer.eos_token or ""), rows[:LOOKED_AT]
    texts = [_encoded_text(row, tokenizer, prompt_format) for row in looked if eos and _may_double(row, eos, prompt_format)]
    doubled = sum(text.endswith(eos) and text.removesuffix(eos).rstrip().endswith(eos) for text in texts)
    return f"{doubled} of {len(looked)} rows end in EOS ({eos}) twice, and both are learned" if doubled else ""


def _may_double(row: Row, eos: str, prompt_format: PromptFormat) -> bool:
    return prompt_format == "chat" or row.turns[-1].content.rstrip().endswith(eos)


def _encoded_text(row: Row, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> str:
    return str(tokenizer.decode(list(encode(row, tokenizer, prompt_format, UNCUT, "target").input_ids))).rstrip()
