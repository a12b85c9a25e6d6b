"""`prefix` computes large linear layers by oneDNN where that is faster."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.evaluation.prefix import linear
from tests.support import families, tiny

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the weights that oneDNN has multiplied by."""
    shapes: list[tuple[int, ...]] = []
    product = torch.ops.mkldnn._linear_pointwise

    def noted(inputs: torch.Tensor, weight: torch.Tensor, *others: Any) -> torch.Tensor:
        shapes.append(tuple(weight.shape))
        return product(inputs, weight, *others)  # type: ignore[no-any-return, unused-ignore]

    monkeypatch.setattr(linear, "faster", lambda: True)
    monkeypatch.setattr(linear, "_product", lambda: noted)
    return shapes


def test_products_of_large_layers_are_those_of_torch(called: list[tuple[int, ...]]) -> None:
    """With and without a bias; rows as the model has them."""
    draw = torch.Generator().manual_seed(0)
    for biased in (True, False):
        layer = torch.nn.Linear(256, 512, bias=biased)
        inputs = torch.randn(1, 16, 256, generator=draw)
        expected = layer(inputs)
        with torch.inference_mode():
            assert torch.allclose(linear._linear(layer, inputs), expected, atol=1e-5)
    assert called == [(512, 256)] * 2


def test_scores_are_those_of_hflm(called: list[tuple[int, ...]]) -> None:
    """The layers of 2^16 weights take part; the module's own method is back afterwards."""
    model = tiny.llama(**WIDE)
    lm = families.prefix(model)
    families.compare(families.reference(model), lm, families.requests("few-shot"))
    assert {(512, 256), (256, 512), (256, 256)} == set(called)
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_small_layers_and_half_precision_stay_torchs(called: list[tuple[int, ...]]) -> None:
    """So scores of the smallest models keep their last digits."""
    families.prefix(families.build("llama")).loglikelihood(families.scored(families.requests("few-shot")), disable_tqdm=True)
    mixed = families.prefix(tiny.llama(**WIDE), mixed_precision_dtype="bfloat16")
    mixed.loglikelihood(families.scored([("w1 w2", " w3")]), disable_tqdm=True)
    called.clear()  # the check of a model is in float32
    mixed.loglikelihood(families.scored(families.requests("few-shot")), disable_tqdm=True)
    assert called == []


def test_other_processors_keep_torchs_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the model changes meanwhile."""
    monkeypatch.setattr(linear, "faster", lambda: False)
    model = tiny.llama(**WIDE)
    with linear.fast(model):
        assert not [module for module in model.modules() if "forward" in vars(module)]
