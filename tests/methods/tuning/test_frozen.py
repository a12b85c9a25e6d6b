from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from harness.core.errors import ConfigError, ModelError
from harness.core.sources import ModelFacts
from harness.methods.objective.sft import Sft
from harness.methods.tuning.frozen import Frozen
from harness.methods.tuning.full import Full
from harness.models import anatomy
from tests.support import tiny

EMBEDDING = tiny.VOCABULARY * 16
BLOCK = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16
"""Of the tiny llama: four matrices of attention, three of the MLP, two norms."""


def gpt2() -> Any:
    sizes: dict[str, Any] = {"vocab_size": tiny.VOCABULARY, "n_embd": 16, "n_layer": 6, "n_head": 2, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes)).eval()


def frozen(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_embeddings_and_the_bottom_third_stay() -> None:
    """One of two blocks, counted by hand.

    A tied head is the embedding and frozen with it; a separate one moves.
    """
    tied, untied = (Frozen().prepare(tiny.llama(tied=tied), 0) for tied in (True, False))
    assert all(name.startswith(("model.embed_tokens.", "model.layers.0.")) for name in frozen(tied))
    assert Frozen().facts(tied) == {"frozen_layers": 1, "layers": 2, "trainable": BLOCK + 16}
    assert Frozen().facts(untied) == {"frozen_layers": 1, "layers": 2, "trainable": BLOCK + 16 + EMBEDDING}
    assert "lm_head.weight" not in frozen(untied)


def test_learned_positions_are_embeddings_too() -> None:
    """gpt2 has them, and its blocks have another name: a third of six is two."""
    names = frozen(Frozen().prepare(gpt2(), 0))
    assert {name.rsplit(".", 1)[0] for name in names if ".h." not in name} == {"transformer.wte", "transformer.wpe"}
    assert {name.split(".")[2] for name in names if ".h." in name} == {"0", "1"}


@pytest.mark.parametrize("make", [tiny.llama, lambda: tiny.llama(tied=False), tiny.gpt_neox, gpt2], ids=["tied", "untied", "neox", "gpt2"])
@pytest.mark.parametrize("layers", [None, 0, 1])
def test_trainable_parameters_are_told_before_the_model_is_built(make: Any, layers: int | None) -> None:
    """From the sizes of blocks and embeddings; equal to the count of the model."""
    model, tuning = make(), Frozen(layers=layers)
    total = sum(parameter.numel() for parameter in model.parameters())
    facts = ModelFacts(params_total=total, context_length=64, content={}, **anatomy.described(model))
    assert tuning.trainable(facts) == tuning.facts(tuning.prepare(model, 0))["trainable"]


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt_neox], ids=["llama", "gpt_neox"])
def test_what_is_frozen_does_not_move(make: Any) -> None:
    """Bit for bit, also with weight decay, while every other weight does.

    Deltas name only the others.
    """
    from harness.config.run_config import Training

    tuning, start = Frozen(), make().state_dict()
    model = tuning.prepare(make(), 0)
    stay = frozen(model)
    steps = [[Sft().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows("completion", 8)]] * 2
    tiny.run(model, steps, Sft(), training=Training(weight_decay=0.1))
    after = tuning.merged(model)
    assert {name for name in after if torch.equal(after[name], start[name])} == stay
    assert dict(tuning.deltas(model, start)).keys() == after.keys() - stay


def test_as_many_blocks_as_there_are_is_rejected() -> None:
    """Only a norm would move; also before the model is built."""
    message = r"^tuning\.layers: got 2; allowed: 0 to 1: the model has 2 blocks"
    with pytest.raises(ConfigError, match=message):
        Frozen(layers=2).prepare(tiny.llama(), 0)
    with pytest.raises(ConfigError, match=message):
        Frozen(layers=2).trainable(ModelFacts(params_total=100, context_length=64, content={}, blocks=(10, 10)))
    with pytest.raises(ConfigError, match=r"^tuning\.layers: got -1"):
        Frozen(layers=-1)


def test_a_model_without_a_list_of_blocks_is_rejected() -> None:
    """In one line."""
    model: Any = tiny.llama()
    model.config.num_hidden_layers = 3
    with pytest.raises(ModelError, match=r"^model: got LlamaForCausalLM without a list of 3 blocks; "):
        Frozen().prepare(model, 0)


def test_its_rate_is_that_of_full_tuning() -> None:
    """At every size."""
    assert Frozen().default_learning_rate(1_000_000) == Full().default_learning_rate(1_000_000)
