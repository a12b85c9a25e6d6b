"""Cells of a CSV file that no spreadsheet runs as a formula."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from harness.core import streams

_RUN = ("=", "+", "-", "@", "\t", "＝", "＋", "－", "＠")
"""Beginnings of cells that a spreadsheet may run as a formula."""

_NUMBER = r"[-+−]?(?:[\d.,]+(?:[eE][-+−]?\d+)?|inf|nan)"
_A_NUMBER = re.compile(rf"[-+]|{_NUMBER}(?:/\d+)?(?:\s?%)?(?: \[{_NUMBER}, {_NUMBER}\](?:\s?%)?)?")
"""A number, perhaps with its interval, or the sign of a missing one."""


def safe(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts no spreadsheet runs, without control characters."""
    safe = table.rename(columns=_cell)
    for place in range(table.shape[1]):
        if not pd.api.types.is_numeric_dtype(column := table.iloc[:, place]):
            safe.isetitem(place, column.astype(object).map(_cell).array)
    return safe


def _cell(value: Any) -> Any:
    """Return a text that would be run after an apostrophe, which spreadsheets read as text."""
    if not isinstance(value, str):
        return value
    is_run = value.startswith(_RUN) and not _A_NUMBER.fullmatch(value)
    return ("'" if is_run else "") + streams.visible(value)
