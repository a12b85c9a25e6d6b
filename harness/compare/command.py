"""``harness compare BEFORE AFTER``: from the command line to text and exit code."""

from __future__ import annotations

import argparse

from harness.compare import gate, judge, logs, matching, sides, text
from harness.compare.judge import Comparison
from harness.errors import ConfigError, explain


def compare_command(arguments: argparse.Namespace) -> tuple[str, int]:
    """Compare two sides; write the page if asked for.

    Args:
        arguments: before, after, suites, output, margin, max_loss, json, overrides, as the parser gives them.

    Returns:
        Text for standard output, and the exit code: 0, or with ``--max-loss`` 1 where more is lost, 0 where not, 3 where that is undecided.

    Raises:
        HarnessError: for sides that cannot be compared, one line; the command then exits with 2.
    """
    gate.require(arguments.max_loss, arguments.margin)
    comparison = compare(arguments)
    decided = None if arguments.max_loss is None else gate.decide(comparison.wholes, arguments.max_loss)
    said = text.as_json(comparison, decided) if arguments.json else text.lines(comparison, decided)
    if arguments.output is not None:
        from harness.compare import page

        path = page.write(comparison, decided, arguments.output)
        said += "" if arguments.json else f"{path}\n"
    return said, decided.code if decided else 0


def compare(arguments: argparse.Namespace) -> Comparison:
    """Return the comparison that a command line asks for. Raises HarnessError."""
    before, after = arguments.before, arguments.after
    if sides.kinds(before, after) == "logs":
        _refuse_settings(arguments)
        first, second, notes = matching.match(logs.read(before), logs.read(after))
    else:
        from harness.compare import models
        from harness.console import display

        names = models.suite_names(arguments.suites)
        with display() as progress:
            first, second, notes = models.measure(before, after, names, arguments.overrides, progress)
    return judge.compare(first, second, arguments.margin, notes)


def _refuse_settings(arguments: argparse.Namespace) -> None:
    """Refuse what decides how models are measured where they are measured already. Raises ConfigError."""
    given = [f"--suites {arguments.suites}"] if arguments.suites else []
    if given := [*given, *arguments.overrides]:
        allowed = "neither suites nor overrides for lm-eval's samples: they are what was measured"
        raise ConfigError(explain("compare", got=" ".join(given), allowed=allowed, fix="leave them out"))
