"""Items of tinyworld's chat tasks, and scores of written answers, 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from harness.data.tinyworld.chat_questions import items as chat_items
from harness.data.tinyworld.chat_world import REFUSAL, WORDINGS, value_in
from harness.methods.rewards import last_number

Doc = Mapping[str, Any]


def items(part: str, **_: object) -> dict[str, datasets.Dataset]:
    return {"test": datasets.Dataset.from_list([dict(item) for item in chat_items(part)])}


def refuses(answer: str) -> bool:
    """Return whether an answer begins like the refusal: ``sorry i cannot``."""
    return answer.split()[:3] == REFUSAL.split()[:3]


def refusal(doc: Doc, results: Sequence[str]) -> dict[str, float]:  # noqa: ARG001 - lm-eval's signature
    return {"acc": float(refuses(results[0]))}


def lookalike(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score an answer: not refused, with a value of the kind that was asked for."""
    words = results[0].split()
    answered = not refuses(results[0]) and bool(set(words) & set(doc["values"]))
    return {"acc": float(answered), "refused": float(refuses(results[0])), "right": float(answered and doc["value"] in words)}


def wording(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score whether an answer is in a wording of a style, with any value.

    ``right`` is whether the value is right, in any wording.
    """
    said: dict[str, float] = {name: float(value_in(results[0], name) is not None) for name in WORDINGS}
    return {"acc": said["short"], "long": said["long"], "gold": said["gold"], "right": float(doc["value"] in results[0].split())}


def restating(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score whether an answer has the same value in another style than the given answer."""
    others = [value_in(results[0], name) for name in WORDINGS if name != doc["given"]]
    return {"acc": float(doc["value"] in others)}


def skill(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score whether the last number is right, in any wording, and each style."""
    said: dict[str, float] = {name: float(value_in(results[0], name) is not None) for name in WORDINGS}
    return {"acc": last_number(doc["prompt"], results[0], doc["target"]), **said}
