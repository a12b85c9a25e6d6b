"""Users' own classes: found by ``package.module:Class``, identified by their source."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from harness.config import paths
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
        raise ConfigError(explain(where, got=got, allowed=allowed, fix="add the folder of the module to HARNESS_PATH")) from error


def is_outside(cls: type) -> bool:
    """Return whether a class is not the harness's."""
    return cls.__module__.partition(".")[0] != OURS


@functools.cache
def source_digest(cls: type) -> str:
    """Hash the source of a class: its module, and the user's modules that it imports.

    The user's modules are those in the same top-level package or in a folder of ``HARNESS_PATH``.
    Imports are read from the source, including those inside functions. Names of modules and files
    are not hashed.

    Returns:
        16 hexadecimal digits.

    Raises:
        ConfigError: for a module without Python source.
    """
    sources: dict[str, bytes] = {}
    to_do = [cls.__module__]
    while to_do:
        name = to_do.pop()
        if name in sources or (file := _file_of(name)) is None:
            continue
        if not _is_own(name, file, cls.__module__.partition(".")[0]):
            continue
        if file.suffix != ".py":
            allowed = "a module with Python source, which identifies the runs that use it"
            raise ConfigError(explain(f"class {cls.__qualname__}", got=f"module {name} at {file.name}", allowed=allowed))
        sources[name] = file.read_bytes()
        to_do += _imported(ast.parse(sources[name]), name, is_package=file.name == "__init__.py")
    digests = sorted(hashlib.sha256(source).hexdigest() for source in sources.values())
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def _file_of(name: str) -> Path | None:
    """Return a module's file; None if it is built-in, a namespace, or missing."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # an attribute of a module, not a module
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _is_own(name: str, file: Path, package: str) -> bool:
    if name.partition(".")[0] == package:
        return True
    return any(file.resolve().is_relative_to(root) for root in paths.roots()[:-1])


def _imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the modules that a source imports, with the packages that contain them."""
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
            parts = name.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
