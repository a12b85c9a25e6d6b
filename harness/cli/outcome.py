"""Closing messages and exit code of ``harness run`` and ``harness sweep``."""

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
    """Print the summary, and write the report if it is out of date.

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
        sys.stderr.write(f"{stale} stale run(s) left out; `{command_name()} table {experiment.name} --stale` includes them\n")
    if where.exists():
        sys.stderr.write(f"report: {where}\nnext: {command_name()} table {experiment.name} --output {experiment.name}.csv\n")
    if any(experiment.folder.glob("runs/*/failure.json")):
        sys.stderr.write(f"tracebacks: {experiment.folder}/runs/*/failure.json; rerun the same command to retry\n")
    return 1 if tally.failed else 0


def command_name() -> str:
    """Return the command to type: ``harness``, with its path if it is not on PATH."""
    by_path = Path(sys.argv[0])
    return str(by_path) if by_path.name == "harness" and by_path.is_file() and not shutil.which("harness") else "harness"
