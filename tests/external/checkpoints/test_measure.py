"""`harness measure` on tiny saved models: points of a run, equal to those of `harness compare`."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import harness
from harness.cli import app
from harness.config import composition
from harness.core.seeds import seed_torch, untouched_global_streams
from harness.external.checkpoints import command, finding, plan
from harness.models import loading
from tests.support import saved, tiny, trainings

pytestmark = pytest.mark.model

SUITES = "tinyworld_arithmetic"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and out/ with checkpoint-9, checkpoint-10 and final weights equal to the last."""
    folder = tmp_path_factory.mktemp("measured")
    words = composition.member("model", "nursery-smoke-a").tokenizer()
    _save(tiny.llama(vocab_size=len(words), max_position_embeddings=64), words, folder / "base")
    for step, noise in ((9, 0.05), (10, 0.1)):
        with untouched_global_streams():
            seed_torch(step)
            model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(noise * torch.randn_like(weight))
        _save(model, words, folder / "out" / f"checkpoint-{step}")
        (folder / "out" / f"checkpoint-{step}" / "trainer_state.json").write_text(trainings.state(step))
    _save(model, words, folder / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about an attribute that PEFT reads
        saved.trained(folder / "base", folder / "adapter", **saved.EVERYTHING)
    words.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def measured(place: Path) -> Path:
    """The results of measuring out/ and the adapter, at steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert app.main(["measure", "base", "out", "adapter", "--name", "all", "--suites", SUITES, "--limit", "24"]) == 0
    return place / "results" / "all"


def _save(model: Any, words: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def test_checkpoints_are_points_of_a_run(place: Path, measured: Path) -> None:
    """Volumes are steps; what the trainer says is in the table, what nobody says is empty."""
    table = harness.load(measured).table()
    rows = table[(table["task"] == "*") & (table["volume"] > 0)].set_index(["data", "volume"])
    assert sorted(rows.index) == [("adapter", 1), ("out", 9), ("out", 10)]
    assert dict(rows["axis"]) == {("out", 9): "steps", ("out", 10): "steps", ("adapter", 1): "checkpoint"}
    assert rows.loc[("out", 10), "train_tokens"] == 1000
    assert rows.loc[("out", 10), "train_loss"] == 2.5
    assert rows[["weight_change", "learning_rate", "target_rows", "params_trainable"]].isna().all(axis=None)
    assert dict(rows["tuning"]) == {("out", 9): "full", ("out", 10): "full", ("adapter", 1): "lora"}


def test_losses_are_those_of_compare(place: Path, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    compared = harness.compare("base", "adapter", suites=[SUITES], overrides=["evaluation.limit=24"], quiet=True)
    table = harness.load(measured).table()
    own = table[(table["data"] == "adapter") & (table["volume"] == 1) & (table["task"] == "*")].iloc[0]
    other = compared[compared["task"] == "*"].iloc[0]
    assert [own["before"], own["value"], own["delta_low"]] == pytest.approx([other["before"], other["after"], other["delta_low"]], abs=1e-6)


def test_what_is_measured_is_not_loaded_again(
    place: Path, measured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The final weights equal the last checkpoint's: they were measured once."""

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.chdir(place)
    monkeypatch.setattr(command, "load", refuse)
    assert app.main(["measure", "base", "out", "adapter", "--name", "all", "--suites", SUITES, "--limit", "24"]) == 0
    out, told = capsys.readouterr()
    assert [line.split()[:3] for line in out.splitlines() if " steps" in line] == [["out", "9", "steps"], ["out", "10", "steps"]]
    assert "out: the same weights as out/checkpoint-10, measured once" in told


def test_page_names_the_unit_of_its_axis(measured: Path) -> None:
    page = (measured / "report" / "index.html").read_text()
    assert "volumes (steps or checkpoints)" in page
    assert "target rows, log scale" not in page


def test_rerun_in_place_replaces_the_point(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("base", "out"):
        shutil.copytree(place / name, tmp_path / name)
    assert _measure(tmp_path, "base", "out", "--name", "all") == 0
    before = _values(tmp_path)
    shutil.copy(tmp_path / "out" / "checkpoint-9" / "model.safetensors", tmp_path / "out" / "checkpoint-10")
    shutil.rmtree(tmp_path / "out" / "checkpoint-9")
    assert _measure(tmp_path, "base", "out/checkpoint-10", "--name", "all") == 0
    assert _values(tmp_path) == before | {10: before[9]}
    assert "other weights than were measured at 10 steps: they replace them" in capsys.readouterr().err


@pytest.mark.parametrize(("loss", "told"), [(2.5, False), (1.5, True)])
def test_points_of_an_earlier_training_are_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: float, told: bool
) -> None:
    """The first training logged 2.5 at step 9; a log with another loss there is of a second one."""
    for name in ("base", "out"):
        shutil.copytree(place / name, tmp_path / name)
    assert _measure(tmp_path, "base", "out/checkpoint-9", "--name", "all") == 0
    shutil.rmtree(tmp_path / "out" / "checkpoint-9")
    log = [{"step": 8, "loss": loss}, {"step": 10, "loss": 1.0}]
    (tmp_path / "out" / "checkpoint-10" / "trainer_state.json").write_text(trainings.state(10, log_history=log))
    assert _measure(tmp_path, "base", "out/checkpoint-10", "--name", "all") == 0
    line = "out: points of an earlier training are among its own in results/all, at 9 steps; fix: --name OTHER"
    assert (line in capsys.readouterr().err) == told


def _values(place: Path) -> dict[int, float]:
    table = harness.load(place / "results" / "all").table()
    rows = table[(table["data"] == "out") & (table["task"] == "*")]
    return dict(zip(rows["volume"], rows["value"], strict=True))


def _placed(place: Path, *sources: str, rows: int | None = None) -> list[tuple[str, int, str]]:
    return [
        (one.training.name, one.volume, one.training.axis)
        for one in plan.placed(finding.find([str(place / name) for name in sources]), rows)
    ]


def _measure(place: Path, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return app.main(["measure", *arguments, "--suites", SUITES, "--limit", "24"])


def test_another_training_or_axis_under_one_name_is_rejected(
    place: Path, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    assert _measure(place, "base", str(tmp_path / "out"), "--name", "all") == 2
    assert "whose checkpoints have this name there; fix: --name OTHER" in capsys.readouterr().err
    assert _measure(place, "base", "out", "--name", "all", "--rows-per-step", "8") == 2
    assert "got rows of 8 a step; allowed: steps" in capsys.readouterr().err


def test_final_weights_with_a_state_of_their_own(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As save_model and save_state leave them: they are the last checkpoint once more."""
    shutil.copytree(place / "base", tmp_path / "base")
    shutil.copytree(place / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-9")
    shutil.copy(tmp_path / "out" / "checkpoint-10" / "trainer_state.json", tmp_path / "out")
    assert _measure(tmp_path, "base", "out") == 0
    assert "the same weights as out/checkpoint-10, measured once" in capsys.readouterr().err


def test_tokens_with_other_ids_are_rejected(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copytree(place / "out" / "checkpoint-9", tmp_path / "moved")
    text = json.loads((moved / "tokenizer.json").read_text())
    words = text["model"]["vocab"]
    (one, two), (first, second) = ("hugo", "nord"), (words["hugo"], words["nord"])
    text["model"]["vocab"] |= {one: second, two: first}
    (moved / "tokenizer.json").write_text(json.dumps(text))
    assert _measure(place, "base", str(moved)) == 2
    assert "other ids for 2 tokens of the base's" in capsys.readouterr().err


def test_an_adapter_on_another_model_is_labelled(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the page show the tuning; a copy of the base is the base."""
    shutil.copytree(place / "base", tmp_path / "base")
    shutil.copytree(place / "base", tmp_path / "copy")
    shutil.copytree(place / "out" / "checkpoint-9", tmp_path / "other")
    for name in ("copy", "other"):
        folder = shutil.copytree(place / "adapter", tmp_path / f"on-{name}")
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(tmp_path / name)}))
    assert _measure(tmp_path, "base", "on-copy", "on-other", "--name", "both") == 0
    tunings = harness.load(tmp_path / "results" / "both").table().groupby("data")["tuning"].first()
    assert dict(tunings) == {"on-copy": "lora", "on-other": f"lora on {tmp_path}/other"}
    assert f"on-other is on {tmp_path}/other, not on base: its losses include what separates the two" in capsys.readouterr().err
    page = (tmp_path / "results" / "both" / "report" / "index.html").read_text()
    assert f"lora on {tmp_path}/other" in page


def test_gate_needs_the_last_checkpoint_whole(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(place / "out", tmp_path / "out")
    weights = out / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert _measure(place, "base", str(out), "--max-loss", "0.5") == 2
    assert "checkpoint-10" in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_change_while_they_are_loaded_are_not_recorded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(place / "out" / "checkpoint-9", tmp_path / "own")

    def overwriting(*given: Any) -> Any:
        shutil.copy(place / "out" / "checkpoint-10" / "model.safetensors", own)
        return loading.load(*given)

    monkeypatch.setattr(command, "load", overwriting)
    assert _measure(place, "base", str(own), "--name", "changing") == 2
    assert "the same files until it is loaded" in capsys.readouterr().err
    runs = place / "results" / "changing" / "runs"
    assert not list(runs.glob("*/points/*"))


def test_places_on_the_axis(place: Path) -> None:
    assert _placed(place, "out")[:2] == [("out", 9, "steps"), ("out", 10, "steps")]
    assert _placed(place, "out", rows=16)[:2] == [("out", 144, "rows"), ("out", 160, "rows")]
    revisions = plan.placed(finding.find(["org/name@step2000", "org/name@step1000", "org/name@main"]), None)
    assert [(one.training.name, one.volume, one.training.axis) for one in revisions] == [
        ("org/name", 1000, "steps"), ("org/name", 2000, "steps"), ("org/name@main", 1, "checkpoint"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["base"], ["BASE and at least one CHECKPOINT"]),
        (["base", "./nowhere"], ["a path that does not exist"]),
        (["base", "out", "--suites", "nothing_at_all"], ["nothing_at_all"]),
        (["base", "out", "--suites", SUITES, "--target", SUITES], ["measure: --suites: got tinyworld_arithmetic, all of which --target"]),
        (["base", "out", "probe_suites=[blimp]"], ["probe_suites", "--suites"]),
    ],
)
def test_wrong_input_is_one_line(
    place: Path, arguments: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert app.main(["measure", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in words), error
    assert not (place / "results" / "out").exists()


def test_table_of_a_training_is_whole(measured: Path) -> None:
    """Findings carry the base's label as model, and a verdict of these weights."""
    findings = harness.load(measured).findings()
    whole = findings[findings["task"] == "*"]
    assert set(whole["seeds"].dropna()) == {1}
    assert isinstance(whole, pd.DataFrame)
    assert whole["verdict"].notna().all()
