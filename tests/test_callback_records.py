"""Records of trainings with the callback: table, resume, stop, following a watch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

import harness
from harness import ForgettingCallback
from harness.external.checkpoints.live import LiveModel, LiveRun, Request
from harness.external.checkpoints.summary_file import Measured, Summary
from tests.support import callbacks
from tests.support.callbacks import SUITE, model_of, train, trainer_of

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    return callbacks.tokenizer()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return callbacks.own_folder(tmp_path, monkeypatch)


def volumes(name: str = "callback") -> list[int]:
    """The points of the only current run of an experiment, read as a user would."""
    table = harness.load(name).table()
    assert table["run_id"].nunique() == 1
    return [int(volume) for volume in sorted(table.loc[table["task"] == "*", "volume"])]


def test_a_training_is_recorded_like_any_run(words: PreTrainedTokenizerBase) -> None:
    """Rows on the axis, since the batch is known: 4 a step. A target has its own role."""
    callback = ForgettingCallback(["tinyworld_arithmetic"], every=3, limit=20, target=[SUITE]).attach(trainer_of(words))
    train(callback.trainer)
    table = harness.load("callback").table()
    whole = table[table["task"] == "*"]
    assert volumes() == [0, 0, 12, 12, 24, 24]
    assert set(table["axis"]) == {"rows"}
    assert set(zip(whole["suite"], whole["role"], strict=True)) == {("tinyworld_arithmetic", "probe"), (SUITE, "target")}
    logged = callback.trainer.state.log_history[-3 if "loss" in callback.trainer.state.log_history[-2] else -2]
    last = whole[(whole["volume"] == 24) & (whole["suite"] == SUITE)].iloc[0]
    assert logged[f"eval_forgetting_{SUITE}"] == pytest.approx(-last["delta"])
    assert set(harness.load("callback").findings()["suite"]) == {"tinyworld_arithmetic", SUITE}


def test_the_size_of_a_model_is_without_its_adapter() -> None:
    """As the base has it, of which the adapter's runs are."""
    sizes = [
        LiveModel(name="", weights="").of(callbacks.model_of(adapter=adapter), callbacks.tokenizer()).facts() for adapter in (False, True)
    ]
    assert sizes[0].params_total == sizes[1].params_total == sum(one.numel() for one in callbacks.model_of().parameters())


def test_a_resumed_training_keeps_its_start_and_replaces_later_points(
    words: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six steps, resumed at step 2: step 0 is not measured again, those after step 2 are."""
    saves = {"save_strategy": "steps", "save_steps": 2}
    first = trainer_of(words, **saves)
    ForgettingCallback([SUITE], every=1).attach(first)
    train(first)
    before = harness.load("callback").table()
    again = trainer_of(words, **saves)
    ForgettingCallback([SUITE], every=2).attach(again)
    capsys.readouterr()
    train(again, resume_from_checkpoint="out/checkpoint-2")
    assert "4 points of an earlier training of out after step 2 are dropped" in capsys.readouterr().err
    assert volumes() == [0, 4, 8, 16, 24]
    after = harness.load("callback").table()
    kept = ["volume", "suite", "task", "value", "delta"]
    assert before[before["volume"] == 24][kept].values.tolist() == after[after["volume"] == 24][kept].values.tolist()


def test_the_callback_joins_an_old_training(words: PreTrainedTokenizerBase, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its start is unknown: losses are relative to the step at which it resumes. Saving works."""
    saves = {"save_strategy": "steps", "save_steps": 2}
    train(trainer_of(words, **saves))
    joined = trainer_of(words, **saves)
    ForgettingCallback([SUITE], every=2).attach(joined)
    capsys.readouterr()
    train(joined, resume_from_checkpoint="out/checkpoint-2")
    assert "losses are relative to step 2, at which the training resumes" in capsys.readouterr().err
    assert volumes() == [0, 16, 24]
    assert (here / "out" / "checkpoint-6" / "trainer_state.json").is_file()


def test_a_resumed_training_is_told_from_others_in_its_folder_by_its_weights(words: PreTrainedTokenizerBase, here: Path) -> None:
    """Two that were measured keep their own starts and points; a third one starts anew."""
    said = list[str]()

    def run(model: Any, resumed_at: int) -> LiveRun:
        own: dict[str, Any] = {"suites": (SUITE,), "target": (), "limit": 2, "stop_at": {}, "overrides": (), "measurements": 3}
        place: dict[str, Any] = {"name": "callback", "results": str(here / "results"), "training": "out", "planned_steps": 6}
        request = Request(**own, **place, rows_per_step=None, half_precision=False, resumed_at=resumed_at)
        return LiveRun(request, model, words, said.append)

    models, runs = [_moved(model_of(), by) for by in (0.0, 0.01, 0.02)], list[LiveRun]()
    for model in models[:2]:
        runs.append(run(model, 0))
        for step in (0, 2, 4):
            runs[-1].measure(step, _moved(model, 1e-3 if step == 2 else 0.0), None)
    assert [run(model, 2).run.run_id for model in models[:2]] == [one.run.run_id for one in runs]
    assert said == []
    run(models[2], 2).measure(2, models[2], None)
    assert len(said) == 1
    assert "losses are relative to step 2, at which the training resumes" in said[0]
    assert [runs[0].run.prepared.experiment.volumes(one.run.run_id) for one in runs] == [[2, 4], [2, 4]]


def _moved(model: Any, by: float) -> Any:
    with torch.no_grad():
        for weight in model.parameters():
            weight += by
    return model


def test_a_training_that_forgets_is_stopped(words: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]) -> None:
    """At a rate that destroys what was known, long before its 60 steps."""
    trainer = trainer_of(words, num_train_epochs=20, learning_rate=0.1)
    ForgettingCallback([SUITE], every=3, stop_at={SUITE: 0.1}).attach(trainer)
    train(trainer)
    assert trainer.state.global_step < 60
    assert f"; the training stops: {SUITE} lost at least 0." in capsys.readouterr().err


def test_a_training_follows_the_file_of_a_watch(words: PreTrainedTokenizerBase, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest checkpoint so far decides, not what was in the file before, or is to come."""
    suite: dict[str, Any] = {"unit": "share", "metric": "acc", "n": 100, "before": 0.9, "after": 0.7, "loss": 0.2, "interval": [0.1, 0.3]}
    suite |= {"stderr": 0.02, "df": 99.0, "verdict": "lost"}

    def write(*steps: int) -> None:
        summary = Summary(base="base", output="out", evaluations={})
        unknown: dict[str, Any] = {"rows": None, "tokens": None, "training_loss": None}
        for step in steps:
            summary.add(Measured(checkpoint=f"checkpoint-{step}", volume=step, step=step, seconds=1.0, suites={SUITE: suite}, **unknown))
        summary.write(here / "forgetting.json")

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                write(2, 9)

    write(1)
    trainer = trainer_of(words)
    trainer.add_callback(Watch())
    ForgettingCallback(follow="forgetting.json", every=1, stop_at={SUITE: 0.1}).attach(trainer)
    train(trainer)
    assert trainer.state.global_step == 3
    assert "checkpoint-2, read at step 3: short 0.900 → 0.700, loss 0.200 [0.100, 0.300], limit 0.1" in capsys.readouterr().err
    assert not (here / "results").exists()
