"""`harness watch` on checkpoints of a tiny model, written by a process that is no training."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import app
from harness.config import composition
from harness.core.errors import ModelError
from harness.external.checkpoints import summary_file, told, watching
from harness.models.loading import load
from harness.run import baseline
from harness.sweep.reporter import stop_soon
from tests.support import saved, trainings

BASE = "nursery-xs"

PAGE = told.finish

Watch = Callable[..., int]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint with the base's own weights."""
    folder = tmp_path_factory.mktemp("template") / "checkpoint-10"
    member = composition.member("model", BASE)
    member.load().save_pretrained(folder)
    member.tokenizer().save_pretrained(folder)
    (folder / "trainer_state.json").write_text(trainings.state(10))
    return folder


@pytest.fixture(scope="module")
def measured_base(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """Results in which the base is measured."""
    place = tmp_path_factory.mktemp("base")
    _put(template, place / "out", 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(os, "nice", lambda _: 0)
        patch.setattr(told, "finish", lambda *_: 0)
        assert app.main(["watch", BASE, "out", *OPTIONS]) == 0
    shutil.rmtree(place / "results" / "out" / "runs")
    (place / "results" / "out" / "forgetting.json").unlink()
    return place / "results"


OPTIONS = ("--suites", "tinyworld", "--limit", "2", "--every", "0.05", "--until", "idle=20", "--quiet")


@pytest.fixture
def watch(tmp_path: Path, measured_base: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The command on tmp_path/out, with results in tmp_path/results; returns its exit code."""
    shutil.copytree(measured_base, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(told, "finish", lambda *_: 0)  # the page takes longer than all else
    return lambda *more: app.main(["watch", BASE, "out", *OPTIONS, *more])


def _put(template: Path, out: Path, step: int, change: Callable[[Any], None] | None = None) -> Path:
    """Write a checkpoint: the template's, or of weights that ``change`` changed in place."""
    folder = out / f"checkpoint-{step}"
    shutil.copytree(template, folder, dirs_exist_ok=True)
    if change is not None:
        model = composition.member("model", BASE).load()
        with torch.no_grad():
            change(model)
        model.save_pretrained(folder)
    (folder / "trainer_state.json").write_text(trainings.state(step))
    return folder


def _zero(model: Any) -> None:
    for weight in model.model.layers.parameters():
        weight.zero_()


def _nudge(model: Any) -> None:
    model.get_input_embeddings().weight[0, 0] += 1e-4


def _summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("results/out/forgetting.json").read_text())
    return found


def _losses() -> dict[str, float]:
    return {one["checkpoint"]: one["suites"]["tinyworld"]["loss"] for one in _summary()["checkpoints"]}


def test_losses_of_checkpoints(
    tmp_path: Path, template: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(told, "finish", PAGE)
    _put(template, tmp_path / "out", 10)
    _put(template, tmp_path / "out", 30, _zero)
    assert watch() == 0
    found = _summary()
    assert (found["status"], found["axis"], found["skipped"]) == ("done", "steps", {})
    assert [(one["step"], one["volume"], one["rows"], one["tokens"], one["training_loss"]) for one in found["checkpoints"]] == [
        (10, 10, None, 1000, 2.5), (30, 30, None, 3000, 2.5),
    ]  # fmt: skip
    same, lost = (one["suites"]["tinyworld"] for one in found["checkpoints"])
    assert (same["before"], same["after"], same["loss"]) == (1.0, 1.0, 0.0)
    assert lost["loss"] == pytest.approx(lost["before"] - lost["after"])
    assert lost["interval"][0] <= lost["loss"] <= lost["interval"][1]
    assert lost["loss"] > 0.3
    assert "checkpoint-30  30 steps" in capsys.readouterr().out
    assert Path("results/out/report/index.html").exists()
    assert not Path("results/out/.claimed").exists()


def test_training_saves_and_deletes_at_full_speed_while_a_checkpoint_is_measured(
    tmp_path: Path, template: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training ends while its first checkpoint is being measured; no file of it is held."""
    out = tmp_path / "out"

    def train() -> None:
        _put(template, out, 7)
        time.sleep(0.5)  # many polls
        command = [sys.executable, "-m", "tests.support.trainings", str(out), str(template), "40", "0"]
        subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parents[3])
        held = [str(one.resolve()) for one in Path("/proc/self/fd").iterdir()]
        assert not [path for path in held if path.startswith(str(out))]
        assert str(out) not in Path("/proc/self/maps").read_text()

    _after_loading(monkeypatch, train)
    _put(template, out, 5, _nudge)
    assert watch() == 0
    assert [path.name for path in out.iterdir()] == ["checkpoint-400"]
    assert list(_losses()) == ["checkpoint-5", "checkpoint-400"]
    assert _summary()["skipped"]["checkpoint-7"] == "deleted before it was measured"


def test_nothing_is_measured_twice_and_rewritten_weights_are_measured_again(
    tmp_path: Path, template: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, loaded = tmp_path / "out", list[str]()
    _after_loading(monkeypatch, lambda: loaded.append("model"), every_time=True)
    for step in (10, 30):
        _put(template, out, step, _nudge if step == 10 else _zero)
    assert watch() == 0
    assert len(loaded) == 2
    first = _summary()["checkpoints"]
    shutil.rmtree(out / "checkpoint-10")
    assert watch() == 0
    assert len(loaded) == 2
    assert (_summary()["checkpoints"], _summary()["axis"]) == (first, "steps")
    _put(template, out, 30, lambda model: model.get_input_embeddings().weight.zero_())
    assert watch() == 0
    assert len(loaded) == 3
    assert _summary()["checkpoints"][0] == first[0]
    assert _summary()["checkpoints"][1]["files"] != first[1]["files"]


def test_the_file_changes_only_with_its_content(tmp_path: Path, template: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a second without a change, 20 polls: a reader takes a new file for news."""
    written = list[dict[str, Any]]()
    monkeypatch.setattr(summary_file, "write_text", lambda _, text: written.append({**json.loads(text), "time": ""}))
    _put(template, tmp_path / "out", 10)
    assert watch("--until", "idle=1") == 0
    assert [one["status"] for one in written[-2:]] == ["watching", "idle"]
    assert not [one for one, other in pairwise(written) if one == other]


def test_a_watch_that_an_error_ends_says_so_in_its_file(tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModelError("base: got no memory")

    monkeypatch.setattr(baseline, "measure", fail)
    assert watch() != 0
    assert _summary()["status"] == "failed"


def test_interrupted_watch_writes_its_summary_and_resumes(
    tmp_path: Path, template: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _put(template, tmp_path / "out", 30, _nudge)
    with monkeypatch.context() as patch:
        _after_loading(patch, stop_soon)
        assert watch() == 130
    assert "rerun the same command to resume" in capsys.readouterr().err
    assert (_summary()["status"], _summary()["checkpoints"]) == ("interrupted", [])
    assert not Path("results/out/.claimed").exists()
    assert watch() == 0
    assert list(_losses()) == ["checkpoint-30"]


def test_weights_rewritten_while_they_are_loaded_are_not_measured(
    tmp_path: Path, template: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old safetensors write into the file of the checkpoint, which is that of the claim."""
    folder = _put(template, tmp_path / "out", 30, _nudge)
    final = (folder / "model.safetensors").read_bytes()[:-4] + bytes(4)

    def rewrite() -> None:
        with (folder / "model.safetensors").open("r+b") as file:
            file.write(final)
        (folder / "trainer_state.json").write_text(trainings.state(30))

    _after_loading(monkeypatch, rewrite)
    assert watch() == 0
    assert list(_losses()) == ["checkpoint-30"]
    assert _summary()["skipped"] == {}
    points = list(Path("results/out/runs").glob("*/points/30/point.json"))
    assert len(points) == 1


def test_checkpoint_that_cannot_be_loaded_does_not_end_the_watch(
    tmp_path: Path, template: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by its own folder with the reason; the exit code says that something failed."""
    broken = _put(template, tmp_path / "out", 10)
    (broken / "model.safetensors").write_bytes(trainings.safetensors())
    (broken / "trainer_state.json").write_text(trainings.state(10))
    _put(template, tmp_path / "out", 30)
    assert watch() == 1
    assert list(_losses()) == ["checkpoint-30"]
    assert list(_summary()["skipped"]) == ["checkpoint-10"]
    assert ".claimed" not in _summary()["skipped"]["checkpoint-10"]
    assert "checkpoint-10" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_adapters_are_measured_on_the_given_base_whatever_base_they_name(
    tmp_path: Path, template: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None, or a path of another machine; a quantised one is rejected. None has a tokenizer."""
    for step, base in {10: "unsloth/some-model-bnb-4bit", 20: "/of/another/machine", 30: None}.items():
        folder = saved.trained(template, tmp_path / "out" / f"checkpoint-{step}", target_modules=["q_proj"])
        saved.changed(folder, base_model_name_or_path=base)
        (folder / "trainer_state.json").write_text(trainings.state(step))
    assert watch() == 1
    assert list(_losses()) == ["checkpoint-20", "checkpoint-30"]
    assert (
        "not measured: checkpoint-10: adapter out/checkpoint-10: got the quantised base unsloth/some-model-bnb-4bit"
        in capsys.readouterr().err
    )
    (record,) = Path("results/out/runs").glob("*/record.json")
    assert json.loads(record.read_text())["labels"]["tuning"] == "lora"


def test_second_watch_of_the_same_results_is_rejected(
    tmp_path: Path, template: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    _put(template, tmp_path / "out", 30)
    with (tmp_path / "results" / "out" / ".watch").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process holds it
        assert watch() == 2
    assert "where another watch writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["out", "--until", "later"], "watch: --until: got 'later'; allowed: done, idle=SECONDS, or forever"),
        (["out", "--until", "idle=0"], "watch: --until: got 'idle=0'"),
        (["out", "--every", "0"], "watch: --every: got 0"),
        (["absent/out"], "watch: absent/out: got a path that does not exist"),
        (["file"], "watch: file: got a file"),
        (["runs/v0/checkpoint-10"], "watch: runs/v0/checkpoint-10: got a checkpoint; "),
        (["runs"], "fix: name the run's own folder, such as runs/v0"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "runs" / "v0" / "checkpoint-10").mkdir(parents=True)
    assert app.main(["watch", BASE, "--suites", "tinyworld", *line]) == 2
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "runs"]


def _after_loading(patch: pytest.MonkeyPatch, do: Callable[[], object], *, every_time: bool = False) -> None:
    """Have something happen once the first checkpoint is loaded, before it is measured."""
    done = list[bool]()

    def load_then(source: Any, device: Any) -> Any:
        model = load(source, device)
        if every_time or not done:
            done.append(True)
            do()
        return model

    patch.setattr(watching, "load", load_then)
