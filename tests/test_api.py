"""The harness in Python: the names of ``import harness``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness.analysis.findings import finding_columns
from harness.analysis.table import columns, items
from harness.analysis.table.frame import table
from tests.support import lm_eval_logs
from tests.support.small_runs import Runs

SMALL = Path(__file__).parent / "golden" / "small"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> harness.Results:
    """The recorded small experiment."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SMALL, tmp_path / "results" / "small")
    return harness.load("small")


def test_results_are_loaded_by_name_and_by_path(small: harness.Results, tmp_path: Path) -> None:
    """They are the same results."""
    by_path = harness.load(tmp_path / "results" / "small")
    assert (small.name, small.folder) == ("small", Path("results/small"))
    assert by_path.name == "small"
    pd.testing.assert_frame_equal(by_path.table(), small.table())
    with pytest.raises(harness.HarnessError, match="did you mean 'small'"):
        harness.load("smal")


def test_tables_are_those_of_the_command_line(small: harness.Results) -> None:
    """With their columns and types."""
    pd.testing.assert_frame_equal(small.table(), table(small.experiment))
    assert list(small.table()) == list(columns.COLUMNS)
    found = small.findings()
    assert list(found) == list(finding_columns.COLUMNS)
    assert set(found["verdict"].dropna()) <= {"lost", "gained", "kept", "not enough evidence"}
    assert len(found) == len(found.drop_duplicates(["cell", "volume", "suite", "task"])) > 0


def test_items_are_those_that_the_table_counts(small: harness.Results) -> None:
    """Of each recorded run at its largest volume, or at one."""
    found = small.items()
    assert {name: str(kind) for name, kind in found.dtypes.items()} == items.OF_RUNS | items.COLUMNS
    assert set(zip(found["run_id"], found["volume"], strict=True)) == {("full000", 32), ("lora000", 32)}
    assert set(found["role"]) == {"probe"}
    at_8 = small.items(run_id="full000", volume=8)
    counted = small.table().query("run_id == 'full000' and volume == 8 and task != '*' and suite == 'old'")
    assert at_8["outcome"].value_counts()["lost"] == counted["lost"].sum()
    for wrong in ({"run_id": "x"}, {"volume": 9}):
        with pytest.raises(harness.HarnessError, match="items: "):
            small.items(**wrong)


def test_a_comparison_is_the_table_of_the_command(tmp_path: Path) -> None:
    """45 lost and 20 gained of 500."""
    lm_eval_logs.planted(tmp_path)
    found = harness.compare(tmp_path / "before", tmp_path / "after", quiet=True)
    (row,) = found.to_dict("records")
    assert (row["task"], row["lost"], row["gained"], row["verdict"]) == ("colours", 45, 20, "lost")
    assert row["after"] - row["before"] == pytest.approx(row["delta"])
    assert (found.attrs["before"], found.attrs["after"]) == (
        "base (read in " + f"{tmp_path / 'before'})",
        f"tuned (read in {tmp_path / 'after'})",
    )
    with pytest.raises(harness.HarnessError, match="neither suites nor overrides"):
        harness.compare(tmp_path / "before", tmp_path / "after", suites=["blimp"])


def test_a_text_in_place_of_a_list_is_an_error_of_one_line() -> None:
    """It would be taken for a list of letters."""
    with pytest.raises(harness.HarnessError, match=r"train: overrides: got 'tuning=lora'; allowed: a list"):
        harness.train("tuning=lora")
    with pytest.raises(harness.HarnessError, match=r"compare: suites: got 'blimp'"):
        harness.compare("a", "b", suites="blimp")


RUN = ["model=start", "data.volumes=[8]", "target_suites=[aim]", "probe_suites=[probe]", "name=a", "training.learning_rate=0.01"]


@pytest.mark.model
def test_a_run_is_trained_once_and_its_results_come_back(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Its record names the command that makes the same; nothing is on standard output."""
    results = harness.train(RUN)
    assert (results.name, set(results.table()["volume"])) == ("a", {0, 8})
    (run_id,) = results.table()["run_id"].unique()
    command = results.experiment.glance("runs", run_id, "record.json")["provenance"]["command"]
    assert command.startswith("harness run model=start 'data.volumes=[8]'")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"run {run_id}" in captured.err
    steps = runs.trained
    assert steps > 0
    assert harness.train(RUN, quiet=True).folder == results.folder
    assert runs.trained == steps
    assert capsys.readouterr().err == ""


@pytest.mark.model
def test_a_run_that_fails_is_an_error_of_one_line(runs: Runs) -> None:
    """Wrong overrides are one before anything is written."""
    with pytest.raises(harness.HarnessError, match="did you mean 'lora'"):
        harness.train(["tuning=lra"])
    with pytest.raises(harness.HarnessError, match=r"^run \w+ \(start, .*; its traceback is in results/a/runs/") as raised:
        harness.train([*RUN, "training.learning_rate=1e30"])
    assert "\n" not in str(raised.value)
