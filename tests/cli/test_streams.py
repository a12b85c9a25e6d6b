"""Output survives terminals of any encoding, a closed standard output and readers that leave."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import app
from harness.core import streams
from harness.records.writer import ExperimentWriter
from tests.support.experiments import Task, share, write_run

HARNESS = [sys.executable, "-m", "harness"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose probe is better where it is lower, so that its table has an arrow."""
    experiment = ExperimentWriter(tmp_path_factory.mktemp("results") / "small")
    nats = {"suite": "text", "task": "text", "metric": "nats_per_token", "higher_is_better": False, "chance": None}
    before = [Task(suite="people", task="facts", values=share(9, 10)), Task(values=[1.0] * 10, **nats)]  # type: ignore[arg-type]
    after = [Task(suite="people", task="facts", values=share(10, 10)), Task(values=[1.5] * 10, **nats)]  # type: ignore[arg-type]
    write_run(experiment, "r", before=before, points={8: after}, roles={"people": "target", "text": "probe"})
    return experiment.folder


def ran(*arguments: str, shell: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command, behind which a shell may stand."""
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "PYTHONUTF8", "LC_ALL")}
    command = ["bash", "-c", f'"$@" {shell}', "bash", *HARNESS, *arguments]
    return subprocess.run(command, env={**known, **env}, capture_output=True, check=False)


def written_in(encoding: str, write: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return what is written to a standard output of an encoding."""
    written = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        streams.prepare()
        write()
        sys.stdout.flush()
        return written.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_without_a_character_gets_a_stand_in(results: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a loss has an arrow, a v in ASCII; nothing else is lost."""
    shown, plain = (
        written_in(name, lambda: app.main(["table", str(results), "--format", "text"]), monkeypatch).decode(name)
        for name in (encoding, "utf-8")
    )
    assert "nats per token ↓" in plain
    assert shown == plain.replace("↓", "v")


def test_a_locale_of_ascii_is_no_error(results: Path) -> None:
    """LC_ALL=C, with Python's own ways around it switched off."""
    found = ran("table", str(results), "--format", "text", shell="", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (found.returncode, found.stderr, found.stdout.isascii()) == (0, b"", True)
    assert b"nats per token v" in found.stdout


def test_a_reader_that_leaves_ends_the_command_quietly(results: Path) -> None:
    """As other tools end: with the code of SIGPIPE in a shell, and not a word."""
    for command in (["table", str(results)], ["list"]):
        found = ran(*command, shell="| true; exit ${PIPESTATUS[0]}")
        assert (found.returncode, found.stderr) == (streams.READER_LEFT, b"")


def test_a_closed_output_is_no_error(results: Path) -> None:
    """Without a standard output the exit code is what counts."""
    found = ran("table", str(results), shell=">&-")
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
    missing = ran("table", "nothing", shell="2>&-")
    assert (missing.returncode, missing.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("a → b, 3.2 × 10⁻⁷ ± 1 …", "ascii", b"a -> b, 3.2 x 10^-7 +- 1 ..."),
        ("10⁷ and 10⁻³", "latin-1", "10^7 and 10^-³".encode("latin-1")),  # latin-1 has the last digit
        ("\udcff.jsonl", "utf-8", b"\xff.jsonl"),
        ("é\udcff→", "ascii", rb"\u00e9" + b"\xff->"),
        ("\ud800", "utf-8", rb"\ud800"),
    ],
)
def test_stand_ins(monkeypatch: pytest.MonkeyPatch, text: str, encoding: str, expected: bytes) -> None:
    """Powers stay powers; bytes of file names stay bytes; the rest is escaped as in JSON."""
    assert written_in(encoding, lambda: sys.stdout.write(text), monkeypatch) == expected


def test_json_stays_json_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters without a stand-in are read back as they were."""
    text = "größe 中 😀"
    assert json.loads(written_in("ascii", lambda: sys.stdout.write(json.dumps(text, ensure_ascii=False)), monkeypatch)) == text


def test_messages_that_nobody_reads_do_not_end_the_work(results: Path) -> None:
    """A closed pipe behind standard error leaves the command its exit code."""
    found = ran("table", "nothing", shell="2> >(true); exit $?")
    assert found.returncode == 2


ESCAPE = "\x1b[31m"


def test_escape_sequences_of_names_and_data_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a list, a table, a comment, an error and wrong arguments: none reaches the terminal."""
    (tmp_path / "conf" / "tuning").mkdir(parents=True)
    (tmp_path / "conf" / "tuning" / f"a{ESCAPE}b.yaml").write_text(f"# Clear \x9b2J \r{ESCAPE}.\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    experiment = ExperimentWriter(tmp_path / "small")
    one = [Task(suite="people", task="facts", values=share(9, 10))]
    write_run(experiment, f"r{ESCAPE}", before=one, points={8: one}, roles={"people": "probe"})
    for code, *arguments in (
        (0, "list", "tuning"),
        (0, "table", str(experiment.folder)),
        (0, "table", str(experiment.folder), "--format", "json"),
        (2, "status", f"no{ESCAPE}"),
        (2, "list", f"no{ESCAPE}"),
    ):
        assert app.main([str(part) for part in arguments]) == code
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "\x9b" not in out + err
        assert "1b[31m" in out + err
    with pytest.raises(SystemExit):
        app.main(["report", "small", f"--no{ESCAPE}"])
    assert r"\u001b[31m" in capsys.readouterr().err


def test_json_is_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control character is escaped as JSON escapes it, so a program reads what was written."""
    text = "a\x9b1m\u2028b\u202e"
    shown = written_in("utf-8", lambda: sys.stdout.write(json.dumps([text], ensure_ascii=False)), monkeypatch).decode()
    assert shown.isascii()
    assert json.loads(shown) == [text]


def test_secrets_on_standard_error_are_masked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Data on standard output stay as they are."""
    monkeypatch.setenv("OUR_SECRET", "hunter2!")
    assert app.main(["list", "hunter2!"]) == 2
    assert "list: got '***'" in capsys.readouterr().err
