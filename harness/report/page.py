"""The report of an experiment: a folder with page, figures and tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from harness.records import record_files
from harness.records.store import Experiment
from harness.report import html
from harness.report.content import Content
from harness.report.evidence import Evidence, gather
from harness.report.sections import build


def content(experiment: Experiment) -> Content:
    """Return an experiment's page, with the whole tidy table as a file."""
    return _content(gather(experiment))


def _content(evidence: Evidence) -> Content:
    return dataclasses.replace(build(evidence), files={evidence.table_file: evidence.table})


def write(experiment: Experiment, evidence: Evidence | None = None) -> Path:
    """Write ``results/NAME/report/``, replacing an older report.

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
    page, folder = _content(evidence or gather(experiment)), experiment.folder / "report"

    def fill(place: Path) -> None:
        html.write(page, place)

    record_files.write_folder(folder, fill)
    return folder / "index.html"
