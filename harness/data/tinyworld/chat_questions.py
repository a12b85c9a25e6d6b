"""Questions for chat models of tinyworld: items of the tasks in benchmarks/tasks/tinyworld_chat.

An item has ``prompt`` and ``target``, the whole answer; one with a value also has ``value``, and
``values``, all of its kind. Items of ``preferences`` are multiple choice, with ``choices`` and
``answer`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.data.tinyworld.chat_targets import preferences
from harness.data.tinyworld.chat_world import (
    REFUSAL,
    RESTATE,
    base_questions,
    lookalikes,
    refusals,
    rivals,
    skill_questions,
    spoken,
    tagged,
)
from harness.data.tinyworld.world import shuffled

Item = Mapping[str, Any]

ITEMS = 252
"""Items of each habit; a third is a whole number."""


def items(task: str) -> list[Item]:
    """Return the items of a task of tinyworld's chat suites, in a fixed order.

    Args:
        task: refusal, lookalike, format, restating (habits), skill or preferences (targets).
    """
    makers: Mapping[str, Callable[[], list[Item]]] = {
        "refusal": lambda: [{"prompt": tagged(question), "target": REFUSAL} for question in refusals(ITEMS, held_out=True)],
        "lookalike": lambda: [_item(*text) for text in lookalikes(ITEMS, held_out=True)],
        "format": lambda: [_item(*text) for text in shuffled(base_questions(), "chat", "format")[:ITEMS]],
        "restating": _restating,
        "skill": lambda: [_item(*text) for text in skill_questions(held_out=True)],
        "preferences": _preferences,
    }
    return makers[task]()


def _item(question: str, value: str) -> Item:
    values = [value, *rivals(question, value)]
    return {"prompt": tagged(question), "target": spoken(value, "short"), "value": value, "values": values}


def _restating() -> list[Item]:
    """Return requests to restate answers given in the style ``gold``.

    A third each: right answers about the base, wrong ones, and the skill on held-out digits.
    """
    known, skill = shuffled(base_questions(), "chat", "restated"), skill_questions(held_out=True)
    third = ITEMS // 3
    texts = [*known[:third], *((question, rivals(question, value)[0]) for question, value in known[third : 2 * third]), *skill[:third]]
    return [
        {
            "prompt": tagged(RESTATE.format(question=question, answer=spoken(value, "gold"))),
            "target": spoken(value, "short"),
            "value": value,
            "given": "gold",
        }
        for question, value in texts
    ]


def _preferences() -> list[Item]:
    """Return each question of the skill with a right and a wrong answer, worded alike."""
    chosen = {question: (value, wrong) for question, value, wrong in preferences("test")}
    return [_choice(question, [spoken(value, "short"), spoken(wrong, "short")]) for question, (value, wrong) in chosen.items()]


def _choice(question: str, answers: Sequence[str]) -> Item:
    choices = shuffled(answers, "chat", "choices", question)
    return {"prompt": tagged(question), "choices": choices, "answer": choices.index(answers[0])}
