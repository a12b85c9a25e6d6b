"""An output folder over time, without a training and without waiting: the clock is an argument."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.external.checkpoints import finding, polling
from harness.external.checkpoints.polling import Polled
from tests.support import trainings

PAUSE = 5.0


@pytest.fixture
def polled(tmp_path: Path) -> Polled:
    """Of a folder that does not exist yet."""
    return Polled(tmp_path / "out", PAUSE)


def _ready(polled: Polled, now: float) -> list[str]:
    polled.poll(now)
    return [folder.name for folder in polled.ready()]


def _newer(folder: Path, seconds: int) -> None:
    """Set all files of a checkpoint to a time."""
    for file in folder.iterdir():
        os.utime(file, (1_000_000 + seconds,) * 2)


def test_checkpoint_is_ready_once_it_is_unchanged_for_a_pause(polled: Polled) -> None:
    assert _ready(polled, 0) == []
    folder = trainings.checkpoint(polled.output, 10)
    assert _ready(polled, 1) == []
    assert _ready(polled, 5) == []
    (folder / "rng_state_1.pth").touch()  # another process of the training
    assert _ready(polled, 6) == []
    assert _ready(polled, 10) == []
    assert _ready(polled, 11) == ["checkpoint-10"]
    polled.take(folder, finding.signature(folder))
    assert _ready(polled, 20) == []


def test_newest_comes_first_then_those_before_it(polled: Polled) -> None:
    for step, seconds in ((9, 0), (10, 10), (8, 20)):  # 8 is of a later training in the same folder
        _newer(trainings.checkpoint(polled.output, step), seconds)
    polled.poll(0)
    assert _ready(polled, 5) == ["checkpoint-8", "checkpoint-10", "checkpoint-9"]


def test_rewriting_in_place_waits_for_the_new_state_and_counts_as_a_new_checkpoint(polled: Polled) -> None:
    """The old trainer_state.json is there while the new weights are written."""
    folder = trainings.checkpoint(polled.output, 10)
    _newer(folder, 0)
    polled.poll(0)
    assert _ready(polled, 5) == ["checkpoint-10"]
    polled.take(folder, finding.signature(folder))
    (folder / "model.safetensors").write_bytes(trainings.safetensors(1))
    for now in range(6, 100, 10):
        assert _ready(polled, now) == []
    assert "older than the weights" in polled.waiting["checkpoint-10"]
    (folder / "trainer_state.json").write_text(trainings.state(10))
    assert _ready(polled, 100) == []
    assert _ready(polled, 105) == ["checkpoint-10"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "checkpoint-is-incomplete.txt").touch(), "being saved"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights: half-written"),
        (lambda folder: (folder / "trainer_state.json").write_text(trainings.state(20)), "the state of step 20"),
    ],
)
def test_incomplete_checkpoint_waits_with_its_reason(polled: Polled, damage: object, words: str) -> None:
    folder = trainings.checkpoint(polled.output, 10)
    assert callable(damage)
    damage(folder)
    polled.poll(0)
    assert _ready(polled, 1000) == []
    assert words in polled.waiting["checkpoint-10"]


def test_checkpoint_without_a_state_waits_longer(polled: Polled) -> None:
    trainings.checkpoint(polled.output, 10, with_state=False)
    polled.poll(0)
    assert _ready(polled, PAUSE * polling.LONGER - 1) == []
    assert _ready(polled, PAUSE * polling.LONGER) == ["checkpoint-10"]


def test_deleted_checkpoints_are_recorded_unless_they_were_measured(polled: Polled) -> None:
    """Files of a folder vanish one by one, of a measured checkpoint too."""
    measured, other = (trainings.checkpoint(polled.output, step) for step in (10, 20))
    polled.poll(0)
    polled.take(measured, finding.signature(measured))
    for folder in (measured, other):
        (folder / "model.safetensors").unlink()
    assert _ready(polled, 10) == []
    assert "checkpoint-10" not in polled.waiting
    for folder in (measured, other):
        shutil.rmtree(folder)
    assert _ready(polled, 20) == []
    assert polled.waiting == {"checkpoint-20": polling.DELETED}


def test_folder_that_vanishes_between_listing_and_reading(polled: Polled, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trainings.checkpoint(polled.output, 10)
    monkeypatch.setattr(finding, "numbered", lambda _: [folder, polled.output / "checkpoint-11"])
    polled.poll(0)
    assert _ready(polled, PAUSE) == ["checkpoint-10"]


def test_end_of_a_training(polled: Polled) -> None:
    """The newest checkpoint says so, and every other is measured, deleted, or stays incomplete."""
    last = trainings.checkpoint(polled.output, 30)
    broken = trainings.checkpoint(polled.output, 20)
    (broken / "model.safetensors").unlink()
    _newer(broken, 0)
    _newer(last, 10)
    polled.poll(0)
    assert not polled.is_over()
    polled.poll(PAUSE)
    polled.take(last, finding.signature(last))
    assert not polled.is_over()
    polled.poll(PAUSE * polling.LONGER)
    assert polled.is_over()
    trainings.checkpoint(polled.output, 10)  # a new training into the same folder
    polled.poll(100)
    assert not polled.is_over()


def test_growing_logs_are_a_change(polled: Polled) -> None:
    (polled.output / "runs" / "host").mkdir(parents=True)
    log = polled.output / "runs" / "host" / "events"
    for now, text in ((0, ""), (1, "a"), (2, "a"), (3, "ab")):
        log.write_text(text)
        os.utime(log, (0, 0))
        polled.poll(now)
        assert polled.changed == {2: 1}.get(now, now)
