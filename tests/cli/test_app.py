"""The commands that read results, and those that list choices."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import app
from harness.report.tables import SHORT

SMALL = Path(__file__).parent.parent / "golden" / "small"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recorded small experiment, in the working directory's folder of results."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SMALL, tmp_path / "results" / "small")
    return tmp_path / "results" / "small"


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    code = app.main([str(part) for part in argv])
    return code, *capsys.readouterr()


def test_a_path_is_as_good_as_a_name(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the table, a fit and the rates, with the same output."""
    for rest in (["table"], ["learning-rates"]):
        assert run(capsys, *rest, "small") == run(capsys, *rest, small) == run(capsys, *rest, "results/small/")
    named, by_path = (run(capsys, "fit", where, "--law", "power") for where in ("small", small))
    assert named == by_path
    assert "no such" not in named[2]


def test_a_path_with_a_folder_of_results_is_one_line(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would name two places."""
    code, out, err = run(capsys, "table", small, "--results", "results")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "got the folder results and the path" in err


def test_chosen_columns(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They come in the order that was asked for; --short has its own."""
    assert run(capsys, "table", "small", "--columns", "delta, model")[1].startswith("delta,model\n")
    _, out, _ = run(capsys, "table", "small", "--short")
    assert out.splitlines()[0] == ",".join(SHORT)
    assert "out of memory" not in out
    assert "failed00" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "model,detla"], "--columns: got 'detla'; allowed: 91 columns, such as run_id, model"),
        (["--columns", "model,detla"], "fix: did you mean 'delta'?"),
        (["--columns", ","], "--columns: got ','"),
        (["--columns", "delta", "--short"], "allowed: one of them"),
        (["--format", "text", "--short"], "--format: got text with --short"),
    ],
)
def test_a_wrong_choice_of_columns_is_one_line(small: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    """With the nearest name."""
    code, out, err = run(capsys, "table", "small", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_text_shows_the_changes_of_each_point(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Side by side, with what failed."""
    _, out, _ = run(capsys, "table", "small", "--format", "text")
    assert out.startswith("Change since before training")
    assert "failed: run failed00" in out


def test_list_shows_whole_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence may take several lines of the file; a terminal gets it wrapped."""
    folder = tmp_path / "conf" / "tuning"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\n# A sentence that its author\n# wrote on two lines.\n# Another one.\nclass: a.B\n"
    )
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "70")
    assert "  mine                     A sentence that its author wrote on two lines.\n" in run(capsys, "list", "tuning")[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = run(capsys, "list", "tuning")[1].splitlines()
    assert max(map(len, lines)) <= 70
    (folder / "mine.yaml").write_bytes("# Café.\n".encode("latin-1"))
    assert "  mine                     Caf\N{REPLACEMENT CHARACTER}.\n" in run(capsys, "list", "tuning")[1]
    assert "  mine                     A sentence that its author wrote on two" in lines
    assert f"{'':<27}lines." in lines


def test_a_log_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything starts."""
    code, out, err = run(capsys, "run", "--log-file", tmp_path / "missing" / "log.txt")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "allowed: a file that can be written" in err


def test_the_log_file_has_the_command_and_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line on the terminal, even if quiet, and one in the file, with its time."""
    code, _, err = run(capsys, "run", "tuning=lra", "--quiet", "--log-file", tmp_path / "log.txt")
    assert (code, err.count("\n")) == (2, 1)
    command, error = (tmp_path / "log.txt").read_text().splitlines()
    assert command[19:].startswith("  harness run tuning=lra --quiet")
    assert error[19:] == f"  {err.rstrip()}"


def test_raw_cells_reach_a_program(small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--raw` keeps what a spreadsheet would run and a terminal obey, also in files."""
    made = pd.DataFrame({"model": ["=1+1", "a\x1bb"]})
    monkeypatch.setattr("harness.api.Results.table", lambda self, stale=False: made)
    assert run(capsys, "table", "small")[1] == "model\n'=1+1\na\\u001bb\n"
    assert run(capsys, "table", "small", "--raw")[1] == "model\n=1+1\na\x1bb\n"
    run(capsys, "table", "small", "--raw", "--output", "table.csv")
    assert Path("table.csv").read_text() == "model\n=1+1\na\x1bb\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libarrow.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_lack_of_memory_is_one_line(
    small: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes from an allocation, from the import of a library, or from a new thread."""
    from harness.report import page

    def write(_: object) -> Path:
        raise error

    monkeypatch.setattr(page, "write", write)
    code, out, err = run(capsys, "report", "small")
    assert (code, out) == (2, "")
    assert err == "harness: memory: got less than this command needs; fix: free some, or raise the limit (ulimit -v, or that of the job)\n"


def test_another_error_of_its_type_is_not_hidden(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the code keeps its traceback."""
    from harness.report import page

    def write(_: object) -> Path:
        raise RuntimeError("a fault")

    monkeypatch.setattr(page, "write", write)
    with pytest.raises(RuntimeError, match="a fault"):
        app.main(["report", "small"])
