from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from harness.core.errors import ConfigError
from harness.core.sources import ModelFacts
from harness.methods.objective.sft import Sft
from harness.methods.tuning.lora import Lora
from harness.methods.tuning.peft import Peft
from tests.support import tiny

FACTS = ModelFacts(params_total=1, context_length=1, content={}, linear={"q_proj": 64, "down_proj": 80})
LLAMA = {"target_modules": ["q_proj", "down_proj"]}
GPT2 = {"target_modules": ["c_attn", "c_proj"]}


def gpt2() -> PreTrainedModel:
    """A GPT-2 of two layers and width 16: transposed weights, biases."""
    config = GPT2Config(vocab_size=tiny.VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    model = tiny.seeded(lambda: GPT2LMHeadModel(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(0.1)
    return model


@pytest.fixture
def peft(tmp_path: Path) -> Any:
    """Return a tuning of these PEFT settings."""

    def made(**values: Any) -> Peft:
        file = tmp_path / "adapter_config.json"
        file.write_text(json.dumps(values))
        return Peft(config=str(file))

    return made


def moved(tuning: Peft, model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with adapters that are not where they start."""
    found = tuning.prepare(model, 0).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return found


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DoRA": (tiny.llama, {"peft_type": "LORA", "r": 4, "use_dora": True, **LLAMA}),
    "DoRA, transposed": (gpt2, {"peft_type": "LORA", "r": 4, "use_dora": True, **GPT2}),
    "IA3": (tiny.llama, {"peft_type": "IA3", "feedforward_modules": ["down_proj"], **LLAMA}),
    "IA3 with biases": (gpt2, {"peft_type": "IA3", "feedforward_modules": ["c_proj"], **GPT2}),
    "LoRA with biases": (gpt2, {"peft_type": "LORA", "r": 4, "lora_bias": True, **GPT2}),
    "VeRA": (tiny.llama, {"peft_type": "VERA", "r": 4, "target_modules": "all-linear"}),
    "OFT": (tiny.gpt_neox, {"peft_type": "OFT", "oft_block_size": 4, "target_modules": ["dense"]}),
}


@pytest.mark.parametrize("name", KINDS)
def test_merged_weights_are_those_of_pefts_own_merge(name: str, peft: Any) -> None:
    """Of every kind, with biases where these move too; merging in PEFT is an independent path."""
    make, values = KINDS[name]
    tuning = peft(**values)
    model = moved(tuning, make())
    merged = tuning.merged(model)
    theirs = dict(model.merge_and_unload().named_parameters())  # type: ignore[operator]
    assert merged.keys() == theirs.keys()
    changed = {name for name, start in make().named_parameters() if not torch.equal(start, merged[name])}
    assert any(name.endswith("bias") for name in changed) == name.endswith("with biases")
    for key, value in theirs.items():
        torch.testing.assert_close(merged[key], value.detach(), rtol=0, atol=1e-6, msg=key)


def test_the_configuration_of_lora_trains_as_lora(peft: Any) -> None:
    """Bit for bit: the same adapters, deltas and merged weights."""
    steps = [[tiny.example(5, 6, 7, 8)], [tiny.example(9, 6, 7)]]
    weights = []
    for tuning in (Lora(rank=4), peft(peft_type="LORA", r=4, lora_alpha=8, target_modules="all-linear")):
        model = tuning.prepare(tiny.llama(), 3)
        tiny.run(model, steps, Sft(), tuning=tuning)
        weights.append(tuning.merged(model))
    assert tiny.same(*weights)


def test_reading_a_layer_ignores_dropout_and_leaves_its_mode(peft: Any) -> None:
    """Deltas in training are those of evaluation, and dropout drops as before."""
    tuning = peft(peft_type="LORA", r=4, use_dora=True, lora_dropout=0.5, **LLAMA)
    model = moved(tuning, tiny.llama())
    still = {name: delta.detach() for name, delta in tuning.deltas(model, {})}
    modes = [module.training for module in model.train().modules()]
    assert tiny.same({name: delta.detach() for name, delta in tuning.deltas(model, {})}, still)
    assert [module.training for module in model.modules()] == modes
    assert tuning.dropout_rate == 0.5


def test_an_identity_has_the_values_that_differ_from_the_defaults(peft: Any, tmp_path: Path) -> None:
    """Not the path, the order of names, defaults that are spelled out, or what PEFT writes."""
    made = peft(peft_type="LORA", r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.0, base_model_name_or_path="a/b")
    (tmp_path / "other.yaml").write_text("{r: 4, peft_type: lora, target_modules: [down_proj, q_proj], peft_version: 0.19.0}")
    other = Peft(config=str(tmp_path / "other.yaml"))
    expected = {"config": {"peft_type": "LORA", "r": 4, "target_modules": ["down_proj", "q_proj"]}}
    assert made.resolved_settings(FACTS) == other.resolved_settings(FACTS) == expected
    assert made.trainable(FACTS) == 4 * (64 + 80)


def test_what_is_trained_is_what_was_read(peft: Any, tmp_path: Path) -> None:
    """A file that is edited after a run was identified changes nothing."""
    tuning = peft(peft_type="LORA", r=4, **LLAMA)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert tuning.facts(tuning.prepare(tiny.llama(), 0))["settings"] == {"peft_type": "LORA", "r": 4, **LLAMA}


BEFORE_LOADING: dict[str, tuple[dict[str, Any], str]] = {
    "prefix": ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}, "PREFIX_TUNING, whose prompts have no weights to merge"),
    "prompt": ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "PROMPT_TUNING, whose prompts have no weights to merge"),
    "adaption prompt": ({"peft_type": "ADAPTION_PROMPT"}, "ADAPTION_PROMPT, whose prompts have no weights to merge"),
    "AdaLoRA": ({"peft_type": "ADALORA"}, "ADALORA, which needs calls of its own after each optimizer step"),
    "aLoRA": ({"peft_type": "LORA", "alora_invocation_tokens": [1]}, "alora_invocation_tokens, by which weights depend on the text"),
    "no kind": ({"r": 4}, "peft_type ''"),
    "unknown key": ({"peft_type": "LORA", "rank": 4}, "an unknown key rank of LORA"),
    "wrong value": ({"peft_type": "VERA", "layers_pattern": "h", "layers_to_transform": None}, "VERA settings that PEFT rejects"),
}


@pytest.mark.parametrize("name", BEFORE_LOADING)
def test_a_configuration_that_cannot_be_merged_is_rejected_before_anything_loads(name: str, peft: Any) -> None:
    """In one line, with the reason."""
    values, got = BEFORE_LOADING[name]
    with pytest.raises(ConfigError, match=rf"^tuning\.config: got {got}[^\n]*$"):
        peft(**values).resolved_settings(FACTS)


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "PiSSA": ({"init_lora_weights": "pissa", **LLAMA}, "an adapter that changes the start weights when it is added"),
    "head": ({"target_modules": ["lm_head"]}, "an adapter of lm_head, an embedding"),
    "saved module": ({"modules_to_save": ["norm"], **LLAMA}, "model.layers.0.input_layernorm.modules_to_save"),
    "no such layer": ({"target_modules": ["query_key_value"]}, "LORA settings that PEFT rejects"),
    "wrong type": ({"r": "four", **LLAMA}, "LORA settings that PEFT rejects"),
    "biases that the layers lack": ({"lora_bias": True, **LLAMA}, "LORA, whose layers are not linear in their inputs"),
    "routers": ({"peft_type": "LILY", "r": 4, **LLAMA}, "LILY, whose layers are not linear in their inputs"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_configuration_that_does_not_fit_the_model_is_rejected(name: str, peft: Any) -> None:
    """In one line, with the reason."""
    values, got = UNFIT[name]
    with pytest.raises(ConfigError, match=rf"^tuning\.config: got {got}[^\n]*$"):
        peft(**{"peft_type": "LORA", **values}).prepare(tiny.llama(tied=False), 0)


def test_without_a_file_it_is_rejected() -> None:
    """When a run is prepared; the group's member alone can be listed."""
    with pytest.raises(ConfigError, match=r"^tuning\.config: got nothing; [^\n]*; fix: tuning\.config=PATH$"):
        _ = Peft().dropout_rate


@pytest.mark.parametrize("kind", ["DoRA", "IA3"])
def test_a_change_is_read_in_float32_while_the_base_is_bfloat16(peft: Any, kind: str) -> None:
    """A small change would be lost in the rounding of the weights that it is added to."""
    make, values = KINDS[kind]
    tuning = peft(**values)
    model = tuning.prepare(make(), 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1e-3)
            else:
                parameter.copy_(parameter.bfloat16())  # so that both have the same base
    expected = tuning.squared_change(model, {}).item()
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.ndim == 2:
            parameter.data = parameter.data.bfloat16()
    assert tuning.squared_change(model, {}).item() == pytest.approx(expected, rel=1e-4)
    assert model.get_parameter("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight").dtype == torch.bfloat16
