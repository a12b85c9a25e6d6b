"""Losses of a few steps of SFT and DPO next to those of TRL's own trainers on the same rows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from harness.config.run_config import Training
from harness.core.methods import Objective
from harness.core.rows import Row, RowKind
from harness.methods.contract import tiny
from harness.methods.objective.dpo import Dpo
from harness.methods.objective.sft import Sft

pytestmark = pytest.mark.model

RATE, STEPS, SIZE = 1e-2, 4, 2


def theirs(rows: list[Row], folder: Path) -> list[float]:
    """Train as TRL does, without shuffling and at a constant rate; return the loss of each step."""
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    pairs = rows[0].kind == "preference"
    names = ["prompt", "chosen", "rejected"] if pairs else ["prompt", "completion"]
    data = Dataset.from_list([dict(zip(names, (turn.content for turn in row.turns), strict=True)) for row in rows])
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": SIZE,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "max_length": tiny.MAX_LENGTH,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": None,
    }
    given: dict[str, Any] = {"model": tiny.llama(), "train_dataset": data, "processing_class": copy.deepcopy(tiny.tokenizer())}
    trainer: Any
    if pairs:
        trainer = DPOTrainer(**given, args=DPOConfig(**settings, beta=0.1), ref_model=tiny.llama())
    else:
        trainer = SFTTrainer(**given, args=SFTConfig(**settings))
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # TRL reads the old name
@pytest.mark.parametrize(("objective", "kind"), [(Sft(), "completion"), (Dpo(beta=0.1), "preference")])
def test_losses_of_the_first_steps_are_those_of_trl(tmp_path: Path, objective: Objective, kind: RowKind) -> None:
    """Each step's, after the updates of those before it, in float32."""
    rows = tiny.rows(kind, STEPS * SIZE)
    examples = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in rows]
    steps = [examples[i : i + SIZE] for i in range(0, len(examples), SIZE)]
    stops = {number: number * SIZE for number in range(1, STEPS + 1)}
    ours = [stop.counts.train_loss for stop in tiny.run(tiny.llama(), steps, objective, training=Training(batch_rows=SIZE), stops=stops)]
    found = theirs(rows, tmp_path)
    assert len(found) == STEPS
    assert ours == pytest.approx(found, abs=1e-5)
