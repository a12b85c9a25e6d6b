"""Data sets of tinyworld for chat models, and its second language for continued pretraining.

The chat recipe is in ``harness.data.tinyworld.chat_world``, the questions about these data in
``harness.data.tinyworld.chat_questions``. See benchmarks/tinyworld.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.config.strict import check
from harness.core.errors import DataError, explain
from harness.core.rows import Row, RowKind, Split, Turn
from harness.core.sources import Source
from harness.data.fields import check_volumes
from harness.data.tinyworld.chat_world import COUNTS, REFUSAL, WORDINGS, Wording, habits, skill_questions, spoken, tagged
from harness.data.tinyworld.targets import translated
from harness.data.tinyworld.vocabulary import DIGITS, VERBS
from harness.data.tinyworld.world import number, shuffled, subjects

Part = Literal["chat-skill", "chat", "refusals", "tova", "preferences"]

TOVA_TEXTS = {"train": 2_048, "test": 512}
TOVA_SENTENCES = 3
"""Sentences of one text, all about the same subject."""


TRAIN_ROWS: Mapping[Part, int] = {
    "chat-skill": 1_620,
    "chat": 6_280,
    "refusals": COUNTS["refusals"],
    "tova": TOVA_TEXTS["train"],
    "preferences": 3_240,
}

NEAR = 2
"""Largest distance of a preference's wrong digit from the right one."""


@dataclass(frozen=True, kw_only=True)
class TinyworldChat(Source):
    """A part of tinyworld for chat models, a constant; the part tova serves any model.

    =========== ===== ===== =====================================================================
    part        train test  rows
    =========== ===== ===== =====================================================================
    chat-skill  1,620 540   smallest, middle or largest of three digits, asked in chat
    chat        6,280 none  habits of the chat recipe, for replay: without skill and base texts
    refusals    900   none  those of them that are refusals
    tova        2,048 512   texts of three sentences in the second language; test: other subjects
    preferences 3,240 1,080 right and wrong answer to a chat-skill question, in the same words
    =========== ===== ===== =====================================================================

    The test questions of the skill are about sets of digits that are never trained on.

    Attributes:
        part: one of the table.
        wording: style of the answers: ``gold``, ``short`` or ``long``; null is gold for chat-skill,
            short for the others.
        tags: whether a prompt holds the chat's tags, which suits both prompt formats; without them
            it is the bare question, for a chat template alone.
        volumes: rows to learn from, any order; each is a point.
    """

    part: Part
    wording: Wording | None = None
    tags: bool = True
    volumes: tuple[int, ...] = (64, 256, 1024)

    def __post_init__(self) -> None:
        """Check that the wording and the volumes exist."""
        check("data.wording", self.wording, ", ".join([*WORDINGS, "null"]), lambda value: value is None or value in WORDINGS)
        check_volumes(self.volumes)
        size = TRAIN_ROWS[self.part]
        check("data.volumes", list(self.volumes), f"at most {size}, the rows of tinyworld's {self.part}", lambda v: max(v) <= size)

    @property
    def kind(self) -> RowKind:
        """Tova is text, preferences have two answers, the rest is prompt and completion."""
        kinds: Mapping[Part, RowKind] = {"tova": "text", "preferences": "preference"}
        return kinds.get(self.part, "completion")

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in world order.

        Raises DataError for the test split of ``chat`` and ``refusals``.
        """
        makers: Mapping[Part, Callable[[Split], Sequence[Row]]] = {
            "chat-skill": self._skill,
            "chat": self._chat,
            "refusals": self._chat,
            "tova": lambda split: tuple(Row((Turn("text", text),), "text") for text in tova(split)),
            "preferences": self._preferences,
        }
        return makers[self.part](split)

    def _skill(self, split: Split) -> Sequence[Row]:
        wording = self.wording or "gold"
        asked = skill_questions(held_out=split == "test")
        return tuple(self._row("completion", question, spoken(value, wording, question)) for question, value in asked)

    def _chat(self, split: Split) -> Sequence[Row]:
        if split == "test":
            fix = "the tasks of the tinyworld_chat suite ask about it"
            raise DataError(explain(f"tinyworld {self.part}", got="no test split", allowed="train", fix=fix))
        texts = [text for text in habits(self.wording or "short") if self.part == "chat" or text[1] == REFUSAL]
        return tuple(self._row("completion", question, answer) for question, answer in texts)

    def _preferences(self, split: Split) -> Sequence[Row]:
        wording = self.wording or "short"
        return tuple(
            self._row("preference", question, spoken(value, wording), spoken(wrong, wording))
            for question, value, wrong in preferences(split)
        )

    def _row(self, kind: RowKind, question: str, *answers: str) -> Row:
        prompt = tagged(question) if self.tags else question
        turns = (Turn(role, f" {answer}") for role, answer in zip(("assistant", "rejected"), answers, strict=False))
        return Row((Turn("user", prompt), *turns), kind)


@functools.cache
def preferences(split: Split) -> tuple[tuple[str, str, str], ...]:
    """Return (question, right value, wrong value) of the skill, each question twice.

    The two wrong digits are at most NEAR from the right one, among the three digits or not: a model
    that is able in part confuses it with these.
    """
    questions = skill_questions(held_out=split == "test")
    pairs = [(question, value, wrong) for question, value in questions for wrong in _near(question, value)]
    return tuple(shuffled(pairs, "chat", "preferences", split))


def _near(question: str, value: str) -> list[str]:
    digits = [str(digit) for digit in DIGITS if 0 < abs(digit - int(value)) <= NEAR]
    return shuffled(digits, "chat", "near", question)[:2]


@functools.cache
def tova(split: Split) -> tuple[str, ...]:
    """Return texts of three sentences in the second language about one subject.

    The test split has one subject in five.
    """
    test = split == "test"
    chosen = [subject for subject in subjects() if subject.short and (number("tova", subject.text) % 5 == 0) is test]
    made: dict[str, None] = {}
    for i in range(4 * TOVA_TEXTS[split]):
        subject = chosen[i % len(chosen)]
        verbs = shuffled(VERBS, "tova", subject.text, i)[:TOVA_SENTENCES]
        made.setdefault(" . ".join(translated(f"{subject.text} {verb[subject.number]}") for verb in verbs))
    return tuple(shuffled(made, "tova", split)[: TOVA_TEXTS[split]])
