"""Standard output and error of a command: any encoding, closed, or a reader that has left.

Control characters in what is written, of names and data, are shown by their code, so that they
cannot move the cursor or colour a terminal. Secrets on standard error are masked. A terminal of
another encoding than UTF-8 gets stand-ins for characters that it lacks. Without a standard output,
or once its reader has left (``| head``), what is written is dropped.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

from harness.core.masking import masked

STAND_INS = "harness.stand_ins"
"""Name of the encoding error handler."""

READER_LEFT = 141
"""Exit code of a command whose output is not read to its end: that of SIGPIPE in a shell."""

_WORDS = {"→": "->", "←": "<-", "↓": "v", "↑": "^", "▼": "v", "▲": "^", "−": "-", "–": "-", "—": "-", "·": "-", "…": "...", "±": "+-"}
_WORDS |= {"×": "x", "÷": "/", "≤": "<=", "≥": ">=", "‘": "'", "’": "'", "“": '"', "”": '"', "\xa0": " "}
_RAISED = dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_BYTES = re.compile("[\udc80-\udcff]+")
"""Bytes of a file name that are no text, as Python reads them."""


HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Control characters, marks of direction and breaks of lines, but line feed and tab."""


def visible(text: str) -> str:
    r"""Return a text with hidden characters as JSON escapes them, such as ``\u001b``."""
    return HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Neutral:
    """A stream whose text is changed before it is written; all else is the stream's own."""

    def __init__(self, stream: TextIO, change: Callable[[str], str]) -> None:
        self.raw, self.change = stream, change

    def write(self, text: str) -> int:
        """Write a text."""
        return self.raw.write(self.change(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw(stream: TextIO) -> TextIO:
    """Return the stream under a neutral one, for escape sequences of our own."""
    return stream.raw if isinstance(stream, Neutral) else stream


def prepare() -> None:
    """Let standard output and error take every text, also where they are closed."""
    codecs.register_error(STAND_INS, _stand_in)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Neutral):
            continue
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open for the whole process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=STAND_INS)
        change = visible if name == "stdout" else lambda text: visible(masked(text))
        setattr(sys, name, cast(TextIO, Neutral(getattr(sys, name), change)))


def drop(stream: TextIO) -> None:
    """Write nothing more to a stream, whose reader has left or whose disk is full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if found := _BYTES.match(text):
        return bytes(ord(character) - 0xDC00 for character in found[0]), error.start + found.end()
    if found := _BYTES.search(text):
        text = text[: found.start()]
    raised = _RAISED_RUN.sub(lambda run: "^" + "".join(map(_RAISED.__getitem__, run[0])), text)
    return "".join(map(_plain, raised)), error.start + len(text)


def _plain(character: str) -> str:
    """Return a character in ASCII: its stand-in, or as JSON escapes it."""
    return _WORDS.get(character) or (character if character.isascii() else json.dumps(character)[1:-1])
