"""`harness new`: each skeleton is run as it was written."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import app, new
from harness.core.errors import ConfigError
from harness.evaluation import task_index


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, which is no folder of HARNESS_PATH."""
    monkeypatch.delenv("HARNESS_PATH", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    task_index._ours.cache_clear()
    yield tmp_path
    task_index._ours.cache_clear()


def written(kind: str, name: str) -> tuple[list[str], list[str]]:
    """Return the files that a skeleton is made of, and the commands that follow."""
    lines: list[str] = []
    assert new.new_command(kind, name, lines.append) == 0
    files = [line.removeprefix("wrote ") for line in lines if line.startswith("wrote ")]
    return files, [line.removeprefix("next: ") for line in lines if line.startswith("next: ")]


def pasted(monkeypatch: pytest.MonkeyPatch, command: str, *more: str) -> int:
    """Run a printed command in this process, as a shell would."""
    words = shlex.split(command)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words.pop(0) == "harness"
    return app.main([*words, *more])


@pytest.mark.model
def test_all_skeletons_together_make_a_run(mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The experiment is planned, the suite shown, and a run uses all four."""
    files, (plan, sweep) = written("experiment", "mine")
    assert (files, sweep) == (["conf/experiment/mine.yaml"], "HARNESS_PATH=. harness sweep experiment=mine")
    assert pasted(monkeypatch, plan) == 0
    assert "mine: 2 run(s): 2 pending" in capsys.readouterr().out
    files, (prompt, probe) = written("suite", "sums")
    folder = "benchmarks/tasks/sums"
    assert files == ["benchmarks/suites/sums.yaml", f"{folder}/sums_items.yaml", f"{folder}/items.jsonl", f"{folder}/items.py"]
    assert probe == 'harness run name=sums "data.volumes=[16]" "probe_suites=[sums]"'  # HARNESS_PATH is set by now
    task_index._ours.cache_clear()
    assert pasted(monkeypatch, prompt) == 0
    assert "suite sums, task sums_items: item 1 of 8" in capsys.readouterr().out
    assert written("data", "people") == (["conf/data/people.yaml", "people.jsonl"], ["harness run name=people data=people"])
    files, (check, protect) = written("mitigation", "keep_close")
    assert (files, check) == (["conf/mitigation/keep_close.yaml", "keep_close.py"], "harness check-method keep_close:KeepClose")
    assert pasted(monkeypatch, protect, "experiment=mine", "data=people", "data.volumes=[8]", "probe_suites=[tinyworld,sums]") == 0
    assert "keep_close" in "".join(capsys.readouterr())


def test_the_first_folder_of_harness_path_gets_it(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are then named by their whole path, and the command needs no variable."""
    (mine / "my own").mkdir()
    monkeypatch.setenv("HARNESS_PATH", str(mine / "my own"))
    assert written("data", "rows") == (["my own/conf/data/rows.yaml", "my own/rows.jsonl"], ["harness run name=rows data=rows"])
    assert f'train: "{mine}/my own/rows.jsonl"' in (mine / "my own/conf/data/rows.yaml").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("suite", "tinyworld", "new suite: got 'tinyworld', which is .*/benchmarks/suites/tinyworld.yaml; allowed: a name that is free"),
        ("data", "../rows", "NAME: got '../rows'; allowed: letters, digits, _ and -, a letter first"),
        ("experiment", "Null", "NAME: got 'Null'"),
        ("mitigation", "keep-close", "NAME: got 'keep-close'; allowed: small letters, digits and _"),
        ("mitigation", "json", "got 'json', a Python module; allowed: a name that is free; fix: my_json"),
        ("data", "taken", "got taken.jsonl, which exists; allowed: new files; fix: another NAME"),
    ],
)
def test_a_name_that_is_taken_or_invalid_writes_nothing(mine: Path, kind: str, name: str, message: str) -> None:
    """Not the first of several files either, and nothing is overwritten."""
    (mine / "taken.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=message):
        new.new_command(kind, name, print)
    assert [path.name for path in mine.iterdir()] == ["taken.jsonl"]
    assert (mine / "taken.jsonl").read_text() == "mine"
