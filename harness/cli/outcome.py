"""Closing messages and exit code of ``harness run`` and ``harness sweep``."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.display import OUTPUT
from harness.core.errors import HarnessError
from harness.records.locate import spelled
from harness.report import evidence, page
from harness.report.overview import overview

if TYPE_CHECKING:
    from harness.records.store import Experiment
    from harness.report.evidence import Evidence
    from harness.sweep.command import Started
    from harness.sweep.tally import Tally


def finish(started: Started, tally: Tally, shown: Callable[[Evidence], str] = overview) -> int:
    """Show the findings, write the report if it is out of date, and name what is on disk.

    Args:
        started: the sweep.
        tally: how its runs ended.
        shown: text of the findings.

    Returns:
        The exit code: 0 if every run is done, 1 if any failed.
    """
    experiment = started.experiment
    where = experiment.folder / "report" / "index.html"
    is_outdated = bool(tally.done or tally.failed or not started.same or _is_older(where, experiment))
    problem = _shown(experiment, shown, is_outdated=is_outdated)
    OUTPUT.message(f"\n{tally.done} run(s) done, {tally.already_done} already done, {len(tally.failed)} failed")
    for label, reason in tally.failed:
        OUTPUT.error(f"failed: {label}: {reason}")
    if stale := len(experiment.stale()):
        OUTPUT.message(f"{stale} stale run(s) left out; `{command('table', experiment)} --stale` includes them")
    if any(experiment.folder.glob("runs/*/failure.json")):
        OUTPUT.message(f"tracebacks: {experiment.folder}/runs/*/failure.json; rerun the same command to retry")
    OUTPUT.message(f"results: {experiment.folder}")
    if problem:
        OUTPUT.error(f"the report is not written: {problem}")
    elif where.exists():
        OUTPUT.message(f"page: {where}")
    if not tally.failed and not problem:
        OUTPUT.message(f"next: {command('table', experiment)} --format text")
    return 1 if tally.failed or problem else 0


def _shown(experiment: Experiment, shown: Callable[[Evidence], str], *, is_outdated: bool) -> str:
    """Show the findings and write an outdated report; return why that failed, or nothing.

    The outcome of the runs is said in any case.
    """
    try:
        found = evidence.gather(experiment) if is_outdated else evidence.measured(experiment)
        if experiment.run_ids():
            OUTPUT.result(shown(found))
        if is_outdated:
            page.write(experiment, found)
    except HarnessError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or 'file system'}: {error.strerror or error}"
    return ""


def _is_older(page: Path, experiment: Experiment) -> bool:
    """Return whether a page is missing, or a record was written after it.

    A record is written anew if it is to show other measurements, although nothing was computed.
    """
    if not page.exists():
        return True
    written = page.stat().st_mtime_ns
    return any(record.stat().st_mtime_ns > written for record in experiment.folder.glob("runs/*/record.json"))


def command(name: str, experiment: Experiment) -> str:
    """Return a command on an experiment as it is typed.

    It begins with ``harness``, with its path if it is not on PATH.
    """
    by_path = Path(sys.argv[0])
    own = str(by_path) if by_path.name == "harness" and by_path.is_file() and not shutil.which("harness") else "harness"
    return f"{own} {name} {shlex.quote(spelled(experiment))}"
