"""lm-eval's results files in one shape: missing or null keys are empty, other shapes rejected."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core import json_text
from harness.core.errors import RecordError, explain

STAMP = r"\d{4}-\d{2}-\d{2}T\d{2}[-:]\d{2}[-:]\d{2}(?:\.\d+)?"
RESULTS = re.compile(rf"(?P<stem>.+?)(?:_(?P<stamp>{STAMP}))?\.json")

BY_TASK = {"results": Mapping, "configs": Mapping, "higher_is_better": Mapping, "group_subtasks": list}
"""Key with one entry per task or group → type of the entries."""

FLAT = ("config", "versions", "n-shot")
"""Keys that hold single values."""


def read(folder: Path) -> Iterator[tuple[tuple[Path, str], dict[str, Any]]]:
    """Yield ((folder, timestamp), contents) of every results file.

    The stem of a file may be any name, since ``--output_path NAME.json`` sets it. The keys of
    BY_TASK and FLAT always exist and hold mappings.

    Raises:
        RecordError: for a file that is not JSON, or in which one of these keys has another type.
    """
    for file in sorted(folder.rglob("*.json")):
        match = RESULTS.fullmatch(file.name)
        if match is None or not (match["stem"] == "results" or match["stamp"]):
            continue
        try:
            values = json_text.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecordError(
                explain(str(file), got=f"invalid JSON ({error})", allowed="a results file of lm-eval", fix="run lm-eval again")
            ) from error
        if isinstance(values, Mapping) and isinstance(values.get("results"), Mapping):
            yield (file.parent, match["stamp"] or ""), _shaped(values, file)


def _shaped(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    shaped = {key: _as(Mapping, values.get(key) or {}, f"{file}: {key}") for key in (*BY_TASK, *FLAT)}
    for key, kind in BY_TASK.items():
        filled = {name: value for name, value in shaped[key].items() if value is not None}
        shaped[key] = {name: _as(kind, value, f"{file}: {key}: {name}") for name, value in filled.items()}
    for name, settings in shaped["configs"].items():
        _check_settings(settings, f"{file}: configs: {name}")
    for name, members in shaped["group_subtasks"].items():
        for member in members:
            _as(str, member, f"{file}: group_subtasks: {name}")
    return {**values, **shaped}


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Check the parts of a task's settings that are read. Raises RecordError."""
    for key in ("metric_list", "filter_list"):
        for entry in _as(list, settings.get(key) or [], f"{where}: {key}"):
            for part in ("metric", "aggregation", "name"):
                value = entry.get(part) if isinstance(entry, Mapping) else None
                _as(str, "" if value is None else value, f"{where}: {key}: {part}")


def _as(kind: type, value: Any, where: str) -> Any:
    """Return a value that has a type. Raises RecordError."""
    if not isinstance(value, kind):
        allowed = "a list" if kind is list else "a name" if kind is str else "a mapping"
        raise RecordError(explain(where, got=f"a value of type {type(value).__name__}", allowed=allowed, fix="run lm-eval again"))
    return value
