"""Verifiable rewards: the correctness of an answer, from 0 to 1, by a rule.

They reward rollouts (GRPO), and select the right answers for methods that keep only those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

Reward = Callable[[str, str, str], float]
"""prompt, answer, gold answer → 0 (wrong) to 1 (right)."""

NUMBER = re.compile(r"(?<!\d)-?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\.)\.\d+)")
"""A minus after a digit is not a sign: 10-3 ends with 3. Commas separate thousands only: 3,4 is two
numbers."""

_SIGN = r"[-+*/×÷]"
_ENDS = r"(?!\d|[.,]\d|\s*%|\s*[-+*/×÷^xX]\s*[-(]*\d)"
"""After an equation: the number on its right side ends, and no calculation continues with it."""
_EQUATION = re.compile(rf"({NUMBER.pattern}(?:\s*{_SIGN}\s*{NUMBER.pattern})+)\s*=\s*({NUMBER.pattern}){_ENDS}")
_CONTINUES = re.compile(r"(?:[.,]|(?:[-+*/×÷^%)\d]|(?<![^\W\d_])[xX])\s*)\Z")
"""Before an equation: more of its left side, which is not parsed."""


def exact(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 if the words are the gold answer's, ignoring case and white space."""
    return float(answer.lower().split() == gold.lower().split())


def last_number(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 if the answer's last number equals the gold answer's: 1,000 equals 1000.0."""
    found, wanted = number_in(answer), number_in(gold)
    return float(found is not None and found == wanted)


def arithmetic(prompt: str, answer: str, gold: str) -> float:
    """Return 1 if the last number is right and every written step is true.

    A step, such as 3 + 4 = 7 or <<3*4=12>>, is numbers joined by + - * / × ÷, an equals sign, and
    one number; a $ before a number is ignored. It is true if both sides are equal, or if the right
    side has decimals and the left side rounds to it: 10/3=3.33, but not 10/3=3. A step that is not
    fully parsed is not judged: parentheses, percentages, powers, words or units between the
    numbers, a letter x for times.
    """
    text = _plain(answer).replace("$", "")
    whole = [found for found in _EQUATION.finditer(text) if not _CONTINUES.search(text, 0, found.start())]
    return last_number(prompt, answer, gold) * float(all(_is_true(found.group(1), found.group(2)) for found in whole))


def _plain(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-")


def _is_true(left: str, right: str) -> bool:
    value, stated = _value(left), _number(right)
    decimals = len(right.partition(".")[2])
    tolerance = Fraction(1, 2 * 10**decimals) if decimals else Fraction(0)
    return value is not None and abs(value - stated) <= tolerance


def _value(expression: str) -> Fraction | None:
    """Return the value of joined numbers, products before sums; None for x / 0."""
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
    """Return a reward: 1 if the whole stripped answer matches a regular expression."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda prompt, answer, gold: float(compiled.fullmatch(answer.strip()) is not None)  # noqa: ARG005 - a Reward


def number_in(text: str) -> float | None:
    """Return the last number of a text, or None without one."""
    found = NUMBER.findall(_plain(text))
    return float(found[-1].replace(",", "")) if found else None


REWARDS: Mapping[str, Reward] = {"exact": exact, "last_number": last_number, "arithmetic": arithmetic}
"""Name → reward: the choices of ``reward:`` and ``check:`` of objectives and mitigations."""
