"""Exit codes for continuous integration: decisions, missing tasks, errors."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli import app
from harness.external import judge, page
from tests.support.lm_eval_logs import Run, Sample, outcomes, planted, write


def _kept() -> tuple[list[Sample], list[Sample]]:
    """2,000 items that stay right: the gate passes at 0.02."""
    return outcomes(2000, 0, 0, 0)


def test_a_task_that_after_lacks_leaves_the_gate_undecided(tmp_path: Path, run: Run) -> None:
    """Two equal tasks pass; without one of them, the gate is undecided."""
    before, after = _kept()
    write(tmp_path / "before", {"a": before, "b": before}, model="base")
    write(tmp_path / "after", {"a": after, "b": after}, model="tuned")
    assert run("--max-loss", "0.02")[0] == 0
    next((tmp_path / "after").rglob("samples_b_*")).unlink()
    code, out, _ = run("--max-loss", "0.02")
    assert code == 3
    assert out.rstrip().split("\n")[-1].endswith("AFTER lacks 1 task(s) that BEFORE has (b): undecided, exit code 3")
    gate = json.loads(run("--max-loss", "0.02", "--json")[1])["gate"]
    assert (gate["decision"], gate["exit_code"], gate["missing"]) == ("undecided", 3, ["b"])


def test_a_task_of_before_without_samples_counts_as_missing_after(tmp_path: Path, run: Run) -> None:
    """The results of BEFORE show that it was measured."""
    before, after = _kept()
    write(tmp_path / "before", {"a": before, "b": before}, model="base")
    next((tmp_path / "before").rglob("samples_b_*")).unlink()
    write(tmp_path / "after", {"a": after}, model="tuned")
    assert run("--max-loss", "0.02")[0] == 3


def test_a_task_of_after_only_does_not_matter(tmp_path: Path, run: Run) -> None:
    before, after = _kept()
    write(tmp_path / "before", {"a": before}, model="base")
    write(tmp_path / "after", {"a": after, "b": after}, model="tuned")
    assert run("--max-loss", "0.02")[0] == 0


def test_a_measured_loss_fails_though_tasks_are_missing(tmp_path: Path, run: Run) -> None:
    before, after = outcomes(0, 100, 0, 0)
    write(tmp_path / "before", {"a": before, "b": before}, model="base")
    write(tmp_path / "after", {"a": after}, model="tuned")
    code, out, _ = run("--max-loss", "0.02")
    assert code == 1
    assert "AFTER lacks 1 task(s) that BEFORE has (b): fail, exit code 1" in out


def test_a_group_without_some_tasks_is_marked_in_its_row(tmp_path: Path, run: Run) -> None:
    before, after = _kept()
    groups = {"all": ["a", "b", "c"]}
    write(tmp_path / "before", {"a": before, "b": before, "c": before}, model="base", groups=groups)
    write(tmp_path / "after", {"a": after, "b": after}, model="tuned", groups={"all": ["a", "b"]})
    code, out, _ = run("--output", str(tmp_path / "page"))
    assert code == 0
    assert out.split("\n")[4].startswith("all (without 1 of its tasks)")
    values = json.loads(run("--json")[1])
    assert values["suites"][0]["missing_tasks"] == "c"
    assert values["tasks"][0]["missing_tasks"] is None
    assert "all: the mean of 2 of its 3 tasks, without c" in values["notes"]
    assert "all (without 1 of its tasks)" in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_impossible_output_is_rejected_before_the_computation(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """A file, a path through a file, a broken link, a folder without permission."""
    planted(tmp_path)
    monkeypatch.setattr(judge, "compare", lambda *_: pytest.fail("computed"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "file/below/it", "link"):
        code, out, err = run("--max-loss", "0.02", "--output", str(tmp_path / name), *options)
        assert (code, out) == (2, "")
        assert "not a directory" in err
        assert err.count("\n") == 1
    monkeypatch.setattr("os.access", lambda *_: False)
    code, out, err = run("--max-loss", "0.02", "--output", str(tmp_path / "new"), *options)
    assert (code, out, "a directory without write permission" in err) == (2, "", True)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_verdict_is_printed_before_the_page_is_written(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk the verdict is printed; the exit code is an error's."""
    planted(tmp_path)

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device", "index.html")

    monkeypatch.setattr(page, "write", full)
    code, out, err = run("--max-loss", "0.02", "--output", str(tmp_path / "page"))
    assert (code, err) == (2, "harness: index.html: No space left on device\n")
    assert out.rstrip().endswith("fail, exit code 1")
    code, out, _ = run("--max-loss", "0.02", "--output", str(tmp_path / "page"), "--json")
    assert (code, json.loads(out)["gate"]["exit_code"]) == (2, 1)


def test_an_unforeseen_error_is_not_a_loss(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(judge, "compare", broken)
    for options in ([], ["--json"]):
        code, out, err = run("--max-loss", "0.02", *options)
        assert (code, out) == (2, "")
        assert err.startswith("Traceback")
        assert err.rstrip().endswith("ZeroDivisionError: by nought")


def test_an_unreadable_file_is_not_a_loss(tmp_path: Path, run: Run) -> None:
    """A folder in place of the samples file."""
    planted(tmp_path)
    file = next((tmp_path / "after").rglob("samples_*"))
    file.unlink()
    file.mkdir()
    code, out, err = run("--max-loss", "0.02")
    assert (code, out, err) == (2, "", f"harness: {file}: Is a directory\n")


def test_a_closed_pipe_does_not_turn_a_loss_into_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path)

    def unread(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(app, "_print", unread)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    assert app.main(["compare", str(tmp_path / "before"), str(tmp_path / "after"), "--max-loss", "0.02"]) == 1


def test_only_the_two_sides_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app.main(["compare", "one"])
    assert stopped.value.code == 2
    assert "required: AFTER\n" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "got"), [(b'{"doc_id": 1, "target": "\xff"}', "invalid JSON"), (b'{"doc_id": "q17"}', "a line without")])
def test_a_damaged_line_is_an_error_and_not_a_loss(tmp_path: Path, run: Run, line: bytes, got: str) -> None:
    planted(tmp_path)
    file = next((tmp_path / "after").rglob("samples_*"))
    file.write_bytes(file.read_bytes() + line + b"\n")
    code, out, err = run("--max-loss", "0.02")
    assert (code, out) == (2, "")
    assert f"{file}, line 501: got {got}" in err
    assert err.count("\n") == 1
