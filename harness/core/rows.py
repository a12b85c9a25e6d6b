"""Rows of text, and rows as tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RowKind = Literal["text", "completion", "chat", "preference"]
Split = Literal["train", "test"]
Origin = Literal["target", "anchor"]
PromptFormat = Literal["plain", "chat"]

NO_LOSS = -100
"""Label of a token without a loss, which cross-entropy ignores."""


@dataclass(frozen=True)
class Turn:
    """One part of a row: its role and its text.

    ``role`` is ``text`` for plain text, else ``system``, ``user`` or ``assistant``; ``rejected`` is
    the worse answer of a preference pair. An answer that is not ``taught`` only gives context.
    """

    role: str
    content: str
    taught: bool = True


@dataclass(frozen=True)
class Row:
    """One training or evaluation row.

    Text is one ``text`` turn; a completion is (system,) user, assistant; a preference is (system,)
    user, assistant (the better answer), rejected (the worse one).

    Attributes:
        turns: its parts.
        kind: of the row.
        part: of a text, the slice of its tokens, BOS and EOS included, that the row has: a piece of
            a long document, or a text without its EOS (0, -1). None is the whole text.
        prompt_turns: of a conversation whose last message alone is learned (a chat or preference
            row), the number of messages before it; 0 of any other row.
    """

    turns: tuple[Turn, ...]
    kind: RowKind
    part: tuple[int, int] | None = None
    prompt_turns: int = 0

    @property
    def id(self) -> str:
        """Content hash, 16 hexadecimal digits; equal rows have equal ids."""
        turns = [(turn.role, turn.content) if turn.taught else (turn.role, turn.content, False) for turn in self.turns]
        special = [*([self.part] if self.part else []), *([self.prompt_turns] if self.prompt_turns else [])]
        content = json.dumps([self.kind, turns, *special], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """All contents, joined by newlines, for the overlap check."""
        return "\n".join(turn.content for turn in self.turns)


@dataclass(frozen=True)
class Example:
    """One row as tokens.

    Attributes:
        input_ids: its tokens.
        supervised: for each token, whether it is a target of the loss (as label, before any shift).
        origin: target or anchor.
        row_id: id of the row.
        truncated: whether it was cut at the maximum length.
        rejected: of a preference pair, the same prompt with the worse answer.
        row: the row itself, if an objective needs its text (to reward an answer).
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
        """All tokens, including those of a worse answer and its prompt."""
        return len(self.input_ids) + (len(self.rejected.input_ids) if self.rejected else 0)

    @property
    def supervised_tokens(self) -> int:
        """Tokens with a loss; the first token of a sequence never has one."""
        return sum(self.supervised[1:])


def anchor_share(step: Sequence[Example]) -> float | None:
    """Return the weight of the anchor in the loss of a step, in 0..1.

    The loss is a mean over supervised tokens, so the weight is their share; None without any.
    """
    tokens = sum(example.supervised_tokens for example in step)
    anchor = sum(example.supervised_tokens for example in step if example.origin == "anchor")
    return anchor / tokens if tokens else None
