"""Public names of a room, imported on first use."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def exports(package: str) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` (PEP 562) for the names under its ``if TYPE_CHECKING:``.

    Type checkers read the same imports, so that there is one list of public names. Importing a
    module does not import the rest of its room.

    Args:
        package: the package's ``__name__``.
    """

    def attribute(name: str) -> Any:
        module = _modules(package).get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module), name)
        setattr(sys.modules[package], name, value)
        return value

    return attribute


def _modules(package: str) -> dict[str, str]:
    """Return public name → the module that defines it."""
    source = Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
