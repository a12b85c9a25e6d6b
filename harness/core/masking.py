"""Secrets in texts, masked where they are printed or recorded.

A secret is recognised by the name before it (``HF_TOKEN=…``, ``--api-key …``), as the value of such
a variable of the environment, or by its form (``hf_…``, a password in a URL).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

MASK = "***"

SHORTEST = 6
"""Fewest characters of an environment variable's value that is masked inside words."""

_LONG = "token|secret|password|passwd|passphrase|credentials?|apikey"
_SHORT = "key|pwd|pat"
_NO_SECRET = r"(?!(?:\w*_)?(?:bos|eos|pad|unk|sep|cls|mask|per)_token\b)"  # of tokenizers
_VARIABLE = rf"(?i:{_NO_SECRET}\w*(?:{_LONG})|\w+_(?:{_SHORT}))|KEY|PAT"
_NAME = re.compile(_VARIABLE)

_BEFORE = re.compile(
    rf"\b(?P<variable>{_VARIABLE})(?:\+?=|\\*[\"']\s*:\s*(?=\\*[\"']))"
    rf"|(?<![\w-])--(?i:[\w-]*(?:{_LONG}|[-_](?:{_SHORT})))(?:=|\s+(?!-))"
    r"|\b(?i:(?:proxy-)?authorization)\\*[\"']?\s*[:=]\s*\\*[\"']?(?:(?i:bearer|basic|token)\s+)?"
    r"|(?<![\w-])(?i:x-[\w-]*(?:key|token))\\*[\"']?\s*:\s*"
)
"""What a secret follows."""

_QUOTE = re.compile(r"\\*[\"']")

_PART = re.compile(
    r"\$'(?:[^'\\]|\\.)*'|\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]{,999}\}|`[^`]*`"
    rf"|(?P<quote>{_QUOTE.pattern})|\\.|(?P<plain>[^\s\"'`;&|<>()\\$]+|\$)",
    re.DOTALL,
)
"""Part of a word of shell; a quote opens one."""

_REFERENCE = re.compile(r"(?P<quote>\\*\"|)(?:\$\w+|\$\{\w+\}|\$\((?:[^()]|\([^()]*\))*\)|`[^`]*`)(?P=quote)", re.DOTALL)
"""A word that is no secret: the value of a variable, or what a command prints."""

_END = re.compile(r"[\s\]}),;&|:\"'\\]|$")
"""What follows a quote that closes a text in which the secret is."""

_FORMS = re.compile(
    r"\b(?:hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16})\b"
    r"|(?<=://)(?!git@)(?:[^\s/?#@:]*:(?!\d{1,5}(?:[/?#]|$))\S{,999}|[^\s/?#@:]+)(?=@)"
    r"|(?<![\w/.:@+-])[A-Za-z_][\w.+-]*:(?!/)[^\s/,;\"':][^\s/,;\"']*(?=@(?!sha\d)[\w-])"
)


@dataclass(frozen=True)
class Secret:
    """A secret in a text, by the name before it.

    Attributes:
        variable: that it is assigned to; None after an option or a header.
        is_quoted: it is inside a quoted text.
        start, end: of the word of shell that it is.
    """

    variable: str | None
    is_quoted: bool
    start: int
    end: int


def secrets(text: str) -> Iterator[Secret]:
    """Yield the secrets in a text that a name is before."""
    quotes, last, place = Counter[str](), 0, 0
    while before := _BEFORE.search(text, place):
        start = place = before.end()
        quotes.update(_QUOTE.findall(text, last, start))
        last = start
        around = {quote for quote, times in quotes.items() if times % 2}
        end = _end(text, start, around)
        word = text[start:end]
        if word and word != MASK and not _REFERENCE.fullmatch(word):
            yield Secret(before["variable"], bool(around), start, end)
            last = place = end


def _end(text: str, start: int, around: Collection[str]) -> int:
    """Return where a word of shell ends, without brackets of a list around it.

    Args:
        text: has the word.
        start: of the word.
        around: quotes that are open before it.
    """
    place = whole = start
    while part := _PART.match(text, place):
        quote, place = part["quote"], part.end()
        if quote is None:
            whole = whole if part["plain"] else place
            continue
        inside = {'"': r"(?:[^\\]|\\.)*?", "'": ".*?"}.get(quote, r".*?(?<!\\)")
        closed = re.compile(inside + re.escape(quote), re.DOTALL).match(text, place)
        if _END.match(text, place) and (quote in around or not closed):
            place = part.start()
            break
        place = whole = closed.end() if closed else len(text)
    return max(whole, start + len(text[start:place].rstrip("]}),")))


def masked(text: str, variables: Collection[str] = ()) -> str:
    """Return a text with its secrets replaced by ``***``.

    Args:
        text: such as a command, a line of shell or an error.
        variables: further environment variables whose values are secrets.
    """
    kept, last = [], 0
    for secret in secrets(text):
        kept += [text[last : secret.start], MASK]
        last = secret.end
    text = "".join([*kept, text[last:]])
    for value in sorted(_values(variables), key=len, reverse=True):
        whole = re.escape(value)
        text = text.replace(value, MASK) if len(value) >= SHORTEST else re.sub(rf"(?<!\w){whole}(?!\w)", MASK, text)
    return _FORMS.sub(MASK, text)


def _values(variables: Collection[str]) -> set[str]:
    found = {value for name, value in os.environ.items() if _NAME.fullmatch(name) and len(value) >= SHORTEST}
    return found | {value for name in variables if (value := os.environ.get(name, ""))}
