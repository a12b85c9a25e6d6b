"""`harness clean`: the list, and what is deleted of it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.analysis.table.frame import table
from harness.cli import app
from harness.core import files
from harness.records.store import Experiment
from harness.records.sweep_schema import Claim
from harness.records.writer import ExperimentWriter
from harness.sweep import clean
from harness.sweep.claims import identity
from tests.support import experiments
from tests.support.experiments import Task

ROLES = {"old": "probe"}
NOW_UNUSED = "tiny-a-earlier"


def tasks(suite: str = "old") -> Sequence[Task]:
    return [Task(suite=suite, task="t", values=experiments.share(3, 10))]


def put(folder: Path, size: int) -> None:
    """Write a file of so many bytes into a folder."""
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * size)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A finished run, an unfinished and a stale one, with all that can be deleted; and a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    experiment = ExperimentWriter(Path("results/one"))
    for run_id, finished in (("finished", True), ("unfinished", False), ("outdated", True)):
        experiments.write_run(experiment, run_id, before=tasks(), points={8: tasks()}, roles=ROLES, finished=finished, measured_before=True)
        for name in ("state", "weights", "unmeasured"):
            put(experiment.run_folder(run_id) / name / "8", 100)
    experiment.write_manifest({"finished": {}, "unfinished": {}}, keep=False)
    experiments.write_measurements(experiment, "tiny-a", experiments.BEFORE, tasks("earlier"))
    put(experiment.folder / "set_aside" / "restarted.1", 10)
    old = experiment.run_folder("unfinished") / "points" / ".8.0123456789ab"
    put(old, 1)
    os.utime(old, (time.time() - 2 * clean.OLD,) * 2)
    put(experiment.run_folder("unfinished") / "points" / ".16.0123456789ab", 1)  # being written
    put(experiment.folder / ".git", 1)
    for name in ("written", "nursery", "of_others"):
        put(tmp_path / "cache" / name, 7)
    return Experiment(Path("results/one"))


def cleaned(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = app.main(["clean", *argv])
    return code, *capsys.readouterr()


def places(experiment: Experiment) -> dict[str, list[str]]:
    return {kind: [str(entry.path.relative_to(experiment.folder)) for entry in of] for kind, of in clean.found(experiment).items()}


def test_nothing_is_deleted_while_another_process_measures_into_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from harness.core import files; files.say_busy(pathlib.Path(sys.argv[1])); print('busy', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "busy\n"
        assert files.busy(tmp_path) == [other.pid]
        other.communicate("\n")
    assert files.busy(tmp_path) == []


def test_the_list_names_what_can_be_deleted_and_deletes_nothing(one: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """An unfinished run keeps what it resumes from; what is not the harness's is not listed."""
    assert places(one) == {
        "stale": ["runs/outdated"],
        "set_aside": ["set_aside/restarted.1"],
        "state": ["runs/finished/state"],
        "weights": ["runs/finished/weights"],
        "unmeasured": ["runs/finished/unmeasured"],
        "measurements": [f"measurements/{NOW_UNUSED}/{experiments.BEFORE[:16]}"],
        "leftovers": ["runs/unfinished/points/.8.0123456789ab"],
    }
    before = sorted(Path().rglob("*"))
    code, out, err = cleaned(capsys, "one")
    assert (code, err) == (0, "")
    assert "  state        100 bytes  checkpoints of finished runs (1): without them a larger volume trains from the start\n" in out
    assert "  written        7 bytes  rows that models generated" in out
    assert out.endswith("to delete a kind: harness clean one --delete stale\n")
    assert "of_others" not in out
    assert sorted(Path().rglob("*")) == before


def test_what_is_named_is_deleted_and_the_table_stays(one: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    """Measurements that only a stale run refers to are deleted with it; no other ones are."""
    before, own = table(one), one.measurement_folder("tiny-a-old", experiments.weights_of("outdated", 8))
    assert cleaned(capsys, "one", "--delete", "measurements")[1].endswith("\n")
    assert own.is_dir()
    code, out, _ = cleaned(capsys, "--all", "--delete", ",".join(clean.KINDS))
    assert code == 0
    assert out.splitlines()[-1].startswith(f"deleted {', '.join(clean.KINDS)}: ")
    assert clean.found(one) == {}
    assert not own.exists()
    assert table(one).equals(before)
    assert (one.run_folder("unfinished") / "state" / "8" / "file").exists()
    assert (one.folder / ".git" / "file").exists()
    assert [path.name for path in Path("cache").iterdir()] == ["of_others"]


def test_a_link_is_deleted_and_what_it_points_at_stays(one: Experiment, tmp_path: Path) -> None:
    """Checkpoints may be kept on another disk."""
    put(tmp_path / "scratch", 5)
    shutil.rmtree(one.run_folder("finished") / "state")
    (one.run_folder("finished") / "state").symlink_to(tmp_path / "scratch")
    assert clean.clean_command([one], "state", print) == 0
    assert not os.path.lexists(one.run_folder("finished") / "state")
    assert (tmp_path / "scratch" / "file").exists()


@pytest.mark.parametrize("kind", ["stale", "cache"])
def test_nothing_is_deleted_while_a_process_holds_a_unit(one: Experiment, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Of the cache neither, while one works on an experiment next to it; the list still comes."""
    beside = ExperimentWriter(Path("results/beside"))
    beside.write_manifest({}, keep=False)
    where = {"stale": one, "cache": beside}[kind]
    claim = Claim(unit="unfinished", generation=1, sweep="s", lease=60.0, taken="", stage="train", **dataclasses.asdict(identity()))
    where.claims.add(claim)
    code, out, err = cleaned(capsys, "one", "--delete", kind)
    assert (code, out) == (2, "")
    assert f"clean {where.name}: got a sweep under way: process {os.getpid()} of " in err
    assert f"fix: wait for its end: harness status {where.name} --watch" in err
    assert one.run_folder("outdated").exists()
    assert cleaned(capsys, "one")[0] == 0
    where.claims.write(dataclasses.replace(claim, ended="done"))
    assert cleaned(capsys, "one", "--delete", kind)[0] == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["one", "--delete", "stat"], "--delete: got 'stat'; allowed: stale, set_aside, state, "),
        (["one", "--delete", "stat"], "fix: did you mean 'state'?"),
        (["one", "--delete", ""], "--delete: got ''"),
        ([], "clean: got nothing; allowed: NAME, or --all"),
        (["one", "--all"], "clean: got NAME and --all; allowed: NAME, or --all"),
    ],
)
def test_a_wrong_command_deletes_nothing(one: Experiment, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    """One line and exit code 2."""
    code, out, err = cleaned(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert one.run_folder("outdated").exists()
