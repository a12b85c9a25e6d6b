"""What of a Python source counts in a hash."""

from __future__ import annotations

import json

import pytest

from harness.core import syntax
from harness.core.errors import ConfigError

SOURCE = """
'A docstring.'
from harness.data.tinyworld import facts

SIZE: int = 3
'Prose about SIZE.'

def double(x):  # a comment
    'Its docstring.'
    return 2 * x
"""


def runs(source: str) -> str:
    return json.dumps(syntax.what_runs(syntax.parsed(source, "a file")))


def test_prose_and_the_places_of_our_modules_do_not_count() -> None:
    """Comments, docstrings, texts after constants, and a module that moved."""
    moved = "from harness.elsewhere import facts\nSIZE: int = 3\ndef double(x):\n    return 2 * x\n"
    assert runs(SOURCE) == runs(moved)
    assert runs(SOURCE) != runs(moved.replace("2 * x", "3 * x"))
    assert runs(SOURCE) != runs(moved.replace("import facts", "import other"))


def test_the_values_are_those_of_every_python_version() -> None:
    """Fields without a value, which came and went with Python 3.12 and 3.13, are left out."""
    call = ["Call", {"func": ["Name", {"id": "'f'", "ctx": ["Load", {}]}], "args": [["Constant", {"value": "1"}]]}]
    assert runs("'\U0001fae8'") == json.dumps(["Module", {"body": []}])
    assert "1fae8" in runs("x = '\U0001fae8'")
    assert json.loads(runs("f(1)")) == ["Module", {"body": [["Expr", {"value": call}]]}]
    function = ["FunctionDef", {"name": "'f'", "args": ["arguments", {}], "body": [["Pass", {}]]}]
    assert json.loads(runs("def f(): pass")) == ["Module", {"body": [function]}]


def test_a_source_that_is_not_python_is_an_error_that_names_the_file() -> None:
    """A template in a task's folder, say."""
    with pytest.raises(ConfigError, match=r"^a file: got a source that is not Python \([^\n]*\); fix: correct or remove the file$"):
        syntax.parsed("{{ a }} b", "a file")
