"""Users' own classes: found by ``package.module:Class``, identified by their source."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from importlib import machinery
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.config import paths
from harness.core import syntax
from harness.core.errors import ConfigError, explain

OURS = "harness"
"""The package whose classes are identified by their names only."""


def make_importable() -> None:
    """Append the folders of ``HARNESS_PATH`` to Python's module search path."""
    for folder in map(str, paths.roots()[:-1]):
        if folder not in sys.path:
            sys.path.append(folder)
            importlib.invalidate_caches()


def import_module(name: str, where: str) -> ModuleType:
    """Import a module from the environment or ``HARNESS_PATH``. Raises ConfigError."""
    make_importable()
    try:
        return importlib.import_module(name)
    except Exception as error:
        got = f"module {name}, which cannot be imported ({type(error).__name__}: {error})"
        allowed = "a module of the environment or of a folder in HARNESS_PATH"
        fix = paths.not_on_path("", name.partition(".")[0]) or "add the folder of the module to HARNESS_PATH"
        raise ConfigError(explain(where, got=got, allowed=allowed, fix=fix)) from error


def is_outside(cls: type) -> bool:
    """Return whether a class is not the harness's."""
    return cls.__module__.partition(".")[0] != OURS


def check_names(cls: type[Any], where: str) -> None:
    """Raise ConfigError for a field with the name of a class variable that a base class reads."""
    for base in cls.__mro__[1:]:
        taken = {name for name, hint in inspect.get_annotations(base).items() if "ClassVar" in str(hint)}
        for field in dataclasses.fields(cls):
            if field.name in taken:
                allowed = f"other names: {base.__name__}.{field.name} is a class variable"
                raise ConfigError(
                    explain(where, got=f"{cls.__qualname__} with a field {field.name}", allowed=allowed, fix="rename the field")
                )


@functools.cache
def source_digest(cls: type) -> str:
    """Hash the source of a class: its module, and the user's modules that it imports.

    The user's modules are those in the folder of the class's package and in the folders of
    ``HARNESS_PATH``, without installed packages. Imports are read from the source, including those
    inside functions; a module imported by a computed name, and a file that is read, do not count.
    Names of modules and files are not hashed.

    Returns:
        16 hexadecimal digits.

    Raises:
        ConfigError: the module has no file, as in a notebook, or a module is not valid Python.
    """
    what, package = f"class {cls.__qualname__}", cls.__module__.partition(".")[0]
    if (file := file_of(cls.__module__)) is None:
        fix = "move the class to a module of its own"
        allowed = "a module with a file, which identifies the runs that use it"
        raise ConfigError(explain(what, got=f"module {cls.__module__} without a file", allowed=allowed, fix=fix))
    folder, installed = file.parents[cls.__module__.count(".") + (file.name == "__init__.py")], is_installed(file)
    found: dict[str, bytes] = {}  # in the order of the imports, which tells modules apart without their names
    to_do = _with_packages(cls.__module__)[::-1]
    while to_do:
        name = to_do.pop(0)
        top = name.partition(".")[0]
        if name in found or (top != package and top in {OURS, *sys.stdlib_module_names}) or (file := file_of(name)) is None:
            continue
        if is_installed(file):
            followed = top == package and installed
        else:
            followed = top == package or any(file.is_relative_to(root) for root in (folder, *paths.roots()[:-1]))
        if not followed:
            continue
        found[name] = file.read_bytes()
        if file.suffix == ".py":
            to_do += imported(syntax.parsed(found[name], f"{what}: module {name}"), name, is_package=file.name == "__init__.py")
    digests = [hashlib.sha256(source).hexdigest() for source in found.values()]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def file_of(name: str) -> Path | None:
    """Return a module's file; None if it is built-in, a namespace, or missing. Imports nothing."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: __main__
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.has_location and spec.origin else None
    for location in spec.submodule_search_locations or ():
        path = Path(location, *rest)
        for file in (path / "__init__.py", *(path.with_name(path.name + suffix) for suffix in (".py", *machinery.EXTENSION_SUFFIXES))):
            if file.is_file():
                return file
    return None


def is_installed(file: Path) -> bool:
    """Return whether a file belongs to an installed package."""
    return bool({"site-packages", "dist-packages"} & {*file.parts})


def _with_packages(name: str) -> list[str]:
    """Return a module's name after those of the packages that contain it."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the modules that a source imports, with the packages that contain them.

    Args:
        tree: the source.
        module: its name, to resolve relative imports.
        is_package: whether it is the ``__init__`` of a package.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level + (1 if is_package else 0) or None] if node.level else []
            base = ".".join([*parent, *filter(None, [node.module])])
            found = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in found:
            yield from _with_packages(name)
