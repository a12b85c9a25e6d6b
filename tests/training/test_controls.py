"""Controls of training: dropout, and the floor of a decay."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from harness.config.run_config import Training
from harness.core.errors import ConfigError, TrainingError
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training.dropout import dropping
from harness.training.loop import rate_multiplier
from tests.support import tiny
from tests.support.losses import rows

STEPS = [rows(8), rows(8, seed=1)]


def gpt2(rate: float = 0.0) -> PreTrainedModel:
    sizes: dict[str, Any] = {"vocab_size": tiny.VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate)).eval()


def weights(make: Any, tuning: Any = None, seed: int = 0, **training: Any) -> dict[str, torch.Tensor]:
    tuning = tuning or Full()
    model = tuning.prepare(make(), 0)
    tiny.run(model, STEPS, Sft(), training=Training(**training), seed=seed, learning_rate=1e-3)
    return tuning.merged(model)


def test_the_rate_is_set_wherever_the_model_can_drop_and_put_back() -> None:
    """In llama attention weights alone.

    In gpt2 embeddings, two places a block, and its attention weights; an adapter's own stays.
    """
    llama = tiny.llama(attention_dropout=0.25)
    attention = [layer.self_attn for layer in llama.model.layers]
    with dropping(llama, 0.1):
        assert [module.attention_dropout for module in attention] == [0.1, 0.1]
    assert [module.attention_dropout for module in attention] == [0.25, 0.25]
    model = Lora(dropout=0.3).prepare(gpt2(0.2), 0)
    own = {path: module for path, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    rates: dict[str, float] = {}
    with contextlib.suppress(ZeroDivisionError), dropping(model, 0.1):
        rates |= {path: module.p for path, module in own.items()}
        raise ZeroDivisionError
    assert {rate for path, rate in rates.items() if "lora_dropout" in path} == {0.3}
    assert {rate for path, rate in rates.items() if "lora_dropout" not in path} == {0.1}
    assert sum("lora_dropout" not in path for path in rates) == 1 + 2 * 3
    assert {module.p for path, module in own.items() if "lora_dropout" not in path} == {0.2}


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt_neox], ids=["llama", "gpt_neox"])
def test_dropout_acts_by_the_seed_of_training(make: Any) -> None:
    """It changes the weights, equally for equal seeds; 0 is the model's own, bit for bit."""
    plain, dropped = weights(make), weights(make, dropout=0.2)
    assert not tiny.same(dropped, plain)
    assert tiny.same(weights(make, dropout=0.2), dropped)
    assert not tiny.same(weights(make, dropout=0.2, seed=1), dropped)
    assert tiny.same(weights(make, dropout=0.0), plain)


def test_it_is_the_dropout_of_the_config() -> None:
    """A llama whose config has the rate trains to the same weights."""
    assert tiny.same(weights(tiny.llama, dropout=0.2), weights(lambda: tiny.llama(attention_dropout=0.2)))


def test_a_model_in_which_nothing_drops_is_refused() -> None:
    """In one line, before a step."""
    model = tiny.llama()
    for layer in model.model.layers:
        del layer.self_attn.attention_dropout
    with pytest.raises(TrainingError, match=r"^training\.dropout: got 0\.1, with LlamaForCausalLM, in which nothing drops; allowed: "):
        tiny.run(model, STEPS, Sft(), training=Training(dropout=0.1))


@pytest.mark.parametrize(("decay", "half"), [("linear", 0.5), ("cosine", 0.5)])
def test_a_decay_ends_at_its_floor(decay: Any, half: float) -> None:
    """From 1 through 0.1 + 0.9/2 to 0.1 of the peak, after a warm-up as before."""
    training = Training(decay=decay, decay_floor=0.1)
    shares = [rate_multiplier(step, 100, training) for step in (0, 50, 100)]
    assert shares == pytest.approx([1.0, 0.1 + 0.9 * half, 0.1])
    assert rate_multiplier(25, 100, Training(decay="cosine", decay_floor=0.1)) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    warming = Training(decay=decay, decay_floor=0.1, warmup_rows=80)
    assert rate_multiplier(0, 100, warming) == pytest.approx(0.1)
    assert rate_multiplier(50, 100, warming) == rate_multiplier(50, 100, training)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_a_floor_of_zero_changes_no_bit(decay: Any) -> None:
    """The formula of before, written out."""
    for step in range(37):
        done = step / 37
        before = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[decay]
        assert rate_multiplier(step, 37, Training(decay=decay)) == before


@pytest.mark.parametrize("wrong", [{"dropout": 1.0}, {"dropout": -0.1}, {"decay": "linear", "decay_floor": 1.0}, {"decay_floor": 0.1}])
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    """Each names its key; a floor means nothing where nothing decays."""
    with pytest.raises(ConfigError, match=rf"^training\.{list(wrong)[-1]}: got "):
        Training(**wrong)
