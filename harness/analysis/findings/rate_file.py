"""Searched rates merged into a yaml file; other entries, keys and comments stay as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.config.resolution import SearchedRate
from harness.config.strict import build, plain
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, explain
from harness.core.files import hidden_name

Key = tuple[str, ...]
Edit = tuple[int, int, str]
"""Start, end and new text of a part of a file."""


def merge(rates: Sequence[SearchedRate], file: Path) -> None:
    """Replace a file's entries for the same combinations, and append the others.

    Raises ConfigError if the file has no list of rates that can be edited; it stays as it is.
    """
    file = file.resolve()  # a link stays a link
    entries = _entries(file)
    fresh = {_key(rate): json.dumps(plain(rate)) for rate in rates}
    with file.open(encoding="utf-8", newline="") as opened:  # ends of lines stay
        text = opened.read()
    root = yaml.compose(text, yaml.SafeLoader)
    listed = next((value for key, value in root.value if key.value == "rates"), None) if root is not None else None
    nodes = listed.value if isinstance(listed, yaml.SequenceNode) else []
    keys = [_key(entry) for entry in entries]
    edits = [(node.start_mark.index, _end(node), fresh[key]) for node, key in zip(nodes, keys, strict=True) if key in fresh]
    added = [entry for key, entry in fresh.items() if key not in keys]
    for start, end, new in sorted([*edits, *_added(added, listed, text)], reverse=True):
        text = text[:start] + new + text[end:]
    temporary = hidden_name(file)
    try:
        with temporary.open("w", encoding="utf-8", newline="") as opened:
            opened.write(text)
        shutil.copymode(file, temporary)
        wanted = {key: entry for key, entry in zip(keys, entries, strict=True) if key not in fresh} | {_key(rate): rate for rate in rates}
        if {_key(entry): entry for entry in _read_back(temporary)} != wanted:
            fix = "copy them from the output of the command without --write"
            raise ConfigError(explain(str(file), got="a list of rates that cannot be edited", allowed="entries of plain yaml", fix=fix))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _entries(file: Path) -> list[SearchedRate]:
    found = load_yaml(file).get("rates")
    if not isinstance(found, list | None) or any(not isinstance(entry, dict) for entry in found or []):
        raise ConfigError(explain(f"{file}: rates", got=type(found).__name__, allowed="a list of mappings"))
    return [build(SearchedRate, entry, f"{file}[{number}]") for number, entry in enumerate(found or [])]


def _read_back(file: Path) -> list[SearchedRate]:
    """Return the entries of an edited file; none if it is no yaml any more."""
    try:
        return _entries(file)
    except ConfigError:
        return []


def _key(rate: SearchedRate) -> Key:
    return rate.model, rate.tuning, rate.objective, rate.data, rate.mitigation


def _end(node: Any) -> int:
    """Return where a node's text ends; the mark of a block is where the next one begins."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _added(entries: Sequence[str], listed: Any, text: str) -> list[Edit]:
    """Return the edit that appends entries to a list, or begins one."""
    if not entries:
        return []
    if isinstance(listed, yaml.SequenceNode) and listed.flow_style:
        at = listed.end_mark.index - 1
        return [(at, at, ", " * bool(listed.value) + ", ".join(entries))]
    indent, at = "  ", len(text)
    if isinstance(listed, yaml.SequenceNode):
        indent = " " * int(listed.start_mark.column)
    if listed is not None:
        at = _end(listed)
        at = text.find("\n", at) + 1 or len(text)
    lines = "".join(f"{indent}- {entry}\n" for entry in entries)
    lines = lines if listed is not None else f"rates:\n{lines}"
    return [(at, at, lines if at == 0 or text[at - 1] == "\n" else f"\n{lines}")]
