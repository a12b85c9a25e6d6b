"""The progress of a training elsewhere, from its trainer_state.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.external.checkpoints import states
from tests.support import trainings


def test_state_of_a_checkpoint(tmp_path: Path) -> None:
    found = states.read(trainings.checkpoint(tmp_path, 10))
    assert found == states.TrainerState(
        step=10, planned_steps=30, tokens=1000, loss=2.5, world_size=1, rows_per_step=None, is_finished=False
    )  # the accumulation is in no file: rows are unknown, not guessed


def test_nan_unknown_keys_and_missing_fields_are_read(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(
        '{"global_step": 3, "of_a_later_version": [1], "log_history": [{"loss": NaN}], "max_steps": 0}'
    )
    found = states.read(tmp_path)
    assert found == states.TrainerState(
        step=3, planned_steps=None, tokens=None, loss=None, world_size=None, rows_per_step=None, is_finished=False
    )


@pytest.mark.parametrize("text", ["", '{"global_step": 3, "log_hist', "[]", '{"max_steps": 3}', '{"global_step": true}'])
def test_half_written_state_is_unknown(tmp_path: Path, text: str) -> None:
    (tmp_path / "trainer_state.json").write_text(text)
    assert states.read(tmp_path) is None


def test_missing_state_is_unknown(tmp_path: Path) -> None:
    assert states.read(tmp_path) is None


def test_tokens_of_a_resumed_training_are_added(tmp_path: Path) -> None:
    history = [{"num_tokens": float(count)} for count in (100, 200, 50, 150, 30)]
    folder = trainings.checkpoint(tmp_path, 10, log_history=[*history, {"eval_loss": 1.0}, "not an entry"])
    found = states.read(folder)
    assert found is not None
    assert found.tokens == 200 + 150 + 30


def test_tokens_that_the_trainer_counted_come_first(tmp_path: Path) -> None:
    found = states.read(trainings.checkpoint(tmp_path, 10, num_input_tokens_seen=777))
    assert found is not None
    assert found.tokens == 777


@pytest.mark.parametrize(
    ("arguments", "ranks", "rows"),
    [
        ({"gradient_accumulation_steps": 2}, 3, 4 * 2 * 3),
        ({"gradient_accumulation_steps": 2}, 0, None),  # save_only_model: the number of processes is unknown
        ({}, 3, None),
        ({"gradient_accumulation_steps": 2, "sequence_parallel_size": 3}, 3, None),
        ({"gradient_accumulation_steps": 2, "packing": True}, 3, None),
        ({"gradient_accumulation_steps": 2, "rlhf_type": "grpo"}, 3, None),
    ],
)
def test_rows_are_known_where_all_factors_are(tmp_path: Path, arguments: dict[str, object], ranks: int, rows: int | None) -> None:
    folder = trainings.checkpoint(tmp_path, 10)
    (folder / "rng_state.pth").unlink()
    for rank in range(ranks):
        (folder / f"rng_state_{rank}.pth").touch()
    (folder / "args.json").write_text(json.dumps(arguments))
    found = states.read(folder)
    assert found is not None
    assert found.rows_per_step == rows


def test_end_of_a_training(tmp_path: Path) -> None:
    """By its last step, or by the flag of a training that was stopped."""
    stopped = {"TrainerControl": {"args": {"should_training_stop": True}}}
    folders = [trainings.checkpoint(tmp_path, 30), trainings.checkpoint(tmp_path, 20, stateful_callbacks=stopped)]
    assert [found.is_finished for folder in folders if (found := states.read(folder))] == [True, True]
