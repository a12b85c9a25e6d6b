"""Trust in task files: which yaml files and functions may decide what lm-eval runs.

A task file can call Python (``!function``, ``class``). Those of ``benchmarks/``, of the folders of
``HARNESS_PATH`` and of the installed lm-eval are trusted; a file from elsewhere, which ``include``,
``!function`` or a link may name, is not. Checked before lm-eval reads the files for a task.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.config import outside, paths
from harness.core.errors import EvaluationError, explain

FUNCTION = "!function"
"""Tag of a Python function in lm-eval's yaml."""


def require(index: Mapping[str, Any], name: str) -> None:
    """Raise EvaluationError for a task that runs code or reads yaml from outside trusted folders.

    Args:
        index: lm-eval's entries by name.
        name: of a task, group or tag.
    """
    if os.environ.get(paths.TRUST_TASKS) == "1":
        return
    folders, lm_eval = _trusted(), _folder_of("lm_eval")
    seen: set[Path] = set()
    for task, file in _files(index, name, set()):
        if not file.resolve().is_relative_to(lm_eval):  # as installed
            _check_file(task, file, [*folders, lm_eval], seen)


def _trusted() -> list[Path]:
    """Return the trusted folders next to lm-eval's: those of users whole, ours without results."""
    *own, shipped = paths.roots()
    return [*own, *((folder / "benchmarks").resolve() for folder in (*own, shipped)), _folder_of("harness")]


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent


def _files(index: Mapping[str, Any], name: str, seen: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield the names and yaml files of a task, or of a group and all its members."""
    if name in seen or name not in index:
        return
    seen.add(name)
    entry = index[name]
    if entry.yaml_path is not None:
        yield name, entry.yaml_path
    members = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
    for member in _names(members):
        yield from _files(index, member, seen)


def _names(members: Any) -> Iterator[str]:
    """Yield the names in a group's list, those of groups inside the list included."""
    for item in members if isinstance(members, list) else []:
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            yield from (str(item[key]) for key in ("task", "group") if isinstance(item.get(key), str))
            yield from _names(item.get("task"))


def _check_file(task: str, file: Path, folders: list[Path], seen: set[Path]) -> None:
    """Check a yaml file, what it includes, and the functions that it names."""
    file = file.resolve()
    if file in seen:
        return
    seen.add(file)
    _require_inside(task, f"yaml file '{file}'", file, folders)
    includes, functions = _named(task, file)
    for function in functions:
        module, _, name = function.rpartition(".")
        beside = (file.parent / f"{module.replace('.', '/')}.py").resolve()  # as lm-eval looks for it
        found = beside if beside.exists() else outside.file_of(module)
        if found is not None or importlib.util.find_spec(module.partition(".")[0] or "_"):
            _require_inside(task, f"{FUNCTION} {name} of '{found or module}'", found, folders)
    for include in includes:
        if (found := file.parent / include).is_file():
            _check_file(task, found, folders, seen)


def _named(task: str, file: Path) -> tuple[list[str], list[str]]:
    """Return the files that a yaml file includes, and the functions that it names."""
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        got = f"'{file}', a file that is not yaml ({str(error).splitlines()[0]})"
        raise EvaluationError(explain(f"task {task}", got=got)) from error
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    given = [node for key, value in pairs if key.value == "include" for node in (value.value if value.id == "sequence" else [value])]
    nodes, to_do, functions = set[int](), [root], []
    while to_do:
        node = to_do.pop()
        if id(node) in nodes:
            continue
        nodes.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            functions += [node.value] if node.tag == FUNCTION else []
        elif node is not None:
            to_do += [part for item in node.value for part in (item if isinstance(item, tuple) else [item])]
    return [node.value for node in given if isinstance(node.value, str)], functions


def _require_inside(task: str, what: str, file: Path | None, folders: list[Path]) -> None:
    if file is None or not any(file.resolve().is_relative_to(folder) for folder in folders):
        allowed = "files in benchmarks/, in folders of HARNESS_PATH and in lm-eval: a task file can run code"
        fix = "move it there, or --trust-tasks if you trust it"
        raise EvaluationError(explain(f"task {task}", got=what, allowed=allowed, fix=fix))
