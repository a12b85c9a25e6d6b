"""What a command that ran something says at its end, and what it exits by."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.table.frame import table
from harness.report import page, tables

if TYPE_CHECKING:
    from harness.sweep.command import Started
    from harness.sweep.tally import Tally


def finish(started: Started, tally: Tally) -> int:
    """Print the summary, and bring the report up to date unless it shows these very runs already.

    Returns:
        The exit code: 0 if every run is done, 1 if any failed.
    """
    experiment = started.experiment
    if experiment.run_ids():
        sys.stdout.write(tables.summary(table(experiment), experiment.declared().control) + "\n")
    where = experiment.folder / "report" / "index.html"
    if tally.done or tally.failed or not started.same or not where.exists():
        where = page.write(experiment)
    sys.stderr.write(f"\n{tally.done} run(s) done, {tally.already_done} already done, {len(tally.failed)} failed\n")
    for label, reason in tally.failed:
        sys.stderr.write(f"failed: {label}: {reason}\n")
    if stale := len(experiment.stale()):
        sys.stderr.write(
            f"{stale} run(s) that this command does not ask for are left out; `{called()} table {experiment.name} --stale` has them\n"
        )
    if where.exists():
        sys.stderr.write(f"report: {where}\nnext: {called()} table {experiment.name} --output {experiment.name}.csv\n")
    if any(experiment.folder.glob("runs/*/failure.json")):
        sys.stderr.write(f"tracebacks: {experiment.folder}/runs/*/failure.json; run the same command again to retry\n")
    return 1 if tally.failed else 0


def called() -> str:
    """Return how this command was called, so that the next one can be typed: by its path where it is not on PATH."""
    by_path = Path(sys.argv[0])
    return str(by_path) if by_path.name == "harness" and by_path.is_file() and not shutil.which("harness") else "harness"
