from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from harness.config.run_config import Training
from harness.core.seeds import seed_torch
from harness.methods.objective.clm import Clm
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training import token_loss
from harness.training.token_loss import TokenLoss
from tests.support import tensor_bytes, tiny

SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def gemma2() -> PreTrainedModel:
    """A soft cap low enough to be felt."""
    seed_torch(0)
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.05))


def granite() -> PreTrainedModel:
    """Logits divided by 4."""
    seed_torch(0)
    return GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0))


def batch(objective: Any = None) -> dict[str, torch.Tensor]:
    """Eight rows that differ in length and targets."""
    kind: Any = "text" if isinstance(objective, Clm) else "completion"
    objective = objective or Sft()
    return dict(
        objective.collate(
            [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows(kind, 8)], tiny.PAD, tiny.MAX_LENGTH
        )
    )


def gradients(model: Any, given: dict[str, torch.Tensor], half: bool) -> tuple[float, dict[str, torch.Tensor], bool]:
    """Loss, gradients, and whether the head ran in chunks."""
    loss = TokenLoss(model, half)
    inputs = {name: value for name, value in given.items() if name != "labels"}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), loss.reading(given):
        outputs = model(**inputs, use_cache=False)
        value = loss(outputs, given["labels"], 50)
        chunked = loss.hidden is not None
    (2 * value).backward()  # as for two processes
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return float(value.detach()), found, chunked


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tuning", [Full(), Lora(rank=2)], ids=["full", "lora"])
@pytest.mark.parametrize("make", [tiny.llama, lambda: tiny.llama(tied=False), tiny.gpt_neox, gemma2, granite])
def test_loss_and_gradients_are_those_of_whole_logits(
    make: Callable[[], Any], tuning: Any, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks of three targets, for tied heads, soft caps and factors."""
    model, given = tuning.prepare(make(), 0), batch()
    expected, whole, chunked = gradients(model, given, half)
    assert not chunked
    monkeypatch.setattr(token_loss, "NUMBERS_AT_ONCE", 3 * tiny.VOCABULARY)
    value, found, chunked = gradients(model, given, half)
    assert chunked
    assert value == pytest.approx(expected, rel=1e-6)
    assert found.keys() == whole.keys()
    scale = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=(1e-2 if half else 1e-6) * scale)
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize(("objective", "kind"), [(Sft(), "completion"), (Clm(), "text")], ids=["sft", "clm"])
def test_a_training_in_chunks_and_micro_batches_is_the_same(objective: Any, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights agree up to rounding with those of whole logits."""
    learned = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows(kind, 16)]

    def trained(training: Training) -> dict[str, torch.Tensor]:
        model = Full().prepare(tiny.llama(), 0)
        tiny.run(model, [learned[:8], learned[8:]], objective, training=training, learning_rate=1e-3)
        return Full().merged(model)

    whole = trained(Training())
    monkeypatch.setattr(token_loss, "NUMBERS_AT_ONCE", 5 * tiny.VOCABULARY)
    for training in (Training(), Training(micro_batch_rows=3)):
        for name, value in trained(training).items():
            torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-5)


def test_a_batch_without_targets_has_a_loss_of_0_that_reaches_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes wait for each gradient."""
    model, given = Full().prepare(tiny.llama(tied=False), 0), batch()
    monkeypatch.setattr(token_loss, "NUMBERS_AT_ONCE", 1)
    value, found, chunked = gradients(model, given | {"labels": torch.full_like(given["labels"], -100)}, half=False)
    assert (value, chunked) == (0.0, True)
    assert found.keys() == dict(model.named_parameters()).keys()


def test_a_model_with_an_unknown_way_to_its_logits_computes_them_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that its config does not name."""
    model: Any = tiny.llama(tied=False)
    own = model.forward

    def doubled(*args: Any, **kwargs: Any) -> Any:
        found = own(*args, **kwargs)
        found.logits = 2 * found.logits
        return found

    monkeypatch.setattr(model, "forward", doubled)
    monkeypatch.setattr(token_loss, "NUMBERS_AT_ONCE", 1)
    assert not gradients(model, batch(), half=False)[2]


@pytest.mark.parametrize("tuning", [Full(), Lora(rank=2)], ids=["full", "lora"])
def test_the_peak_is_of_chunks_in_place_of_whole_logits(tuning: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """512 tokens, a vocabulary of 8,192: whole, 4 times the bytes of logits, then 0.3 times."""
    seed_torch(0)
    model: Any = tuning.prepare(LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": 8192, "max_position_embeddings": 512})), 0)
    ids = torch.arange(512).reshape(1, 512)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    peaks = []
    for numbers in (2**25, 2**18):
        monkeypatch.setattr(token_loss, "NUMBERS_AT_ONCE", numbers)
        with tensor_bytes.Peak() as peak:
            gradients(model, given, half=False)
        peaks.append(peak.bytes)
    logits = 512 * 8192 * 4
    assert peaks[0] > 4.0 * logits
    assert peaks[1] < 0.3 * logits
