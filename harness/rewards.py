"""Verifiable rewards: how right an answer is, from 0 to 1, by a rule that anybody can check. Small functions, found by name.

They reward rollouts (GRPO), and tell the right answers from the wrong ones where a method keeps what is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Reward = Callable[[str, str, str], float]
"""prompt, answer, gold answer → 0 (wrong) to 1 (right)."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def exact(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 where the words are those of the gold answer, whatever the case and the white space."""
    return float(answer.lower().split() == gold.lower().split())


def last_number(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 where the last number of the answer equals the last one of the gold answer: 1,000 is 1000.0, in any wording."""
    said, wanted = number_in(answer), number_in(gold)
    return float(said is not None and said == wanted)


def number_in(text: str) -> float | None:
    """Return the last number of a text, or None where there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


REWARDS: Mapping[str, Reward] = {"exact": exact, "last_number": last_number}
"""Name → reward: what ``reward:`` of an objective and ``check:`` of a mitigation choose from."""
