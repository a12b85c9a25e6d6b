"""Verifiable rewards: how right an answer is, from 0 to 1, by a rule that anybody can check. Small functions, found by name.

They reward rollouts (GRPO), and tell the right answers from the wrong ones where a method keeps what is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

Reward = Callable[[str, str, str], float]
"""prompt, answer, gold answer → 0 (wrong) to 1 (right)."""

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")

_SIGN = r"[-+*/×÷]"
_EQUATION = re.compile(rf"({NUMBER.pattern}(?:\s*{_SIGN}\s*{NUMBER.pattern})+)\s*=\s*({NUMBER.pattern})")


def exact(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 where the words are those of the gold answer, whatever the case and the white space."""
    return float(answer.lower().split() == gold.lower().split())


def last_number(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 where the last number of the answer equals the last one of the gold answer: 1,000 is 1000.0, in any wording."""
    said, wanted = number_in(answer), number_in(gold)
    return float(said is not None and said == wanted)


def arithmetic(prompt: str, answer: str, gold: str) -> float:
    """Return 1 where the last number is right and every step that is written out, such as 3 + 4 = 7 or <<3*4=12>>, is true."""
    steps = [_worked_out(left) == _number(right) for left, right in _EQUATION.findall(answer)]
    return last_number(prompt, answer, gold) * float(all(steps))


def _worked_out(expression: str) -> Fraction | None:
    """Return the value of numbers joined by signs, products before sums; None where it divides by zero."""
    first = NUMBER.match(expression)
    total, product = Fraction(0), _number(first.group() if first else "0")
    for sign, text in re.findall(rf"\s*({_SIGN})\s*({NUMBER.pattern})", expression[first.end() if first else 0 :]):
        number = _number(text)
        if sign in "+-":
            total, product = total + product, number if sign == "+" else -number
        elif sign in "*×":
            product *= number
        elif number == 0:
            return None
        else:
            product /= number
    return total + product


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def matching(pattern: str) -> Reward:
    """Return the reward of a format: 1 where the whole answer, white space at its ends aside, matches a regular expression."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda prompt, answer, gold: float(compiled.fullmatch(answer.strip()) is not None)  # noqa: ARG005 - a Reward


def number_in(text: str) -> float | None:
    """Return the last number of a text, or None where there is none."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


REWARDS: Mapping[str, Reward] = {"exact": exact, "last_number": last_number, "arithmetic": arithmetic}
"""Name → reward: what ``reward:`` of an objective and ``check:`` of a mitigation choose from."""
