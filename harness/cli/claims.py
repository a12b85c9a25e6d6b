"""``harness claims``: small tables of finished sweeps, docs/CLAIMS.md and its page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from harness.analysis.claims import declaration
from harness.core import files
from harness.records.locate import locate
from harness.report import claims, html

TABLES = Path("results", "reference", "claims")
DOCUMENT = Path("docs", "CLAIMS.md")
PAGE = Path("results", "claims")


def claims_command(arguments: argparse.Namespace, show: Callable[[str], None]) -> int:
    """Collect, judge and write; with names, show these claims alone and write no document.

    Args:
        arguments: names, collect.
        show: prints a text.

    Returns:
        The exit code, 0.

    Raises:
        HarnessError: one line, for wrong input; nothing was written.
    """
    declared = declaration.shipped()
    for folder in arguments.collect:
        claims.collect(locate(folder), declared, TABLES)
    found = claims.results(declared, TABLES)
    if arguments.names:
        show(claims.text(claims.chosen(found, arguments.names)))
        return 0
    files.write_text(DOCUMENT, claims.text(found).rstrip("\n"))
    PAGE.mkdir(parents=True, exist_ok=True)
    show(claims.lines(found))
    show(f"{DOCUMENT}\n{html.write(claims.page(found), PAGE)}")
    return 0
