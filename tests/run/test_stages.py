"""Where a stage ends and the next begins: a fresh optimizer, a new warm-up, and the same bits however often training is broken off."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from harness.config.run_config import Training
from harness.core.progress import Interrupted
from harness.core.rows import Example
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.training.checkpoint import Checkpoint
from harness.training.loop import rate_multiplier, train
from tests.support import tiny

Weights = dict[str, torch.Tensor]


def steps() -> list[list[Example]]:
    """Four steps of 8 completion rows."""
    learned = [Sft().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows("completion", 32)]
    return [learned[i : i + 8] for i in range(0, 32, 8)]


def trained(taught: list[list[Example]], before: Weights | None = None, **options: Any) -> Weights:
    """The weights after full tuning from some weights."""
    model = tiny.llama()
    if before:
        model.load_state_dict(before, strict=False)
    model = Full().prepare(model, 0)
    tiny.run(model, taught, Sft(), **options)
    return tiny.copied(Full().merged(model))


def test_the_rate_warms_up_again_at_each_restart() -> None:
    """Worked out: 16 rows of warm-up, steps of 8, restarts after steps 2 and 3."""
    found = [rate_multiplier(step, 6, Training(warmup_rows=16), (2, 3)) for step in range(6)]
    assert found == [0.5, 1.0, 0.5, 0.5, 1.0, 1.0]


def test_a_stage_is_trained_like_a_run_from_the_weights_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps, then two more from there with an optimizer of their own: that is one run with a restart, and not one without."""
    training = Training(warmup_rows=16)
    first = trained(steps()[:2], training=training)
    second = trained(steps()[2:], first, training=training)
    without = trained(steps(), training=training)
    monkeypatch.setattr("harness.methods.contract.tiny.train", functools.partial(train, restarts=(2,)))
    assert tiny.same(trained(steps(), training=training), second)
    assert not tiny.same(without, second)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_training_goes_on_across_a_boundary_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Broken off before, at and after the boundary, whose state has moments that the next stage must not see."""
    monkeypatch.setattr("harness.methods.contract.tiny.train", functools.partial(train, restarts=(2,)))
    make = functools.partial(tiny.llama, attention_dropout=0.3)
    options: dict[str, Any] = {"training": Training(warmup_rows=16), "stops": {2: 16, 4: 32}, "seed": 3}
    whole, broken, again = (Full().prepare(make(), 0) for _ in range(3))
    tiny.run(whole, steps(), Sft(), **options)
    kept: list[Checkpoint] = []

    def keep(state: Checkpoint) -> None:
        kept.append(Checkpoint(state.counts, tiny.copied(state.tensors)))

    with pytest.raises(Interrupted):
        tiny.run(broken, steps(), Sft(), **options, on_state=keep, progress=tiny.Until(at))
    assert kept[-1].counts.step == at
    tiny.run(again, steps(), Sft(), **options, start=kept[-1])
    assert tiny.same(Full().merged(whole), Full().merged(again))
