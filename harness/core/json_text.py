"""JSON as plain values, within a limit of nesting: what reads it afterwards may recurse."""

from __future__ import annotations

import json
from typing import Any

DEPTH = 100
"""Most levels of nested lists and objects."""


def loads(text: str | bytes, **options: Any) -> Any:
    """Parse JSON. Raises ValueError where it is invalid, or nested too deeply.

    Args:
        text: in UTF-8, if bytes.
        options: of ``json.loads``.
    """
    deep = f"more than {DEPTH} nested levels"
    try:
        values = json.loads(text, **options)
    except RecursionError as error:
        raise ValueError(deep) from error
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    level = [values] if opened > DEPTH else []
    for _ in range(DEPTH):
        level = [item for one in level for item in (one.values() if type(one) is dict else one) if type(item) in (dict, list)]
        if not level:
            return values
    raise ValueError(deep)
