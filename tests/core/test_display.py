"""What a command shows, and what it logs."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from pathlib import Path

import pytest

from harness.core import display as module
from harness.core.display import OUTPUT, display


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("harness.core.display.time", found)
    return found


def test_lines_of_a_sweep_have_the_time_so_far_and_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A quarter of the cost in 30 seconds leaves 90; what an earlier command did does not count."""
    with display() as shown:
        shown.runs(0, 8)
        shown.workers([], 0.2)
        clock.now += 30
        shown.runs(2, 8)
        shown.workers([("run a", "train", 3, 8), ("run b", "", 0, 0)], 0.4)
        clock.now += 29
        shown.workers([], 0.5)
    assert capsys.readouterr().err == "[0:30] 2 of 8 runs, about 1:30 left; run a: train 3/8; run b\n"


def test_lines_of_one_run_have_the_time_left_of_its_stage(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the steps in 40 seconds leaves 40."""
    with display() as shown:
        shown.stage("train", 10)
        clock.now += 40
        shown.advance(5)
    assert capsys.readouterr().err == "[0:40] train: 5/10, about 0:40 left\n"


def test_quiet_shows_results_and_errors_alone_and_the_log_has_everything(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log is plain text with times, progress and messages of libraries included."""
    log = tmp_path / "log.txt"
    log.write_text("an earlier command\n")
    with OUTPUT.set(quiet=True, log_file=log), display() as shown:
        shown.say("\033[1mrun a\033[0m")
        shown.stage("train", 10)
        clock.now += 40
        shown.advance(5)
        module._ToOutput().emit(logging.makeLogRecord({"levelno": logging.INFO, "msg": "loaded"}))
        OUTPUT.error("failed")
        OUTPUT.result("a table\n\nof two parts")
    OUTPUT.message("after it")
    assert capsys.readouterr() == ("a table\n\nof two parts\n", "failed\nafter it\n")
    first, *lines = log.read_text().splitlines()
    assert first == "an earlier command"
    assert [line[19:] for line in lines] == [
        *[r"  \u001b[1mrun a\u001b[0m", "  [0:40] train: 5/10, about 0:40 left", "  loaded", "  failed", "  a table", "  of two parts"]
    ]
    assert all(datetime.fromisoformat(line[:19]) for line in lines)


def test_an_unexpected_error_is_logged_with_its_traceback(tmp_path: Path) -> None:
    """It is raised all the same, and the settings are as before."""
    with pytest.raises(ZeroDivisionError), OUTPUT.set(quiet=True, log_file=tmp_path / "log.txt"):
        _ = 1 / 0
    assert "ZeroDivisionError: division by zero" in (tmp_path / "log.txt").read_text()
    assert (OUTPUT.quiet, OUTPUT.log_file) == (False, None)


@pytest.mark.parametrize(
    ("label", "stage", "text"),
    [
        ("71ce18f58b3b (SmolLM2-135M-Instruct, full, share-0.25, seed 0)", "train", "…t, full, share-0.25, seed 0)  train"),
        ("71ce18f58b3b (nursery-m, full, share-0.25, seed 1)", "evaluate anchor_nll", "…, share-0.25, seed 1)  evaluate an…"),
        ("volume 0 of nursery-m", "", "volume 0 of nursery-m"),
    ],
)
def test_a_bar_of_36_columns_names_arm_and_seed(label: str, stage: str, text: str) -> None:
    assert module._short(label, stage) == text


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Messages are printed above them, whole, and afterwards as usual."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = OUTPUT.show
    with display() as shown:
        assert OUTPUT.show != before
        shown.runs(1, 2)
        shown.workers([("run a", "train", 1, 2)], 0.5)
        shown.workers([], 0.9)
        shown.stage("evaluate", 3)
        shown.advance()
        shown.say("[bold] is no markup")
    assert OUTPUT.show == before
    assert "[bold] is no markup" in capsys.readouterr().err
