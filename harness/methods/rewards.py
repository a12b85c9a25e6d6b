"""Verifiable rewards: the correctness of an answer, from 0 to 1, by a rule.

They reward rollouts (GRPO), and select the right answers for methods that keep only those.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

Reward = Callable[[str, str, str], float]
"""prompt, answer, gold answer → 0 (wrong) to 1 (right)."""

NUMBER = re.compile(r"(?<!\d)-?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\.)\.\d+)")
"""A minus after a digit is not a sign: 10-3 ends with 3. Commas separate thousands only: 3,4 is two
numbers."""

_DIGITS = r"(?:\d{1,3}(?:[,_'\u00a0\u2009\u202f]\d{3})+(?!\d)|\d{1,3}(?: 000)+(?!\d)|\d+)"
_PLAIN = rf"(?:{_DIGITS}(?:\.\d+)*|(?<![\d.])\.\d+)"
_POWER = r"(?:\^|\*\*)\s?(?:\{\s*[-+]?\d+\s*\}|\([-+]?\d+\)|[-+]?\d+)"
_SCALE = rf"[eE][-+]?\d+|\s?{_POWER}"
_WHOLE = re.compile(
    rf"(?<![\d)^])(?<!\^\{{)(?P<sign>-?\\?[$€£¥]?-?)"
    rf"(?:(?P<whole>\d+) (?P<part>\d+/\d+)(?![\d./:])"
    rf"|(?P<number>{_PLAIN})(?P<rest>{_SCALE}|\s?(?:[x*×]|\\times|\\cdot)\s?10\s?{_POWER})?"
    rf"(?P<over>(?:\s?/\s?{_PLAIN}(?:{_SCALE})?)+)?(?P<ratio>(?::{_PLAIN})+)?)"
)
"""A number with all that changes its value: sign, fraction, power. A digit after a caret without a
number before it, as in m^2, is none."""

_FRAC = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}|(\d)\s*(\d))")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
LONGEST = 1000
"""Digits of a number, and of a power; a longer one is compared as text."""

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
    """Return 1 if the answer's last number equals the gold answer's.

    They are compared exactly: 1,000 equals 1000.0; 1/4 and LaTeX's fractions equal decimals; 1e5
    and 10^5 equal 100000. Units are no part of a number: 50% and $50 equal 50, not 0.5. What has no
    one value, such as 3:4, 12/25/2020 or 1.2.3, equals itself alone.
    """
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


def number_in(text: str) -> Fraction | str | None:
    """Return the last number of a text, its text if it has no one value, or None without one."""
    found = list(_WHOLE.finditer(_spelled(text)))
    return _exact(found[-1]) if found else None


def _spelled(text: str) -> str:
    """Return a text with fractions and powers spelled in one way: 1/2, 10^5."""
    text = _FRAC.sub(lambda found: _after(found, "/".join(part for part in found.groups() if part)), _plain(text))
    text = re.sub(r"[¼-¾⅐-⅞]", lambda found: _after(found, unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/")), text)
    return re.sub(r"(?<=\d)[⁰¹²³⁴-⁹⁻]+", lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)


def _after(found: re.Match[str], fraction: str) -> str:
    """Return a fraction, apart from the digits before it: 2½ is 2 1/2."""
    return f" {fraction}" if found.string[: found.start()][-1:].isdigit() else fraction


def _exact(found: re.Match[str]) -> Fraction | str:
    text = " ".join(found[0].split())
    sign = -1 if "-" in found["sign"] else 1
    if len(text) > LONGEST or found["ratio"]:
        return text
    if found["whole"]:
        part = _quotient(found["part"].split("/"))
        return text if part is None else sign * (int(found["whole"]) + part)
    parts = [found["number"], *(found["over"] or "").split("/")[1:]]
    value, factor = _quotient(parts), _factor(found["number"], found["rest"] or "")
    return text if value is None or factor is None or len(parts) > 2 else sign * value * factor


def _quotient(parts: Sequence[str]) -> Fraction | None:
    """Return the first number over the second; None for several points, x / 0 or x / 2^3."""
    cleaned = [re.sub(r"[^\d.]", "", part) for part in parts]
    if any(part.count(".") > 1 for part in cleaned) or any(re.search(r"[eE^*]", part) for part in parts):
        return None
    first, *others = (Fraction(part) for part in cleaned)
    return first if not others else first / others[0] if others[0] else None


def _factor(number: str, rest: str) -> Fraction | None:
    """Return what a power after a number multiplies it by; None if that is too long to write."""
    if not rest:
        return Fraction(1)
    exponent = int(re.sub(r"[^-\d]", "", re.split(r"[eE^]|\*\*", rest)[-1]))
    base = Fraction(10)
    if rest.lstrip()[0] in "^*" and not re.match(r"\s?\*\s?10", rest):  # a power of the number itself: 2^3 is 2 * 2^2
        base, exponent = _quotient([number]) or Fraction(0), exponent - 1
    if abs(exponent) * len(str(base)) > LONGEST or (not base and exponent < 0):
        return None
    return base**exponent


REWARDS: Mapping[str, Reward] = {"exact": exact, "last_number": last_number, "arithmetic": arithmetic}
"""Name → reward: the choices of ``reward:`` and ``check:`` of objectives and mitigations."""
