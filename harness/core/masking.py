"""Secrets in texts, masked where they are printed or recorded.

A secret is recognised by the name of its variable (``HF_TOKEN=…``), as the value of such a variable
of the environment, or by its form (``hf_…``, a password in a URL).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

MASK = "***"

SHORTEST = 6
"""Fewest characters of an environment variable's value that is masked inside other texts."""

_WORDS = "TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PWD|PAT|KEY"
_SECRET = rf"(?!PWD\b)(?:(?:[A-Z0-9_]*_)?(?:{_WORDS})|[A-Z0-9_]*(?:PASSWORD|APIKEY))"  # a shell sets PWD itself
_NAME = re.compile(_SECRET)

ASSIGNED = re.compile(
    rf"\b(?P<name>{_SECRET}|(?<=export )\w*(?i:{_WORDS}))="
    r"(?P<value>\\\"[^\"$`]+\\\"|\"[^\"$`]+\"|'[^']+'|(?:[^\s\"'$`;&|\\]|\\.)+?(?=[\]})]*(?:[\s\"'$`;&|]|$)))"
)
"""An assignment of a literal value, as in a line of shell."""

_FORMS = re.compile(
    r"\b(?:hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16})\b"
    r"|(?<=://)[^\s/:@]*:[^\s/@]+(?=@)|(?<=--token[ =])[^\s$]+|(?<=--password[ =])[^\s$]+"
)


def masked(text: str, variables: Collection[str] = ()) -> str:
    """Return a text with its secrets replaced by ``***``.

    Args:
        text: such as a command, a line of shell or an error.
        variables: further environment variables whose values are secrets.
    """
    text = ASSIGNED.sub(rf"\g<name>={MASK}", text)
    for value in sorted(_values(variables), key=len, reverse=True):
        text = text.replace(value, MASK)
    return _FORMS.sub(MASK, text)


def _values(variables: Collection[str]) -> set[str]:
    found = {value for name, value in os.environ.items() if _NAME.fullmatch(name) and len(value) >= SHORTEST}
    return found | {value for name in variables if (value := os.environ.get(name, ""))}
