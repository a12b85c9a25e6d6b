from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.core.errors import ConfigError
from harness.methods.mitigation.l2 import L2
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.methods.tuning.rslora import RsLora
from tests.support import tensor_bytes, tiny
from tests.support.losses import context, gradients, heavy, made, moved, number, one


def test_it_is_half_of_alpha_times_the_squared_distance() -> None:
    """Every one of n weights moved by ½: α/2 · n/4, and a gradient of α/2 each."""
    model, given = context(tiny.llama())
    penalty = made(L2(weight=0.4), given)
    assert number(penalty(model, one([]))) == 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    value = penalty(model, one([]))
    value.backward()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert number(value) == pytest.approx(0.2 * count / 4, rel=1e-5)
    for gradient in gradients(model).values():
        torch.testing.assert_close(gradient, torch.full_like(gradient, 0.2))


def test_under_lora_it_is_of_the_adapted_weights() -> None:
    """The norm of scaling·B·A, computed from the matrices; not that of A and B."""
    model, given = context(tiny.llama(), Lora(rank=2, alpha=6))
    moved(model)
    weights = dict(model.named_parameters())
    pairs = [(weights[name.replace("lora_A", "lora_B")], weight) for name, weight in weights.items() if "lora_A" in name]
    expected = 0.005 * sum(float((3 * b @ a).detach().square().sum()) for b, a in pairs)
    assert number(made(L2(), given)(model, one([]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tuning", [Lora(rank=2, alpha=6), RsLora(rank=4)], ids=["lora", "rslora"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt_neox])
def test_under_lora_gradients_are_those_of_the_products(make: Any, tuning: Lora) -> None:
    """Of ½·α·Σ‖scaling·B·A‖², by autograd through B·A itself."""
    model, given = context(make(), tuning)
    moved(model)
    made(L2(weight=0.4), given)(model, one([])).backward()
    found = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    sum(0.2 * delta.square().sum() for _, delta in tuning.deltas(model, {})).backward()  # type: ignore[union-attr]
    assert found.keys() == gradients(model).keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


def test_under_lora_it_needs_no_memory_of_the_size_of_weights() -> None:
    """Before, each step held every B·A: as much as the model."""
    model, given = context(heavy(), Lora(rank=2))
    weights = tensor_bytes.held(parameter for _, parameter in model.named_parameters())
    penalty = made(L2(), given)
    with tensor_bytes.Peak() as peak:
        penalty(model, one([])).backward()
    assert peak.bytes < 0.05 * weights


def test_at_weight_zero_there_is_none() -> None:
    """No anchor, no extra tokens, no penalty."""
    _, given = context(tiny.llama(), Full())
    assert L2(weight=0.0).penalty(given) is None
    assert not L2().needs_anchor
    assert L2().extra_tokens([[tiny.example(1, 2)]], []) == 0
    with pytest.raises(ConfigError, match=r"^mitigation\.weight: got "):
        L2(weight=-0.1)
