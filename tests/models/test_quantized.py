"""Start models of 4 bits a weight: what they compute, and that adapters train on them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import composition
from harness.core.errors import ConfigError, ModelError
from harness.methods.contract.tiny import logits
from harness.methods.objective.sft import Sft
from harness.methods.tuning.lora import Lora
from harness.methods.tuning.peft import Peft
from harness.models.hub import HubModel
from harness.models.loading import load
from harness.models.weights import state_sha256
from tests.support import tiny

HAS = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not HAS, reason="bitsandbytes is an optional extra")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model with its tokenizer, of width 64, the block of weights that share a scale."""
    tiny.llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


@needs_bitsandbytes
def test_it_computes_as_the_plain_model_with_its_weights_rounded(folder: Path) -> None:
    """Rounded weights by bitsandbytes' own inverse; ends and norms stay in float32."""
    from bitsandbytes.functional import dequantize_4bit

    model: Any = load(HubModel(name=str(folder), quantization="nf4"))
    digest, plain = state_sha256(model), tiny.llama(hidden_size=64, intermediate_size=128)
    rounded = 0
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            live = model.get_parameter(name)
            if hasattr(live, "quant_state"):
                parameter.copy_(dequantize_4bit(live.data, live.quant_state))
                rounded += 1
            else:
                assert torch.equal(live, parameter)
    assert rounded == 2 * 7
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-5)
    assert state_sha256(model) == digest, "a forward pass changes no weight"


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize(("kind", "dtype"), [("lora", "float32"), ("lora", "bfloat16"), ("dora", "float32")])
def test_an_adapter_trains_on_it_and_loads_again(kind: str, dtype: str, folder: Path, tmp_path: Path) -> None:
    """The base stays, bit for bit; deltas are differentiable, and the saved adapter is the same."""
    from peft import PeftModel

    file = tmp_path / "dora.yaml"
    file.write_text("{peft_type: LORA, use_dora: true, r: 4, target_modules: all-linear}")
    tuning: Lora | Peft = Lora(rank=4) if kind == "lora" else Peft(config=str(file))
    source = HubModel(name=str(folder), quantization="nf4")
    start = logits(load(source))
    model = tuning.prepare(load(source), 0)
    tiny.run(model, [[tiny.example(5, 6, 7, 8)], [tiny.example(9, 6, 7)]], Sft(), tuning=tuning, dtype=dtype)
    deltas = dict(tuning.deltas(model, {}))
    assert all(delta.requires_grad for delta in deltas.values())
    assert deltas["model.layers.0.mlp.up_proj.weight"].shape == (128, 64)
    with tuning.base_weights(model, {}):
        assert torch.equal(logits(model), start)
    assert not torch.equal(logits(model), start)
    tuning.save(model, tmp_path / "adapter")
    loaded: Any = PeftModel.from_pretrained(load(source), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded.eval()), logits(model), rtol=0, atol=1e-6)


@needs_bitsandbytes
def test_it_is_another_model_than_the_unquantised_one(folder: Path) -> None:
    """In content, which names its measurements and runs, and in the hash of its weights."""
    plain, four = HubModel(name=str(folder)), HubModel(name=str(folder), quantization="nf4")
    assert dict(four.facts().content) == {**plain.facts().content, "quantization": "nf4"}
    assert four.facts().params_total == plain.facts().params_total
    assert four.weights_sha256() != plain.weights_sha256()


@pytest.mark.skipif(HAS, reason="it is installed")
def test_without_bitsandbytes_the_extra_is_named(folder: Path) -> None:
    """Before anything loads, in one line."""
    with pytest.raises(ModelError, match=r"^model\.quantization: got nf4 without bitsandbytes; .*\[quantized\]'"):
        HubModel(name=str(folder), quantization="nf4").facts()


@pytest.mark.parametrize(
    ("methods", "got"),
    [
        (["tuning=full"], "tuning=full"),
        (["tuning=frozen"], "tuning=frozen"),
        (["tuning=lora", "mitigation=merge"], "mitigation=merge"),
        (["tuning=lora", "mitigation=task_arithmetic"], "mitigation=task_arithmetic"),
        (["tuning=lora", "mitigation=ewc", "anchor=tinyworld-base"], "mitigation=ewc"),
        (["tuning=lora", "mitigation=l2"], ""),
        (["tuning=rslora"], ""),
    ],
)
def test_methods_that_need_weights_in_floating_point_are_rejected(methods: list[str], got: str) -> None:
    """Before anything loads, in one line; adapters and penalties on their changes are valid."""
    asked = ["model=qwen3-8b", "model.quantization=nf4", "probe_suites=[tinyworld]", "target_suites=[tinyworld-people]", *methods]
    if not got:
        composition.compose(asked)
        return
    with pytest.raises(ConfigError, match=rf"^{got}: got model\.quantization=nf4, weights of 4 bits; allowed: [^\n]*$"):
        composition.compose(asked)
