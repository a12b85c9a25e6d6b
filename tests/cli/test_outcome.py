"""The end of a run or sweep: when its page is written anew."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import outcome
from harness.core.errors import RecordError
from harness.records.writer import ExperimentWriter
from harness.sweep.tally import Tally


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "e/report"), "e/report: Permission denied"),
        (OSError(28, "No space left on device"), "file system: No space left on device"),
        (RecordError("e/record.json: got a file that cannot be read"), "e/record.json: got a file that cannot be read"),
    ],
)
def test_what_failed_is_listed_although_the_report_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    """On a full disk or read-only results, the reasons of the runs matter more."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("harness.report.evidence.gather", lambda _: None)
    monkeypatch.setattr("harness.report.page.write", fail)
    started = SimpleNamespace(experiment=ExperimentWriter(tmp_path / "e"), same=True)
    assert outcome.finish(started, Tally(failed=[("run a", "PermissionError: x")])) == 1  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert "failed: run a: PermissionError: x" in lines
    assert f"the report is not written: {told}" in lines
    assert outcome.finish(started, Tally(done=1)) == 1  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert "1 run(s) done, 0 already done, 0 failed" in lines
    assert not any(line.startswith(("next:", "page:")) for line in lines)


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
