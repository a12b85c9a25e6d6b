"""Mixed precision from bfloat16 copies of weights: equal bit for bit, each weight cast once."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.evaluation.prefix import check
from harness.models import halved
from tests.evaluation.prefix.test_exactness import adapted
from tests.support import families, tiny

FAMILIES = ["llama", "gpt2", "gemma3"]


def ran(model: Any, half: bool) -> torch.Tensor:
    """Logits in mixed precision."""
    ids = torch.arange(12)[None] + len(tiny.SPECIAL)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), halved.weights(model, half):
        return cast(torch.Tensor, model(input_ids=ids, use_cache=False).logits)


@pytest.mark.parametrize("learned", [None, True], ids=["plain", "LoRA"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_autocast_to_the_last_bit(family: str, learned: bool | None) -> None:
    """Of linear layers and GPT-2's, with a head that shares its weights, with trained LoRA."""
    model = adapted(families.built(family)) if learned else families.built(family)
    assert torch.equal(ran(model, half=True), ran(model, half=False))


def test_the_model_has_its_own_parameters_afterwards() -> None:
    """Also after an error; meanwhile embeddings and norms stay float32."""
    model = families.build("llama")
    before = dict(model.named_parameters())

    def meanwhile() -> None:
        with halved.weights(model, half=True):
            dtypes = Counter(parameter.dtype for parameter in model.parameters())
            raise RuntimeError(dict(dtypes))

    with pytest.raises(RuntimeError) as caught:
        meanwhile()
    assert caught.value.args[0] == {torch.bfloat16: 2 * 7 + 1, torch.float32: 1 + 2 * 2 + 1}
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_where_memory_does_not_suffice_the_other_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three copies fit; logits are the same."""
    model, whole = families.build("llama"), torch.Tensor.bfloat16
    expected = ran(model, half=False)
    made: list[torch.Tensor] = []

    def scarce(tensor: torch.Tensor) -> torch.Tensor:
        if len(made) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        made.append(tensor)
        return whole(tensor)

    monkeypatch.setattr(torch.Tensor, "bfloat16", scarce)
    assert torch.equal(ran(model, half=True), expected)
    assert len(made) == 3


class Casts(TorchDispatchMode):
    """Number of casts to bfloat16 of tensors of each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = function(*arguments, **(named or {}))
        if "to" in str(function).split(".")[1].split("_") and made.dtype is torch.bfloat16 and arguments[0].dtype is torch.float32:
            self.of[tuple(made.shape)] += 1
        return made


def test_an_evaluation_casts_each_weight_once() -> None:
    """Two layers' projections (48 x 32) up and through the gate: four casts for all batches."""
    lm = families.prefix(families.build("llama"), mixed_precision_dtype="bfloat16", token_budget=24)
    assert check.refusal(lm.engine, 16) is None
    with Casts() as casts:
        lm.loglikelihood(families.scored(families.requests("multi-token")), disable_tqdm=True)
    assert lm.engine.computed > 3 * 24
    assert casts.of[48, 32] == 4
