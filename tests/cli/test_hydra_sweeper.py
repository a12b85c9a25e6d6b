"""Hydra's own command line plans as `harness sweep` does, and launches one job per unit."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.plugins import Plugins

from harness.cli import app, hydra_app, hydra_sweeper, outcome
from harness.cli.hydra_sweeper import UNIT, job_overrides
from harness.config import composition
from harness.core.errors import ConfigError
from harness.records.sweep_schema import Unit
from harness.sweep import command, worker
from harness.sweep.axes import expand

Done = list[tuple[str, tuple[str, ...]]]


def unit(kind: Any, name: str, *overrides: str) -> Unit:
    return Unit(kind=kind, id=name, overrides=overrides, label=name, evaluations={}, threads=1, processes=1, params_total=1, cost=1.0)


@pytest.fixture
def hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start Hydra in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main"])
    return tmp_path


@pytest.fixture
def done(hydra: Path, monkeypatch: pytest.MonkeyPatch) -> Done:
    """The units that a worker without effect has carried out, one baseline among them."""
    carried: Done = []

    def start(overrides: Sequence[str]) -> SimpleNamespace:
        runs = [unit("run", f"12e45{number:07d}", *asked.overrides) for number, asked in enumerate(expand(overrides).asked)]
        units = [*runs, unit("baseline", "baseline-ab", *runs[0].overrides)]
        return SimpleNamespace(announce=lambda: None, sweep=SimpleNamespace(id="s1"), units=units)

    def carry_out_one(name: str, overrides: Sequence[str]) -> str:
        carried.append((name.removeprefix("s1/"), tuple(overrides)))
        return "done"

    monkeypatch.setattr(command, "start", start)
    monkeypatch.setattr(hydra_sweeper, "_tally", lambda started: len(started.units))
    monkeypatch.setattr(outcome, "finish", lambda started, tally: int(tally != len(started.units)))
    monkeypatch.setattr(worker, "carry_out_one", carry_out_one)
    return carried


SWEEP = ["-m", "experiment=smoke", "tuning=lora", "tuning.rank=2,4", "anchor=tinyworld-base", "seed=0", "data.volumes=[8,16]"]


def test_a_launcher_carries_one_job_a_unit_baselines_first(done: Done, hydra: Path) -> None:
    """Two models by two ranks and one volume 0.

    A job composes to its unit's run; its unit's name stays text, even if it is all digits.
    """
    hydra_app.main(SWEEP)
    assert [name for name, _ in done] == ["baseline-ab", *(f"12e45{number:07d}" for number in range(4))]
    expected = [asked.config for asked in expand(SWEEP[1:]).asked]
    assert [composition.compose(overrides) for _, overrides in done] == [expected[0], *expected]
    assert {path.name for path in hydra.rglob("*")} <= {"results", ".hydra"}


def test_arms_are_expanded_and_selected(done: Done) -> None:
    """A job has its arm's overrides; `arms` selects as in `harness sweep`."""
    given = ["experiment=own_words", "arms=gold,own", "tuning=lora", "seed=0"]
    hydra_app.main(["-m", *given])
    assert [composition.compose(overrides) for _, overrides in done[1:]] == [asked.config for asked in expand(given).asked]
    assert len(done) == 1 + 2


def test_what_was_not_done_is_the_exit_code(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of `harness sweep`."""
    monkeypatch.setattr(outcome, "finish", lambda started, tally: int(tally == len(started.units)))
    with pytest.raises(SystemExit) as ended:
        hydra_app.main(SWEEP)
    assert ended.value.code == 1
    assert len(done) == 5


def test_a_launcher_that_stops_does_not_stop_the_sweep(
    done: Done, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Submitit's raises after the first killed job.

    The error is one line, the next jobs follow, and results are counted on disk.
    """
    basic: Any = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    launch, calls = basic.launch, []

    def broken(self: Any, job_overrides: Any, initial_job_idx: int) -> Any:
        calls.append((len(job_overrides), initial_job_idx))
        if len(calls) == 1:
            raise RuntimeError("job 0 was\nkilled")
        return launch(self, job_overrides, initial_job_idx)

    monkeypatch.setattr(basic, "launch", broken)
    hydra_app.main(SWEEP)
    assert calls == [(1, 0), (4, 1)]
    assert len(done) == 4
    assert capfd.readouterr().err == "harness: the launcher stopped: RuntimeError: job 0 was killed\n"


@pytest.mark.parametrize("arguments", [["-m", "experiment=smoke", "modle=hf,x"], ["-m", "model=nursery-z"], ["tuning=lroa"]])
def test_what_is_wrong_is_one_line(hydra: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """No traceback, exit code 2, nothing launched."""
    with pytest.raises(SystemExit) as ended:
        hydra_app.main(arguments)
    assert ended.value.code == 2
    message = capfd.readouterr().err
    assert message.startswith("harness: ")
    assert message.count("\n") == 1
    assert list(hydra.iterdir()) == []


def test_an_error_while_a_sweep_is_planned_is_one_line(
    done: Done, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without Hydra's traceback."""

    def start(overrides: Sequence[str]) -> None:
        raise ConfigError("seed: got nonsense")

    monkeypatch.setattr(command, "start", start)
    with pytest.raises(SystemExit) as ended:
        hydra_app.main(SWEEP)
    assert (ended.value.code, capfd.readouterr().err) == (2, "harness: seed: got nonsense\n")
    assert done == []


def test_without_m_it_is_harness_run(hydra: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same overrides, also of defaults that no yaml lists.

    Its exit code is the process's.
    """
    given: list[str] = []

    def run(argv: Sequence[str]) -> int:
        given.extend(argv)
        return 1

    monkeypatch.setattr(app, "main", run)
    asked = ["tuning=lora", "tuning.rank=4", "mitigation=replay", "anchor=tinyworld-base", "seed=3", "data.volumes=[8]"]
    with pytest.raises(SystemExit) as ended:
        hydra_app.main(asked)
    assert ended.value.code == 1
    assert given[0] == "run"
    assert composition.compose(given[1:]) == composition.compose(asked)
    assert list(hydra.iterdir()) == []


def test_a_users_own_members_are_found(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HARNESS_PATH holds for Hydra, too."""
    folder = tmp_path / "own" / "conf" / "tuning"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# mine\nclass: lora.Lora\nrank: 3\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path / "own"))
    hydra_app.main(["-m", "model=nursery-smoke-a,nursery-smoke-b", "tuning=mine"])
    assert {composition.compose(overrides).labels.tuning for _, overrides in done} == {"mine"}


def test_hydra_finds_the_plugin_where_it_looks_for_plugins() -> None:
    """In the namespace package hydra_plugins.

    Other plugins share it, so it must not become a regular package.
    """
    assert importlib.import_module("hydra_plugins").__file__ is None
    assert "hydra_plugins.harness_sweep.HarnessSweeper" in Plugins.instance().class_name_to_class


def test_the_name_of_a_unit_is_text() -> None:
    """An id of twelve hexadecimal digits may parse as a number."""
    assert job_overrides(unit("run", "12e456789012", "seed=1", "anchor=null"), "s1")[-1] == f"{UNIT}'s1/12e456789012'"
