from __future__ import annotations

import gc
import math
import os
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from harness.config.run_config import Training
from harness.core.contexts import Step
from harness.core.errors import ModelError, TrainingError
from harness.core.progress import Silent
from harness.core.rows import Example
from harness.core.seeds import seed_torch
from harness.methods.objective.clm import Clm
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training.job import Job, Stop
from harness.training.loop import rate_multiplier
from harness.training.step import split
from tests.support import tensor_bytes, tiny
from tests.support.losses import heavy

RATE = 1e-2


def some_steps(steps: int = 4, rows: int = 8) -> list[list[Example]]:
    """Completion rows of different lengths and shares of supervision."""
    learned = tiny.rows("completion", steps * rows)
    examples = [Sft().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in learned]
    return [examples[i : i + rows] for i in range(0, len(examples), rows)]


def trained(steps: list[list[Example]], make: Callable[..., PreTrainedModel] = tiny.llama, **options: Any) -> dict[str, torch.Tensor]:
    """The weights after full tuning."""
    model = Full().prepare(make(), 0)
    tiny.run(model, steps, options.pop("objective", Sft()), **options)
    return Full().merged(model)


def by_hand(model: PreTrainedModel, examples: list[Example]) -> float:
    """Mean nats per supervised token, row by row without padding, in numpy."""
    nats, count = 0.0, 0
    for row in examples:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.input_ids])).logits[0].double().numpy()
        for position in range(1, len(row.input_ids)):
            if row.supervised[position]:
                scores = logits[position - 1]
                nats += float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row.input_ids[position]])
                count += 1
    return nats / count


@pytest.mark.parametrize("micro_batch_rows", [None, 3])
@pytest.mark.parametrize("tuning", [Full(), Lora()], ids=["full", "lora"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt_neox])
def test_the_loss_is_the_mean_over_the_supervised_tokens(
    make: Callable[[], PreTrainedModel], tuning: Any, micro_batch_rows: int | None
) -> None:
    """It equals one computed in numpy row by row.

    This holds for plain and PEFT-wrapped models, whole and in micro-batches.
    """
    steps = some_steps(1)
    model = tuning.prepare(make(), 0)
    (stop,) = tiny.run(model, steps, Sft(), training=Training(micro_batch_rows=micro_batch_rows))
    assert stop.counts.train_loss == pytest.approx(by_hand(make(), steps[0]), rel=1e-5)


def test_one_step_is_adamw_on_the_clipped_gradient_of_that_mean() -> None:
    """The weights after one step are those of a plain loop, written out here."""
    (step,) = some_steps(1)
    training = Training(weight_decay=0.1, max_grad_norm=0.5, beta1=0.8, beta2=0.9, epsilon=1e-6)
    model = tiny.llama()
    batch = Sft().collate(step, tiny.PAD, tiny.MAX_LENGTH)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    after = trained([step], training=training, learning_rate=RATE)
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        gradient = weight.grad * min(1.0, 0.5 / float(norm))
        decayed = weight.detach() * (1 - RATE * (0.1 if weight.ndim > 1 else 0.0))
        # First step of Adam: both moments are corrected to the gradient itself and its square.
        expected = decayed - RATE * gradient / (gradient.abs() + 1e-6)
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("objective", "kind"), [(Sft(), "completion"), (Clm(), "text")], ids=["sft", "clm"])
def test_micro_batches_change_nothing_but_rounding(objective: Any, kind: Any) -> None:
    """Weights agree for every size of micro-batch.

    Rows differ in supervised tokens, and steps in rows.
    """
    learned = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows(kind, 30)]
    steps = [learned[:8], learned[8:19], learned[19:]]
    whole = trained(steps, objective=objective, learning_rate=1e-3)
    for rows in (1, 2, 8):
        parts = trained(steps, objective=objective, learning_rate=1e-3, training=Training(micro_batch_rows=rows))
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-5)


def test_a_micro_batch_is_cut_to_its_own_longest_row() -> None:
    """Nothing but padding is dropped."""
    batch = Sft().collate([tiny.example(5, 6), tiny.example(7), tiny.example(8, 9, 10, 11)], tiny.PAD, tiny.MAX_LENGTH)
    first, second = split(batch, 2)
    assert first["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert second["labels"].tolist() == [[-100, 9, 10, 11]]
    assert split(batch, None) == split(batch, 3) == [batch]


def test_a_penalty_is_added_once_a_step_and_is_no_part_of_the_loss_reported() -> None:
    """Its gradient moves the weights as much in eight micro-batches as in one.

    ``train_loss`` stays that of the data.
    """

    def penalty(model: PreTrainedModel, _: Step) -> torch.Tensor:
        return torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()

    steps = some_steps(2)
    plain, model = Full().prepare(tiny.llama(), 0), Full().prepare(tiny.llama(), 0)
    (without,) = tiny.run(plain, steps[:1], Sft())
    (with_penalty,) = tiny.run(model, steps[:1], Sft(), penalty=penalty)
    assert with_penalty.counts.train_loss == without.counts.train_loss
    assert not tiny.same(Full().merged(model), Full().merged(plain))
    whole, parts = (trained(steps, penalty=penalty, learning_rate=1e-3, training=Training(micro_batch_rows=m)) for m in (None, 1))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-5)


def test_evaluating_more_often_moves_no_weight_bit() -> None:
    """A stop may seed, draw, and set modes and threads, under dropout."""

    def meddle(stop: Stop) -> None:
        seed_torch(stop.counts.step)
        torch.rand(3)
        torch.set_num_threads(2)

    make = lambda: tiny.llama(attention_dropout=0.3)  # noqa: E731
    steps = some_steps(4)
    once = trained(steps, make, stops={4: 32}, on_stop=meddle)
    often = trained(steps, make, stops={1: 8, 2: 16, 3: 24, 4: 32}, on_stop=meddle)
    assert tiny.same(once, often)
    assert not tiny.same(once, trained(steps, tiny.llama)), "dropout was not on"


def test_a_smaller_volume_is_a_point_of_a_larger_run() -> None:
    """At a constant rate, the weights at a stop are those of a run that ends there."""
    steps, seen = some_steps(4), {}
    model = Full().prepare(tiny.llama(), 0)
    tiny.run(model, steps, Sft(), stops={2: 16, 4: 32}, on_stop=lambda stop: seen.update({stop.volume: Full().merged(model)}))
    assert tiny.same(seen[16], trained(steps[:2]))
    assert tiny.same(seen[32], Full().merged(model))


def test_stops_have_the_running_totals() -> None:
    """Volumes and steps, loss since the last stop, total operations, time without evaluation."""
    steps = some_steps(4)
    model = Full().prepare(tiny.llama(), 0)
    first, second = tiny.run(model, steps, Sft(), stops={1: 8, 4: 32}, on_stop=lambda _: time.sleep(0.5))
    assert [(first.counts.step, first.volume), (second.counts.step, second.volume)] == [(1, 8), (4, 32)]
    last = Full().prepare(tiny.llama(), 0)
    losses = tiny.run(last, steps, Sft(), stops={1: 8, 2: 16, 3: 24, 4: 32})
    targets = [sum(example.supervised_tokens for example in step) for step in steps]
    nats = sum((stop.counts.train_loss or 0) * count for stop, count in zip(losses[1:], targets[1:], strict=True))
    assert second.counts.train_loss == pytest.approx(nats / sum(targets[1:]))
    # 6 · tokens with padding · parameters outside the embeddings
    padded = [8 * max(len(example.input_ids) for example in step) for step in steps]
    weights = sum(p.numel() for name, p in last.named_parameters() if "embed" not in name)
    assert first.counts.flops == 6 * padded[0] * weights
    assert second.counts.flops == 6 * sum(padded) * weights
    assert 0 < second.counts.seconds < 0.5


def test_a_stop_sees_the_live_model_in_evaluation_mode() -> None:
    """Afterwards the model is as before: mode, cache setting, forward, threads."""
    model = Full().prepare(tiny.llama(), 0)
    threads, cache, forward = torch.get_num_threads(), model.config.use_cache, type(model).forward
    modes: list[bool] = []
    tiny.run(model, some_steps(2), Sft(), stops={1: 8, 2: 16}, on_stop=lambda _: modes.append(model.training))
    assert modes == [False, False]
    assert (model.training, model.config.use_cache, torch.get_num_threads()) == (False, cache, threads)
    assert model.forward.__func__ is forward  # type: ignore[attr-defined]


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_learning_rate_warms_up_over_rows_and_decays(decay: Any) -> None:
    """Computed by hand for 5 steps of 8 rows with 16 rows of warm-up."""
    training = Training(warmup_rows=16, decay=decay)
    expected = {
        "constant": [0.5, 1, 1, 1, 1],
        "linear": [0.5, 0.8, 0.6, 0.4, 0.2],
        "cosine": [0.5, *[(1 + math.cos(math.pi * done)) / 2 for done in (0.2, 0.4, 0.6, 0.8)]],
    }
    assert [rate_multiplier(step, 5, training) for step in range(5)] == pytest.approx(expected[decay])


def test_the_schedule_reaches_the_optimizer() -> None:
    """A step without decay and momentum has the size of the rate: half of it during warm-up."""
    steps = some_steps(1)
    base = tiny.llama().state_dict()
    whole, half = (trained(steps, training=Training(warmup_rows=rows), learning_rate=1e-4) for rows in (0, 16))
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(half[name] - base[name], 0.5 * (whole[name] - base[name]), rtol=0, atol=1e-7)


def test_bfloat16_is_autocast_over_float32_weights() -> None:
    """Weights stay float32 and move almost as in float32.

    The next run in the same process is float32 again, bit for bit.
    """
    steps = some_steps(2)
    full = trained(steps, learning_rate=1e-3)
    half = trained(steps, learning_rate=1e-3, dtype="bfloat16")
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert not tiny.same(full, half)
    moved = torch.cat([(full[name] - half[name]).flatten() for name in full])
    assert float(moved.abs().mean()) < 2e-4
    assert tiny.same(full, trained(steps, learning_rate=1e-3))


def checkpointing(model: PreTrainedModel) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@pytest.mark.parametrize("tuning", [Full(), Lora()], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing_but_memory(tuning: Any) -> None:
    """The same weights, for plain and adapted models.

    It is on during training and off afterwards.
    """
    steps, active = some_steps(2), []
    plain, model = tuning.prepare(tiny.llama(), 0), tuning.prepare(tiny.llama(), 0)
    tiny.run(plain, steps, Sft())
    training = Training(gradient_checkpointing=True)
    tiny.run(model, steps, Sft(), training=training, on_stop=lambda _: active.append(checkpointing(model)))
    expected, found = tuning.merged(plain), tuning.merged(model)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert active == [True]
    assert not checkpointing(plain)
    assert not checkpointing(model)


def test_gradient_checkpointing_keeps_a_tenth_of_the_activations() -> None:
    """Bytes that autograd keeps in four blocks, apart from weights: 6.0 MB, then 0.5."""

    def kept(training: Training) -> int:
        model, saved = Full().prepare(heavy(), 0), tensor_bytes.Saved()
        with saved:
            tiny.run(model, some_steps(1), Sft(), training=training)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        return tensor_bytes.held(tensor for tensor in saved.tensors if tensor.untyped_storage().data_ptr() not in weights)

    assert kept(Training(gradient_checkpointing=True)) < 0.1 * kept(Training())


@pytest.mark.parametrize(("able", "asked", "active"), [(True, None, True), (False, None, False), (True, False, False)])
def test_gradient_checkpointing_by_size_is_for_models_that_can_do_it(able: bool, asked: bool | None, active: bool) -> None:
    """Resolved as for a model of a billion parameters."""
    model, seen = Full().prepare(tiny.llama(), 0), []
    model.supports_gradient_checkpointing = able
    training = Training(gradient_checkpointing=asked)
    tiny.run(
        model, some_steps(1), Sft(), training=training, gradient_checkpointing=True, on_stop=lambda _: seen.append(checkpointing(model))
    )
    assert seen == [active]
    assert not checkpointing(model)


@pytest.mark.parametrize("tuning", [Full(), Lora()], ids=["full", "lora"])
def test_training_keeps_no_reference_to_the_model(tuning: Any) -> None:
    """Two models of successive runs must not be in memory at once."""
    model = tuning.prepare(tiny.llama(), 0)
    weights = [weakref.ref(parameter) for parameter in model.parameters()]
    tiny.run(model, some_steps(1), Sft())
    assert all(parameter.grad is None for parameter in model.parameters())
    gc.collect()
    gc.disable()
    try:
        tiny.run(model, some_steps(1), Sft())
        del model
        assert [weight() for weight in weights if weight() is not None] == []
    finally:
        gc.enable()


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step() -> None:
    """One line names the step; the weights are those before it."""
    steps = some_steps(3)
    calls: list[int] = []

    def penalty(model: PreTrainedModel, _: Step) -> torch.Tensor:
        calls.append(1)
        return torch.tensor(math.nan if len(calls) == 2 else 0.0)

    model = Full().prepare(tiny.llama(), 0)
    with pytest.raises(TrainingError, match=r"^training: got a penalty of nan in step 2; [^\n]*$"):
        tiny.run(model, steps, Sft(), penalty=penalty)
    assert tiny.same(Full().merged(model), trained(steps[:1]))
    broken = Full().prepare(tiny.llama(), 0)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.inf)
    with pytest.raises(TrainingError, match="a loss of nan in step 1"):
        tiny.run(broken, steps, Sft())


def test_a_step_without_targets_learns_nothing() -> None:
    """All its rows were cut before their answers: no loss, no error, no gradient."""
    step = [tiny.example(5, 6, 7, supervised=[])]
    assert tiny.same(trained([step]), Full().merged(tiny.llama()))
    (stop,) = tiny.run(Full().prepare(tiny.llama(), 0), [step], Sft())
    assert stop.counts.train_loss is None


def test_a_stop_beyond_the_last_step_is_rejected() -> None:
    """Its point would be missing without a message."""
    with pytest.raises(TrainingError, match="step 3; allowed: 1 to 2"):
        tiny.run(tiny.llama(), some_steps(2), Sft(), stops={3: 24})


def test_training_prints_nothing_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The Trainer writes no folders, logs or progress bars."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trained(some_steps(1))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_every_step() -> None:
    """One unit per step, so that the time left can be estimated."""

    class Counting(Silent):
        units = 0

        def advance(self, units: int = 1) -> None:
            self.units += units

    progress = Counting()
    tiny.run(tiny.llama(), some_steps(3), Sft(), stops={}, progress=progress)
    assert progress.units == 3


def test_a_single_process_ignores_variables_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's launcher sets ranks and sizes for its own purposes.

    Accelerate would wait for the others.
    """
    variables = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "PMI_SIZE": "2", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    trained(some_steps(1))
    assert {name: os.environ.get(name) for name in variables} == variables


def test_a_tuning_that_changes_the_start_model_is_rejected_with_the_difference() -> None:
    """LoRA starts at the start model; a tuning that scales a weight does not."""

    class Scaling(Full):
        def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.5)
            return super().prepare(model, seed)

    tuned: Any = Job.tuned
    for tuning in (Full(), Lora(rank=2)):
        tuned(SimpleNamespace(tuning=tuning, seed=0), tiny.llama())
    with pytest.raises(ModelError, match="logits that differ by .* once the tuning has prepared the model"):
        tuned(SimpleNamespace(tuning=Scaling(), seed=0), tiny.llama())
