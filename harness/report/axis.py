"""The unit of volumes: rows, or what is known of a training elsewhere."""

from __future__ import annotations

import pandas as pd

_AXES = {"rows": "rows", "steps": "steps", "checkpoint": "checkpoints"}


def axis_unit(table: pd.DataFrame | None) -> str:
    """Return the unit of volumes in a tidy table, such as ``rows`` or ``steps``."""
    found = set() if table is None or "axis" not in table else set(table.loc[(table["volume"] > 0).fillna(value=False), "axis"].dropna())
    return " or ".join(words for axis, words in _AXES.items() if axis in found) or "rows"


def axis_label(unit: str) -> str:
    """Return the label of an axis of volumes."""
    return "volume (target rows, log scale)" if unit == "rows" else f"{unit} (log scale)"
