"""Sizes of what templates compute, estimated before it is computed."""

from __future__ import annotations

import re
from typing import Any

SIZE = 10_000_000
"""Most characters, or items of a list, that a template makes."""

DIGITS = 4_000
"""Most digits of an integer that a template computes."""

CHARACTERS_A_STEP, CHARACTERS_AN_ITEM = 1_000, 100

_WIDE = frozenset("center ljust rjust zfill expandtabs to_bytes indent wordwrap batch slice tojson".split())
"""Filters and methods whose whole arguments are widths or counts."""

_PADDED = re.compile(r"%[^%a-zA-Z]*?\d{6}|\{[^{}]*:[^{}]*?\d{6}")
_NESTED = re.compile(r"%[^%a-zA-Z]*\*|\{[^{}]*:[^{}]*\{")


def characters(value: Any) -> int:
    """Return the characters of a text, or as many as are counted for the items of a list."""
    if isinstance(value, str | bytes):
        return len(value)
    return len(value) * CHARACTERS_AN_ITEM if isinstance(value, list | tuple | dict | range) else 0


def estimate(name: str, subject: Any, arguments: tuple[Any, ...], size: int) -> int:
    """Return about how much a call makes, if it is one that makes more than it is given.

    ``size`` is that of the subject and arguments with all that is inside.
    """
    texts = [len(one) for one in arguments if isinstance(one, str)]
    whole = [abs(one) for one in arguments if isinstance(one, int)]
    if name in _WIDE:
        lines = (
            1 + subject.count("\n") + subject.count("\t") if isinstance(subject, str) else max(_length(subject), size // CHARACTERS_AN_ITEM)
        )
        return max([*whole, *texts], default=0) * max(1, lines)
    if name == "replace" and isinstance(subject, str) and len(texts) > 1:
        return len(subject) + subject.count(str(arguments[0])) * texts[1]
    if name == "join":
        return _joined(subject, arguments[0] if arguments else "")
    if name in ("format", "format_map", "%") and isinstance(subject, str):
        padded = _PADDED.search(subject) or (_NESTED.search(subject) and max(whole, default=0) >= 10**6)
        return SIZE + 1 if padded else (subject.count("%") + subject.count("{")) * (size - len(subject))
    if name == "sum" and any(isinstance(one, list | tuple) for one in arguments):
        return _length(subject) * (size // CHARACTERS_AN_ITEM)  # each sum is a copy
    if (name == "round" and max(whole, default=0) > DIGITS) or (name == "pprint" and size > SIZE // 100):
        return SIZE + 1  # a power of ten; the text of each item once a level
    return 0


def _joined(one: Any, other: Any) -> int:
    """Return the characters of joined items: of a filter's list or of a method's argument."""
    items, separator = (other, one) if isinstance(one, str) and not isinstance(other, str) else (one, other)
    if not isinstance(items, str | list | tuple | dict | range):
        return 0
    inside = sum(len(item) for item in items if isinstance(item, str)) if isinstance(items, list | tuple) else 0
    return inside + len(items) * (len(separator) if isinstance(separator, str) else 1)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | dict | bytes) else 1
