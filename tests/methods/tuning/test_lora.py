from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from harness.core.errors import ConfigError
from harness.core.seeds import seed_torch
from harness.core.sources import ModelFacts
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import full_rate
from harness.methods.tuning.lora import Lora
from harness.models import anatomy
from tests.support import tiny

LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_every_linear_layer_but_the_head_is_adapted() -> None:
    """Counted by hand: rank · (inputs + outputs) of each of the 2 · 7 layers."""
    facts = Lora(rank=4).facts(Lora(rank=4).prepare(tiny.llama(tied=False), 0))
    attention, mlp = 4 * 4 * (16 + 16), 3 * 4 * (16 + 24)
    assert facts == {"rank": 4, "alpha": 8, "scaling": 2, "modules": LINEAR, "adapted_layers": 14, "trainable": 2 * (attention + mlp)}


def test_modules_can_be_named() -> None:
    """Only these are adapted."""
    tuning = Lora(rank=2, alpha=3, modules=("q_proj", "v_proj"))
    facts = tuning.facts(tuning.prepare(tiny.llama(), 0))
    assert (facts["modules"], facts["adapted_layers"], facts["scaling"]) == (["q_proj", "v_proj"], 4, 1.5)


def test_tuning_starts_at_the_model_itself() -> None:
    """B is zero: equal logits, zero deltas, and only adapters trainable, in float32."""
    ids = torch.tensor([[1, 7, 8, 9]])
    with torch.no_grad():
        before = tiny.llama()(input_ids=ids).logits
        model = Lora().prepare(tiny.llama(), 0)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert all(float(delta.detach().abs().max()) == 0 for _, delta in Lora().deltas(model, {}))
    trainable = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name and dtype == torch.float32 for name, dtype in trainable.items())


def test_the_adapter_is_drawn_from_its_seed_alone() -> None:
    """A ignores earlier draws, differs for another seed, and leaves the global stream."""

    def adapters(seed: int) -> dict[str, torch.Tensor]:
        return {name: p.detach() for name, p in Lora().prepare(tiny.llama(), seed).named_parameters() if "lora_A" in name}

    seed_torch(1)
    first, drawn = adapters(0), torch.rand(1)
    assert tiny.same(adapters(0), first)
    assert not tiny.same(adapters(1), first)
    seed_torch(1)
    assert torch.equal(torch.rand(1), drawn)


def test_a_delta_is_scaling_times_b_times_a() -> None:
    """Computed from the adapter's own matrices; its gradient reaches both."""
    model = Lora(rank=2, alpha=6).prepare(tiny.llama(), 0)
    weights = dict(model.named_parameters())
    place = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.default.weight"
    a, b = weights[place.format("A")], weights[place.format("B")]
    with torch.no_grad():
        b.fill_(0.5)
    delta = dict(Lora(rank=2, alpha=6).deltas(model, {}))["model.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(delta, 3 * 0.5 * a.sum(dim=0).expand(16, 16))
    delta.square().sum().backward()
    assert a.grad is not None
    assert b.grad is not None


def test_layers_with_transposed_weights_merge_too() -> None:
    """GPT-2 stores its weights as (inputs, outputs); merged logits still agree."""
    sizes: dict[str, Any] = {"vocab_size": tiny.VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=tiny.BOS, eos_token_id=tiny.EOS)
    plain = GPT2LMHeadModel(config).eval()
    tuned = Lora().prepare(GPT2LMHeadModel(config).eval(), 0)
    tuned.get_base_model().load_state_dict(  # type: ignore[operator]
        {name.replace("attn.c_attn.", "attn.c_attn.base_layer."): value for name, value in plain.state_dict().items()}, strict=False
    )
    tiny.run(tuned, [[tiny.example(5, 6, 7, 8)]], Sft(), learning_rate=0.1)
    plain.load_state_dict(Lora().merged(tuned), strict=False)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, tuned(input_ids=ids).logits, rtol=0, atol=1e-5)


PARTS = {
    "llama": (tiny.llama, {"attention": {"q_proj", "k_proj", "v_proj", "o_proj"}, "mlp": {"gate_proj", "up_proj", "down_proj"}}),
    "gpt_neox": (tiny.gpt_neox, {"attention": {"query_key_value", "dense"}, "mlp": {"dense_h_to_4h", "dense_4h_to_h"}}),
}


@pytest.mark.parametrize("part", ["attention", "mlp"])
@pytest.mark.parametrize("family", PARTS)
def test_attention_or_mlp_alone_can_be_adapted(family: str, part: Any) -> None:
    """Recognised by parent modules, for any layer names.

    The number of trainable parameters is known before the model is built.
    """
    make, parts = PARTS[family]
    tuning = Lora(rank=2, layers=part)
    described = anatomy.described(make())
    facts = tuning.facts(tuning.prepare(make(), 0))
    assert set(facts["modules"]) == parts[part]
    assert facts["adapted_layers"] == 2 * len(parts[part])
    assert facts["trainable"] == tuning.trainable(ModelFacts(params_total=1, context_length=1, content={}, **described))


def test_layers_of_one_name_in_both_parts_are_told_apart() -> None:
    """gpt2 has a c_proj in attention and one in the MLP."""
    config = GPT2Config(vocab_size=tiny.VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model = Lora(layers="mlp").prepare(GPT2LMHeadModel(config), 0)
    names = {name.split(".", 2)[2] for name, _ in Lora().deltas(model, {})}
    assert names == {f"{block}.mlp.{name}.weight" for block in (0, 1) for name in ("c_fc", "c_proj")}


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("model.layers.0.self_attn.q_proj", "attention"),
        ("transformer.h.3.self_attention.query_key_value", "attention"),
        ("model.decoder.layers.0.fc1", "mlp"),
        ("transformer.blocks.1.ffn.up_proj", "mlp"),
        ("model.layers.0.block_sparse_moe.gate", "mlp"),
        ("model.project_out", ""),
    ],
)
def test_the_part_of_a_layer_is_told_by_its_path(path: str, part: str) -> None:
    """For several families; the last name that is known decides."""
    assert anatomy.part_of(path) == part


def test_a_part_that_the_model_does_not_have_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line; a part together with names of modules is invalid."""
    monkeypatch.setattr(anatomy, "part_of", lambda path: "")
    with pytest.raises(ConfigError, match=r"^tuning\.layers: got 'mlp', of which LlamaForCausalLM has no linear layer; [^\n]*$"):
        Lora(layers="mlp").prepare(tiny.llama(), 0)
    with pytest.raises(ConfigError, match=r"^tuning\.layers: got 'mlp'; allowed: all, if tuning\.modules names layers"):
        Lora(layers="mlp", modules=("q_proj",))


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_an_embedding_is_rejected(name: str) -> None:
    """It may be tied, and would then move two weights under one name."""
    with pytest.raises(ConfigError, match=rf"{name}, an embedding; allowed: linear layers"):
        Lora(modules=("q_proj", name)).prepare(tiny.llama(), 0)


def test_a_module_that_the_model_does_not_have_is_rejected() -> None:
    """In one line that names it."""
    with pytest.raises(ConfigError, match=r"^tuning\.modules: got query_key_value; [^\n]*$"):
        Lora(modules=("query_key_value",)).prepare(tiny.llama(), 0)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"modules": ()}])
def test_values_out_of_range_are_rejected(wrong: dict[str, Any]) -> None:
    """Each names its key."""
    with pytest.raises(ConfigError, match=rf"^tuning\.{next(iter(wrong))}: got "):
        Lora(**wrong)


def test_the_default_rate_is_ten_times_that_of_full_tuning() -> None:
    """At every size."""
    assert Lora().default_learning_rate(1_000_000) == pytest.approx(10 * full_rate(1_000_000))
