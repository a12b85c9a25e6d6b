"""A sweep from its command line to its launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cli import app
from harness.sweep import command
from harness.sweep.axes import expand
from harness.sweep.launchers import choose

Written = Any

SMALL = ["model=nursery-smoke-a", "data.volumes=[64]", "seed=0"]


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_sweep_needs_a_name_and_no_experiment_file() -> None:
    """The name is the results folder; every axis is on the command line."""
    started = command.start(["name=mine", *SMALL, "tuning=full,lora"])
    assert (started.experiment.name, started.experiment.folder.parts[-2:]) == ("mine", ("results", "mine"))
    assert [unit.kind for unit in started.units] == ["baseline", "run", "run"]


@pytest.mark.parametrize("name", ["sweep", "plan", "prefetch"])
def test_neither_an_experiment_nor_a_name_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how to give either; nothing is written."""
    assert app.main([name, "seed=0,1"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"harness: {name}: got neither an experiment nor a name; allowed: experiment=NAME (")
    assert message.count("\n") == 1
    assert f"fix: harness {name} name=mine model=nursery-s,nursery-m seed=0,1" in message
    assert not Path("results").exists()


ARMS = "arms:\n  plain: {mitigation: none}\n  pull: {mitigation: l2, mitigation.weight: 0.1}"


def test_the_arms_of_a_sweep_are_those_of_its_last_command(write: Written) -> None:
    """A renamed arm has the same run; single runs keep the names."""
    before = command.start([*write(ARMS), *SMALL])
    before.announce()
    names = dict(before.experiment.arms())
    assert sorted(names.values()) == ["plain", "pull"]
    assert {unit.id: unit.label.split(", ")[2] for unit in before.units if unit.kind == "run"} == names
    assert command.start([*write(ARMS), *SMALL]).same
    assert not command.start([*write(ARMS), *SMALL, "declared.margin=0.1"]).same  # what the page says would be of the last margin
    renamed = command.start([*write(ARMS.replace("pull:", "l2-sp:")), *SMALL])
    assert not renamed.same
    renamed.announce()
    after = renamed.experiment.arms()
    assert (names.keys(), sorted(after.values())) == (after.keys(), ["l2-sp", "plain"])
    launcher, rest = choose.split([*SMALL, "name=mine", "seed=1"])
    command.begin(expand(rest).asked, launcher, keep=True).announce()
    assert renamed.experiment.arms() == after
    command.start(["name=mine", *SMALL]).announce()
    assert renamed.experiment.arms() == {}
