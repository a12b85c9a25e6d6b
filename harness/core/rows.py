"""Rows of text, and rows as tokens."""

from __future__ import annotations

import hashlib
import json
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
    the worse answer of a preference pair.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One training or evaluation row.

    Text is one ``text`` turn; a completion is (system,) user, assistant; a preference is (system,)
    user, assistant (the better answer), rejected (the worse one).

    Attributes:
        turns: its parts.
        kind: of the row.
        prompt_turns: of a conversation whose last message alone is learned (a chat or preference
            row), the number of messages before it; 0 of any other row.
    """

    turns: tuple[Turn, ...]
    kind: RowKind
    prompt_turns: int = 0

    @property
    def id(self) -> str:
        """Content hash, 16 hexadecimal digits; equal rows have equal ids."""
        prompt = [self.prompt_turns] if self.prompt_turns else []
        content = json.dumps([self.kind, [(turn.role, turn.content) for turn in self.turns], *prompt], ensure_ascii=False)
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
