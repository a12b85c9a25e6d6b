"""The report of an experiment: a folder with page, figures and tables."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.core import files, json_text
from harness.records.store import Experiment
from harness.report import html
from harness.report.content import Content
from harness.report.evidence import Evidence, gather
from harness.report.sections import build

WRITTEN = ".written.json"
"""Names of the files of the last report, in its folder: all others are the user's."""


def content(experiment: Experiment) -> Content:
    """Return an experiment's page, with the whole tidy table as a file."""
    return _content(gather(experiment))


def _content(evidence: Evidence) -> Content:
    return dataclasses.replace(build(evidence), files={evidence.table_file: evidence.table})


def write(experiment: Experiment, evidence: Evidence | None = None) -> Path:
    """Write ``results/NAME/report/``, replacing an older report; other files there are kept.

    It holds index.html, figures as PNG, SVG and PDF, and tables as CSV and Markdown. The same
    records give the same bytes.

    Args:
        experiment: its results folder; runs that the last command did not request are left out and
            counted.
        evidence: what ``gather`` has read from it; None reads it here.

    Returns:
        The path of ``index.html``.

    Raises:
        RecordError: if a record is damaged or of another version.
    """
    folder = experiment.folder / "report"
    temporary = files.hidden_name(folder)
    with _without_collector():
        page = _content(evidence or gather(experiment))
        temporary.mkdir(parents=True)
        try:
            html.write(page, temporary)
            _move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder / "index.html"


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the garbage collector.

    Millions of objects of tables and figures live until the page is written; walking them again and
    again is a sixth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _move(temporary: Path, folder: Path) -> None:
    """Move files into a folder, the page last, and remove those that an older report wrote."""
    folder.mkdir(exist_ok=True)
    names, older = {path.name for path in temporary.iterdir()}, _written(folder)
    files.write_text(folder / WRITTEN, json.dumps(sorted(names | older)))
    for name in sorted(names, key=lambda name: (name == "index.html", name)):
        (temporary / name).replace(folder / name)
    for name in older - names:
        (folder / name).unlink(missing_ok=True)
    files.write_text(folder / WRITTEN, json.dumps(sorted(names)))


def _written(folder: Path) -> set[str]:
    """Return the names of the files that the last report wrote; none if that is unknown."""
    try:
        found = json_text.loads((folder / WRITTEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {name for name in found if isinstance(name, str) and Path(name).name == name} if isinstance(found, list) else set()
