"""Names and paths of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import ConfigError, RecordError
from harness.records.locate import locate, spelled
from harness.records.store import Experiment


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with results/tiny, other/tiny and a folder of its own, mine."""
    monkeypatch.chdir(tmp_path)
    for folder in ("results/tiny/runs", "other/tiny/runs", "mine/runs", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("where", "results", "folder"),
    [
        ("tiny", None, "results/tiny"),
        ("tiny", "other", "other/tiny"),
        ("tiny", Path("other"), "other/tiny"),
        ("results/tiny", None, "results/tiny"),
        ("results/tiny/", None, "results/tiny"),
        ("./other/tiny", None, "other/tiny"),
        (Path("mine"), None, "mine"),
        ("mine", None, "mine"),
    ],
)
def test_a_name_or_a_path(where: str | Path, results: str | Path | None, folder: str) -> None:
    """A name is looked up in the folder of results first, then in the working directory."""
    assert locate(where, results).folder == Path(folder)


def test_an_absolute_path_and_the_working_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is that of the folder."""
    assert locate(place / "other" / "tiny").folder == place / "other" / "tiny"
    monkeypatch.chdir(place / "other" / "tiny")
    assert locate(".").name == "tiny"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("tniy", "got nothing; allowed: tiny; fix: did you mean 'tiny'?"),
        ("results", "got a folder of 1 experiment\\(s\\); allowed: tiny; fix: choose one: results/tiny"),
        ("docs/", "got a directory without runs; allowed: mine"),
        ("none/such", "allowed: nothing yet in none; fix: run `harness run`, `sweep`, `measure`, `watch` or `mix` first"),
    ],
)
def test_no_results_is_one_line_with_those_that_exist(where: str, message: str) -> None:
    """The experiments of the same folder are named."""
    with pytest.raises(RecordError, match=message) as raised:
        locate(where if where != "results" else "results/")
    assert "\n" not in str(raised.value)


def test_of_many_results_the_nearest_are_named(place: Path) -> None:
    """20 others, none of which is what was meant."""
    for number in range(20):
        (place / "results" / f"other{number:02}" / "runs").mkdir(parents=True)
    with pytest.raises(RecordError, match=r"allowed: (other\d\d, ){11}tiny and 9 more; fix: run `harness run`"):
        locate("sweep-of-tinies")


@pytest.mark.parametrize("where", ["other/tiny", Path("mine")])
def test_a_path_with_a_folder_of_results_is_an_error(where: str | Path) -> None:
    """They would name two places."""
    with pytest.raises(ConfigError, match="allowed: a path alone, or a name and the folder that it is in"):
        locate(where, "results")


@pytest.mark.parametrize(("folder", "typed"), [("results/tiny", "tiny"), ("other/tiny", "other/tiny"), ("mine", "./mine")])
def test_results_are_spelled_as_they_are_found(folder: str, typed: str) -> None:
    """What is typed for a command finds them."""
    assert spelled(Experiment(Path(folder))) == typed
    assert locate(typed).folder == Path(folder)
