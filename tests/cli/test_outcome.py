"""The end of a run or sweep: when its page is written anew."""

from __future__ import annotations

import os
from pathlib import Path

from harness.cli import outcome
from harness.records.writer import ExperimentWriter


def test_a_page_is_older_than_a_record_that_shows_other_measurements(tmp_path: Path) -> None:
    """A suite asked for as before is measured already: only the record says so anew."""
    experiment = ExperimentWriter(tmp_path / "e")
    record, page = experiment.run_folder("r") / "record.json", tmp_path / "page.html"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert outcome._is_older(page, experiment)
    page.write_text("")
    os.utime(record, ns=(0, page.stat().st_mtime_ns - 1))
    assert not outcome._is_older(page, experiment)
    os.utime(record, ns=(0, page.stat().st_mtime_ns + 1))
    assert outcome._is_older(page, experiment)
