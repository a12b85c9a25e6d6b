from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from harness.core.rows import Example
from harness.core.seeds import seed_torch
from harness.methods.objective.sft import Sft
from harness.methods.tuning.frozen import Frozen
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.models.halves import FrozenHalves
from tests.support import tensor_bytes, tiny
from tests.support.losses import rows

LEARNED = rows(32)
STEPS = [LEARNED[i : i + 8] for i in range(0, 32, 8)]
STOPS = {2: 16, 4: 32}


def rounded() -> PreTrainedModel:
    """Weights that bfloat16 holds exactly, as nearly every large model's."""
    return tiny.llama().bfloat16().float()


def gpt2() -> PreTrainedModel:
    """Linear layers with transposed weights and biases."""
    seed_torch(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=tiny.VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def trained(make: Any, tuning: Any, seen: list[dict[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Merged weights after four steps, and stops; ``seen`` gets the state at each stop."""
    model = tuning.prepare(make(), 0)

    def stop(_: Any) -> None:
        seen.append(tiny.copied(model.state_dict()))

    reached = tiny.run(model, STEPS, Sft(), stops=STOPS, on_stop=stop, dtype="bfloat16", learning_rate=3e-3, tuning=tuning)
    return tuning.merged(model), tiny.but_for_time(reached)


@pytest.mark.parametrize("tuning", [Lora(rank=2), Frozen()], ids=["lora", "frozen"])
@pytest.mark.parametrize("make", [rounded, tiny.llama, tiny.gpt_neox, gpt2])
def test_no_number_of_a_training_changes(make: Any, tuning: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, losses and what a stop sees agree bit for bit, also for weights that get rounded."""
    seen: list[dict[str, torch.Tensor]] = []
    dtypes: list[set[torch.dtype]] = []
    halve = FrozenHalves.halve

    def watched(self: FrozenHalves) -> None:
        halve(self)
        dtypes.append({parameter.dtype for parameter in self.frozen})

    monkeypatch.setattr(FrozenHalves, "halve", watched)
    found = trained(make, tuning, seen)
    monkeypatch.setattr(FrozenHalves, "halve", lambda self: None)
    expected: list[dict[str, torch.Tensor]] = []
    weights, stops = trained(make, tuning, expected)
    assert dtypes == [{torch.bfloat16}] * 3
    assert tiny.same(found[0], weights)
    assert found[1] == stops
    assert all(tiny.same(one, other) for one, other in zip(seen, expected, strict=True))
    assert {value.dtype for state in seen for value in state.values()} == {torch.float32}


def test_a_model_that_computes_in_float32_inside_autocast_stays_float32() -> None:
    """Its layer would fail, or give other logits."""

    class Own(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())

    model = Lora(rank=2, modules=("q_proj",)).prepare(tiny.llama(), 0)
    for block in model.get_base_model().model.layers:  # type: ignore[operator]
        block.mlp.up_proj.__class__ = Own
    before = tiny.copied(model.state_dict())
    halves = FrozenHalves(model)
    halves.halve()
    assert tiny.same(model.state_dict(), before)


def test_nothing_is_frozen_under_full_tuning() -> None:
    """All weights keep their bits."""
    model = Full().prepare(tiny.llama(), 0)
    assert FrozenHalves(model).frozen == []


def test_the_frozen_base_needs_half_the_bytes_and_autograd_keeps_no_copy() -> None:
    """Of linear weights: 4 bytes a parameter plus a kept copy of 2, then 2 and no copy."""
    seed_torch(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4
    )
    model = Lora(rank=2).prepare(LlamaForCausalLM(config), 0)
    halves = FrozenHalves(model)
    linear = sum(parameter.numel() for parameter in halves.frozen)
    batch = Sft().collate([Example((1, 2, 3, 4), (True,) * 4, "target", row_id="0")], 0, 8)

    def measured() -> tuple[int, int]:
        saved = tensor_bytes.Saved()
        with saved, torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept = tensor_bytes.held(tensor for tensor in saved.tensors if tensor.untyped_storage().data_ptr() not in weights)
        assert loss is not None
        return tensor_bytes.held(halves.frozen), kept

    before = measured()
    halves.halve()
    after = measured()
    assert (before[0], after[0]) == (4 * linear, 2 * linear)
    assert before[1] - after[1] == 2 * (linear - 3 * 128 * 128)  # no gradient goes through q, k and v of the first block
