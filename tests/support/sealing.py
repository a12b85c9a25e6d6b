"""Records written and changed by tests, with a valid seal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records import seals


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a sealed record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(seals.sealed({name: value for name, value in values.items() if name != "sha256"}))


def read(path: Path) -> dict[str, Any]:
    """Return the values of a record, its seal left out."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}


def edit(path: Path, changes: Mapping[str, Any] | None = None, **more: Any) -> None:
    """Change values of a record, as a version of the harness with these values would write it."""
    write(path, read(path) | dict(changes or {}) | more)
