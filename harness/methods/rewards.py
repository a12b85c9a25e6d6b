"""Verifiable rewards: how right an answer is, from 0 to 1, by a rule that anybody can check.

Small functions, found by name.

They reward rollouts (GRPO), and tell the right answers from the wrong ones where a method keeps
what is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

Reward = Callable[[str, str, str], float]
"""prompt, answer, gold answer → 0 (wrong) to 1 (right)."""

NUMBER = re.compile(r"(?<!\d)-?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\.)\.\d+)")
"""A minus after a digit is no sign of the number behind it: 10-3 ends with 3. Commas stand
between thousands: 3,4 is two numbers."""

_SIGN = r"[-+*/×÷]"
_ENDS = r"(?!\d|[.,]\d|\s*%|\s*[-+*/×÷^xX]\s*[-(]*\d)"
"""After an equation: the right side is one whole number, and nothing is worked out with it."""
_EQUATION = re.compile(rf"({NUMBER.pattern}(?:\s*{_SIGN}\s*{NUMBER.pattern})+)\s*=\s*({NUMBER.pattern}){_ENDS}")
_GOES_ON = re.compile(r"(?:[.,]|(?:[-+*/×÷^%)\d]|(?<![^\W\d_])[xX])\s*)\Z")
"""Before an equation: more of its left side, which cannot be read here."""


def exact(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 where the words are those of the gold answer, whatever the case and the white space."""
    return float(answer.lower().split() == gold.lower().split())


def last_number(prompt: str, answer: str, gold: str) -> float:  # noqa: ARG001 - a Reward
    """Return 1 where the last number of the answer equals the last one of the gold answer: 1,000 is 1000.0, in any wording."""
    said, wanted = number_in(answer), number_in(gold)
    return float(said is not None and said == wanted)


def arithmetic(prompt: str, answer: str, gold: str) -> float:
    """Return 1 where the last number is right and every step that is written out, such as 3 + 4 = 7 or <<3*4=12>>, is true.

    A step is numbers joined by + - * / × ÷, an equals sign, one number; a $ before a number is
    passed over. It is true where both sides are equal, or where the right one has decimals and the
    left one is it when rounded to as many: 10/3=3.33, but not 10/3=3. What cannot be read whole is
    not judged: parentheses, percentages, powers, words or units between the numbers, a letter x for
    times.
    """
    text = _plain(answer).replace("$", "")
    whole = [found for found in _EQUATION.finditer(text) if not _GOES_ON.search(text, 0, found.start())]
    return last_number(prompt, answer, gold) * float(all(_is_true(found.group(1), found.group(2)) for found in whole))


def _plain(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-")


def _is_true(left: str, right: str) -> bool:
    value, said = _worked_out(left), _number(right)
    decimals = len(right.partition(".")[2])
    tolerance = Fraction(1, 2 * 10**decimals) if decimals else Fraction(0)
    return value is not None and abs(value - said) <= tolerance


def _worked_out(expression: str) -> Fraction | None:
    """Return the value of numbers joined by signs, products before sums.

    None where it divides by zero.
    """
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
    found = NUMBER.findall(_plain(text))
    return float(found[-1].replace(",", "")) if found else None


REWARDS: Mapping[str, Reward] = {"exact": exact, "last_number": last_number, "arithmetic": arithmetic}
"""Name → reward: what ``reward:`` of an objective and ``check:`` of a mitigation choose from."""
