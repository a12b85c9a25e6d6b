"""Python sources as syntax trees: what of a source runs, for hashes of it."""

from __future__ import annotations

import ast
from typing import Any

from harness.core.errors import ConfigError, explain


def parsed(source: bytes | str, what: str) -> ast.Module:
    """Return the syntax tree of a source. Raises ConfigError."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(explain(what, got=f"a source that is not Python ({error})", fix="correct or remove the file")) from error


def what_runs(node: Any) -> Any:
    """Return what runs of a syntax tree, as plain values that are equal in all Python versions.

    Comments, positions and statements that are only a text (docstrings) do not count, nor do the
    places of our modules: ``from harness.a import b`` is ``from harness import b``.
    """
    if isinstance(node, list):
        return [what_runs(item) for item in node if not _is_text(item)]
    if not isinstance(node, ast.AST):
        return ascii(node)  # what repr shows as it is depends on the version's Unicode
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "harness":
        fields["module"] = "harness"
    # Which fields without a value there are depends on Python's version.
    return [type(node).__name__, {key: what_runs(value) for key, value in fields.items() if value is not None and value != []}]


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
