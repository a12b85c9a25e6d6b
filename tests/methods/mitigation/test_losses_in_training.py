"""Loss mitigations in training: resumed, in micro-batches, with gradient checkpointing."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.run_config import Training
from harness.core.progress import Interrupted
from harness.methods.mitigation.ewc import Ewc
from harness.methods.mitigation.kl import Kl
from harness.methods.mitigation.l2 import L2
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.records.writer import ExperimentWriter
from harness.training.checkpoint import Checkpoints
from tests.support import tiny
from tests.support.losses import context, rows

LEARNED = rows(48)
STEPS = [LEARNED[i : i + 8] for i in range(0, 48, 8)]
STOPS = {2: 16, 6: 48}

METHODS = {
    "kl": Kl(weight=0.5),
    "kl on the anchor": Kl(inputs="anchor", anchor_batch=3),
    "ewc": Ewc(fisher_rows=5),
    "l2": L2(),
}
TUNINGS: dict[str, Any] = {"full": Full(), "lora": Lora(rank=2, dropout=0.2)}


def trained(method: Any, tuning: Any, **options: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Weights and stops of six steps; of an interrupted training, no stops."""
    model, given = context(tiny.llama(attention_dropout=0.3), tuning, rows(7, seed=1, origin="anchor"))
    reached: list[Any] = []
    with contextlib.suppress(Interrupted):
        reached = tiny.run(model, STEPS, Sft(), penalty=method.penalty(given), stops=STOPS, seed=3, learning_rate=3e-3, **options)
    return tuning.merged(model), tiny.but_for_time(reached)


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("name", METHODS)
def test_resuming_from_a_checkpoint_equals_never_having_stopped(name: str, tuning: str, tmp_path: Path) -> None:
    """Interrupted after a stop and between two: weights and stops agree bit for bit.

    The mean penalty is one of the stops' values.
    """
    method, way = METHODS[name], TUNINGS[tuning]
    weights, stops = trained(method, way)
    assert all(stop.counts.train_penalty > 0 for stop in stops)
    for until in (2, 4):
        states = Checkpoints(ExperimentWriter(tmp_path / str(until)), "run")
        trained(method, way, progress=tiny.Until(until), on_state=states.save)
        torch.rand(5)
        start = states.newest(lambda _: True)
        assert start is not None
        assert start.counts.step == until
        after, reached = trained(method, way, start=start)
        assert tiny.same(after, weights)
        assert reached == stops[1 if until > 2 else 0 :]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21 asks for it, see harness/methods/tuning/lora.py
@pytest.mark.parametrize("training", [Training(gradient_checkpointing=True), Training(micro_batch_rows=3)], ids=["checkpointing", "micro"])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("name", METHODS)
def test_what_saves_memory_changes_rounding_alone(name: str, tuning: str, training: Training) -> None:
    """The penalty is added once a step for any micro-batches.

    Its own passes are compatible with checkpointing.
    """
    way = dataclasses.replace(TUNINGS[tuning], dropout=0.0) if tuning == "lora" else TUNINGS[tuning]
    penalties = []
    for how in (Training(), training):
        model, given = context(tiny.llama(), way, rows(7, seed=1, origin="anchor"))
        reached = tiny.run(
            model, STEPS[:3], Sft(), penalty=METHODS[name].penalty(given), training=how, stops={3: 24}, seed=3, learning_rate=1e-3
        )
        penalties.append([stop.counts.train_penalty for stop in reached])
    assert penalties[1] == pytest.approx(penalties[0], rel=1e-3)
