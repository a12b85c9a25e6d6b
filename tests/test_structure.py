"""The rooms of the package: few, without circles, each with its contract and its public names."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.support import structure

MOST_ROOMS = 14
ROOMS = sorted(path.parent.name for path in (structure.ROOT / structure.PACKAGE).glob("*/__init__.py"))


def exported(room: str) -> list[str]:
    """The public names of a room: those its ``__init__`` imports for type checkers."""
    tree = ast.parse((structure.ROOT / structure.PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    return [alias.name for block in blocks for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]


def test_there_are_few_rooms_and_nothing_lies_beside_them() -> None:
    """At most 14 packages, next to `__init__`, `__main__`, `api`, `callback` and `py.typed`."""
    package = structure.ROOT / structure.PACKAGE
    files = {path.name for path in package.iterdir() if path.is_file()}
    assert len(ROOMS) <= MOST_ROOMS
    assert files == {"__init__.py", "__main__.py", "api.py", "callback.py", "py.typed"}


def test_no_module_imports_itself_through_others() -> None:
    """Imports for type checking count; the layers of rooms are checked by `make imports`."""
    assert structure.circles(structure.module_arrows()) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_states_its_contract_and_re_exports_its_public_names(room: str) -> None:
    """One line, and names that can be imported from the room."""
    module = importlib.import_module(f"{structure.PACKAGE}.{room}")
    assert "\n" not in (module.__doc__ or "\n").strip()
    names = exported(room)
    assert names
    assert all(getattr(module, name) is not None for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        module.no_such_name  # noqa: B018 - reading it is the test


def test_the_tests_mirror_the_rooms() -> None:
    """tests/ has a folder for each room; what else is there has a reason of its own."""
    folders = {path.name for path in Path(structure.ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    others = {"benchmarks", "browser", "chaos", "cluster", "contract", "exact", "golden", "install", "packaging", "ray", "smoke", "support"}
    assert set(ROOMS) <= folders
    assert folders - set(ROOMS) == others
