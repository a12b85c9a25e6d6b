"""``harness compare BEFORE AFTER``: from command-line arguments to output and exit code."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.config.strict import check
from harness.core import extras
from harness.core.errors import ConfigError, explain
from harness.external import gate, inspect_logs, judge, limits, logs, matching, sides, text
from harness.external.gate_files import GateFiles
from harness.external.judge import Comparison
from harness.external.limits import Limits


def compare_command(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Compare two sides, print the result, and write the files that are requested.

    Args:
        arguments: before, after, suites, output, junit, summary, margin, max_loss, mean, json,
            overrides, as parsed.
        say: prints on standard output; called with the whole result before the page is written.

    Returns:
        The exit code: 0, or with ``--max-loss`` 1 if more is lost, 0 if not, 3 if undecided.

    Raises:
        HarnessError: if the sides cannot be compared. The command then exits with 2, as for every
            error, so that a script never takes an error for a loss.
    """
    allowed = limits.read(arguments.max_loss, arguments.mean)
    files = GateFiles(junit=arguments.junit, summary=arguments.summary)
    files.check("compare")
    if arguments.output is not None:
        _require_writable(arguments.output)
    comparison = compare(
        arguments.before,
        arguments.after,
        suites=arguments.suites or "",
        margin=arguments.margin,
        overrides=arguments.overrides,
        allowed=allowed,
    )
    decided = gate.decide(comparison.aggregates, allowed, comparison.after.lacks) if allowed else None
    files.write(comparison, decided)  # first: whoever reads the output may leave
    say(text.as_json(comparison, decided) if arguments.json else text.lines(comparison, decided))
    if arguments.output is not None:
        from harness.external import page

        path = page.write(comparison, decided, arguments.output)
        if not arguments.json:
            say(f"{path}\n")
    return decided.code if decided else 0


def compare(before: str, after: str, *, suites: str, margin: float, overrides: Sequence[str], allowed: Limits | None = None) -> Comparison:
    """Return the comparison of two sides.

    Args:
        before: a model, a folder of lm-eval samples, or a file or folder of inspect_ai logs.
        after: as ``before``.
        suites: names with commas, for two models.
        margin: a change within ±margin is negligible.
        overrides: for two models.
        allowed: limits of a gate, whose names are checked before anything is measured.

    Raises:
        HarnessError: if the sides cannot be compared.
    """
    check("compare: --margin", margin, "greater than 0, in the metric's own unit: 0.02 is 2 points", lambda v: v > 0)
    kind = sides.kinds(before, after)
    if kind != "model":
        _reject_settings(sides.WORDS[kind], suites, overrides)
        both = inspect_logs.read(before, after) if kind == "inspect" else (logs.read(before), logs.read(after))
        first, second, notes = matching.match(*both)
    else:
        extras.require("compare of two models", "measure")
        from harness.core.display import display
        from harness.external import models

        names = models.suite_names(suites)
        if allowed:
            allowed.check_names(names)
        with display() as progress:
            first, second, notes = models.measure(before, after, names, overrides, progress)
    if allowed:
        allowed.check_names(list(first.suites))
    return judge.compare(first, second, margin, notes)


def _require_writable(folder: Path) -> None:
    """Reject an output folder that cannot be written, before hours of measurement.

    Raises ConfigError.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    is_folder = existing.is_dir()
    if not is_folder or not os.access(existing, os.W_OK | os.X_OK):
        got = f"{existing}, {'a directory without write permission' if is_folder else 'not a directory'}"
        allowed = "a folder, or the name of a new one"
        raise ConfigError(explain(f"compare: --output {folder}", got=got, allowed=allowed, fix="choose another name"))


def _reject_settings(kind: str, suites: str, overrides: Sequence[str]) -> None:
    """Reject settings of measurements for sides that are already measured.

    Raises ConfigError.
    """
    if given := [*([f"--suites {suites}"] if suites else []), *overrides]:
        allowed = f"neither suites nor overrides with {kind}, which are already measured"
        raise ConfigError(explain("compare: options", got=" ".join(given), allowed=allowed, fix="omit them"))
