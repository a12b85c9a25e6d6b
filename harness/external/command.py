"""``harness compare BEFORE AFTER``: from the command line to text and exit code."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import ConfigError, explain
from harness.external import gate, judge, logs, matching, sides, text
from harness.external.judge import Comparison


def compare_command(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Compare two sides and say what came out; then write the page if asked for.

    Args:
        arguments: before, after, suites, output, margin, max_loss, json, overrides, as the parser
            gives them.
        say: prints on standard output; called with the whole of the verdict, before the page is
            written.

    Returns:
        The exit code: 0, or with ``--max-loss`` 1 where more is lost, 0 where not, 3 where that is
            undecided.

    Raises:
        HarnessError: for sides that cannot be compared, one line; the command then exits with 2, as
            it does for any other error: what waits for the gate must not take an error for a loss.
    """
    gate.require(arguments.max_loss, arguments.margin)
    if arguments.output is not None:
        _require_writable(arguments.output)
    comparison = compare(arguments)
    decided = None if arguments.max_loss is None else gate.decide(comparison.wholes, arguments.max_loss, comparison.after.lacks)
    say(text.as_json(comparison, decided) if arguments.json else text.lines(comparison, decided))
    if arguments.output is not None:
        from harness.external import page

        path = page.write(comparison, decided, arguments.output)
        if not arguments.json:
            say(f"{path}\n")
    return decided.code if decided else 0


def compare(arguments: argparse.Namespace) -> Comparison:
    """Return the comparison that a command line asks for. Raises HarnessError."""
    before, after = arguments.before, arguments.after
    if sides.kinds(before, after) == "logs":
        _refuse_settings(arguments)
        first, second, notes = matching.match(logs.read(before), logs.read(after))
    else:
        from harness.core.display import display
        from harness.external import models

        names = models.suite_names(arguments.suites)
        with display() as progress:
            first, second, notes = models.measure(before, after, names, arguments.overrides, progress)
    return judge.compare(first, second, arguments.margin, notes)


def _require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written into, before hours are spent on what would go there. Raises ConfigError."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    is_folder = there.is_dir()
    if not is_folder or not os.access(there, os.W_OK | os.X_OK):
        got = f"{there}, {'into which nothing can be written' if is_folder else 'which is no folder'}"
        raise ConfigError(explain(f"compare: --output {folder}", got=got, allowed="a folder, or the name of a new one", fix="another name"))


def _refuse_settings(arguments: argparse.Namespace) -> None:
    """Refuse what decides how models are measured where they are measured already.

    Raises ConfigError.
    """
    given = [f"--suites {arguments.suites}"] if arguments.suites else []
    if given := [*given, *arguments.overrides]:
        allowed = "neither suites nor overrides for lm-eval's samples: they are what was measured"
        raise ConfigError(explain("compare", got=" ".join(given), allowed=allowed, fix="leave them out"))
