"""Rows that teach: those of a source with a token to learn, long texts in pieces.

Volumes are drawn from them, so that a volume counts what is learned.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.core.methods import Objective
from harness.core.rows import Example, Row, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNCUT = 2**30
"""Length limit in tokens for a text that is encoded whole."""

UNTAUGHT = "every answer has train: false or weight: 0"
EQUAL = "the two answers are equal as far as they are read"
EMPTY = "no token has a loss"

RARE = "Qzxj 𓀀 ☃"
"""A text that a vocabulary of words does not have."""


@dataclass(frozen=True)
class TaughtRows:
    """The rows of a source that teach, in its order.

    Attributes:
        rows: a long text that is split has several rows, its pieces.
        parts: of a sequence of stages, (rows available, rows read) of each stage.
        of: rows of the source.
        longest: row, in tokens.
        left_out: reason → rows of the source without a token to learn.
        split: rows of the source that are split.
        pieces: rows that these became.
        content: hash of what differs from the source; None where nothing does.
    """

    rows: Sequence[Row]
    parts: tuple[tuple[int, int], ...]
    of: int
    longest: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    split: int = 0
    pieces: int = 0
    content: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return its part of ``Record.data_facts``."""
        return {"left_out_rows": sum(self.left_out.values()), "split_rows": self.split}

    def in_words(self) -> str:
        """Return a sentence on what differs from the source; empty where nothing does."""
        told = []
        if self.left_out:
            reasons = "; ".join(f"{reason}: {rows}" for reason, rows in self.left_out.items())
            told.append(f"{sum(self.left_out.values())} of {self.of} rows teach nothing and are left out ({reasons})")
        if self.split:
            told.append(f"{self.split} of {self.of} texts are longer than {self.longest} tokens and split into {self.pieces} rows")
        return "; ".join(told)


def taught_rows(
    rows: Sequence[Row], parts: Sequence[tuple[int, int]], objective: Objective, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> TaughtRows:
    """Return the rows of a source that teach.

    A row is encoded only if the bytes before its first answer might fill ``max_length`` tokens, or
    those of a text that may be split.

    Args:
        rows: of the source; of a sequence, stage by stage.
        parts: of a sequence, (rows available, rows read) of each stage.
        objective: encodes the rows.
        tokenizer: the model's.
        max_length: of a row, in tokens.
    """
    look = _Look(objective, tokenizer, max_length)
    kept: list[Row] = []
    differs: list[tuple[int, int]] = []  # number in the source, rows that it became
    left_out: Counter[str] = Counter()
    sizes: list[int] = []
    numbered = enumerate(rows)
    for size, _ in parts or ((len(rows), 0),):
        before = len(kept)
        for number, row in itertools.islice(numbered, size):
            reason, found = look.of(row)
            left_out.update([reason] if reason else [])
            kept += found
            if len(found) != 1:
                differs.append((number, len(found)))
        sizes.append(len(kept) - before)
    pieces = [count for _, count in differs if count]
    return TaughtRows(
        rows=kept if differs else rows,
        parts=tuple((size, taken) for size, (_, taken) in zip(sizes, parts, strict=False)),
        of=len(rows),
        longest=max_length,
        left_out=dict(sorted(left_out.items())),
        split=len(pieces),
        pieces=sum(pieces),
        content=hashlib.sha256(json.dumps(differs).encode()).hexdigest() if differs else None,
    )


@dataclass
class _Look:
    """A look at rows, one by one, which encodes few of them.

    Attributes:
        frames: kind and roles of a row → tokens of such a row whose texts have one letter each.
        merges: whether different texts may be equal tokens: unknown words, letters without case.
    """

    objective: Objective
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    frames: dict[tuple[str, ...], int] = field(default_factory=dict)
    merges: bool = field(init=False)

    def __post_init__(self) -> None:
        """Look at the tokenizer."""
        self.merges = unknown(self.tokenizer, RARE) > 0 or self.tokenizer.encode("A b") == self.tokenizer.encode("a B")

    def of(self, row: Row) -> tuple[str, Sequence[Row]]:
        """Return why a row teaches nothing, or an empty string; and the rows it becomes."""
        if row.kind == "text":
            return "", self._pieces(row) if self.objective.splits_texts else [row]
        if not any(turn.taught for turn in row.turns if turn.role == "assistant"):
            return UNTAUGHT, []
        if self._fits(row, _before_answer(row)) and not (row.kind == "preference" and self._may_be_equal(row)):
            return "", [row]
        reason = self._reason(self.objective.encode(row, self.tokenizer, self.max_length, "target"))
        return reason, [] if reason else [row]

    def _reason(self, example: Example) -> str:
        """Return why an example teaches nothing; empty if it does."""
        if not example.supervised_tokens and not (example.rejected and example.rejected.supervised_tokens):
            return f"the prompt fills the {self.max_length} tokens of a row" if example.truncated else EMPTY
        return EQUAL if example.rejected and example.rejected.input_ids == example.input_ids else ""

    def _may_be_equal(self, row: Row) -> bool:
        """Return whether the two answers of a pair might be equal as far as they are read."""
        better, worse = (turn.content.strip() for turn in row.turns[-2:])
        return better == worse or self.merges or (better[:1] == worse[:1] and not self._fits(row, [turn.content for turn in row.turns]))

    def _fits(self, row: Row, texts: Sequence[str]) -> bool:
        """Return whether texts of a row leave room for a token: one has at least one byte."""
        roles = (row.kind, *(turn.role for turn in row.turns))
        if roles not in self.frames:
            frame = dataclasses.replace(row, turns=tuple(Turn(turn.role, "a") for turn in row.turns))
            self.frames[roles] = len(self.objective.encode(frame, self.tokenizer, UNCUT, "target").input_ids)
        return self.frames[roles] + sum(map(_bytes, texts)) < self.max_length

    def _pieces(self, row: Row) -> list[Row]:
        """Return a text as rows of nearly equal length that overlap by one token.

        The first token of a row has no loss, so each token but the first is learned once.
        """
        if self._fits(row, [row.turns[0].content]):
            return [row]
        predicted = len(self.objective.encode(row, self.tokenizer, UNCUT, "target").input_ids) - 1
        count = -(-predicted // max(self.max_length - 1, 1))
        if count <= 1:
            return [row]
        ends = [number * predicted // count for number in range(count + 1)]
        return [dataclasses.replace(row, part=(start, end + 1)) for start, end in itertools.pairwise(ends)]


def unknown(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Return the number of tokens of a text that stand for what a tokenizer does not know."""
    mark = tokenizer.unk_token_id
    return 0 if mark is None else tokenizer.encode(text, add_special_tokens=False).count(mark)


def _before_answer(row: Row) -> list[str]:
    """Return the texts of a row before its first answer to learn."""
    return [turn.content for turn in itertools.takewhile(lambda turn: not (turn.role == "assistant" and turn.taught), row.turns)]


def _bytes(text: str) -> int:
    """Return the most tokens that a text may have; a tokenizer may normalise it first."""
    normal = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return max(len(text.encode()), len(normal.encode()))
