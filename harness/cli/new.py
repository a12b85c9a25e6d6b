"""``harness new KIND NAME``: a commented skeleton that runs, where the harness finds it."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.config import paths
from harness.core.errors import ConfigError, explain

SKELETONS = Path(__file__).parent / "skeletons"
"""A folder a kind, laid out as its files will be; ``NAME``, ``CLASS`` and ``ROOT`` are replaced."""

MEMBERS: Mapping[str, str] = {
    "experiment": "conf/experiment",
    "suite": "benchmarks/suites",
    "data": "conf/data",
    "mitigation": "conf/mitigation",
}
"""Kind → folder of its members."""

NEXT: Mapping[str, tuple[str, ...]] = {
    "experiment": ("plan experiment=NAME", "sweep experiment=NAME"),
    "suite": ("prompt NAME", 'run name=NAME "data.volumes=[16]" "probe_suites=[NAME]"'),
    "data": ("run name=NAME data=NAME",),
    "mitigation": ("check-method NAME:CLASS", 'run name=NAME mitigation=NAME "data.volumes=[16]"'),
}
"""Kind → commands that use what was written."""

YAML_WORDS = frozenset("y n yes no on off true false null".split())
"""Texts that yaml does not read as text."""

NOT_PYTHON = ".txt"
"""Suffix of skeletons of Python files, which are templates and no modules of the harness."""


def new_command(kind: str, name: str, say: Callable[[str], None]) -> int:
    """Write a skeleton and print its files and the next commands.

    Args:
        kind: a key of ``MEMBERS``.
        name: of the new member.
        say: prints a line.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: for a name that is invalid or taken; nothing is written then.
    """
    _require_free(kind, name)
    root = _root()
    written = dict(_files(kind, name, root))
    for path in written:
        if path.exists():
            raise ConfigError(explain(f"new {kind}", got=f"{_shown(path)}, which exists", allowed="new files", fix="another NAME"))
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        say(f"wrote {_shown(path)}")
    found = "" if root.resolve() in paths.roots() else f"HARNESS_PATH={shlex.quote(_shown(root))} "
    for command in NEXT[kind]:
        say(f"next: {found}harness {_filled(command, name, root)}")
    return 0


def _require_free(kind: str, name: str) -> None:
    """Raise ConfigError unless a name is valid and neither a member nor, of a class, a module."""
    is_module = kind == "mitigation"
    pattern, allowed = (r"[a-z][a-z0-9_]*", "small letters, digits and _") if is_module else (r"[A-Za-z][\w-]*", "letters, digits, _ and -")
    if not re.fullmatch(pattern, name, re.ASCII) or name.lower() in YAML_WORDS:
        raise ConfigError(explain(f"new {kind}: NAME", got=repr(name), allowed=f"{allowed}, a letter first; no word of yaml such as null"))
    if name in paths.members(MEMBERS[kind]):
        where = _shown(paths.members(MEMBERS[kind])[name])
        raise ConfigError(explain(f"new {kind}", got=f"'{name}', which is {where}", allowed="a name that is free", fix="another NAME"))
    if is_module and importlib.util.find_spec(name):
        raise ConfigError(explain(f"new {kind}", got=f"'{name}', a Python module", allowed="a name that is free", fix=f"my_{name}"))


def _root() -> Path:
    """Return the first folder of HARNESS_PATH, else the working folder."""
    first = next((part for part in os.environ.get("HARNESS_PATH", "").split(os.pathsep) if part), "")
    if first:
        paths.roots()  # rejects what is not a folder
    return paths.expanded(first) if first else Path()


def _files(kind: str, name: str, root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each file of a skeleton, the member itself first."""
    folder = SKELETONS / kind
    for path in sorted(folder.rglob("*"), key=lambda path: (MEMBERS[kind] not in path.as_posix(), path)):
        if path.is_file() and "__pycache__" not in path.parts:
            place = path.relative_to(folder).as_posix().removesuffix(NOT_PYTHON)
            yield root / _filled(place, name, root), _filled(path.read_text(encoding="utf-8"), name, root)


def _filled(text: str, name: str, root: Path) -> str:
    """Return a text of a skeleton with the name, the class and the folder of the rows."""
    folder = "" if root == Path() else f"{root.resolve().as_posix()}/"
    cls = "".join(part.capitalize() for part in name.split("_"))
    values = {"NAME": name, "CLASS": cls, "ROOTNAME": f"{folder}{name}"}
    return re.sub(r"\b((?:ROOT)?NAME|CLASS)(?![A-Za-z])", lambda found: values[found[0]], text)


def _shown(path: Path) -> str:
    """Return a path from the working folder, where it is in it."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
