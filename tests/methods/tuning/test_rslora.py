from __future__ import annotations

import pytest
import torch

from harness.methods.tuning.lora import Lora
from harness.methods.tuning.rslora import RsLora
from tests.support import tiny


@pytest.mark.parametrize(("rank", "alpha", "scaling"), [(4, None, 4.0), (16, None, 2.0), (9, 6.0, 2.0)])
def test_the_scaling_is_alpha_over_the_root_of_the_rank(rank: int, alpha: float | None, scaling: float) -> None:
    """Computed by hand; PEFT's layers have it too, and facts report it."""
    tuning = RsLora(rank=rank, alpha=alpha)
    model = tuning.prepare(tiny.llama(), 0)
    assert tuning.facts(model)["scaling"] == scaling
    layer = model.get_base_model().model.layers[0].mlp.up_proj  # type: ignore[operator]
    assert layer.scaling == {"default": scaling}


def test_a_delta_is_scaling_times_b_times_a() -> None:
    """α/√r = 3 at rank 4; merged weights are the start's plus it."""
    tuning = RsLora(rank=4, alpha=6)
    model, start = tuning.prepare(tiny.llama(), 0), tiny.llama().state_dict()
    weights = dict(model.named_parameters())
    place, name = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.default.weight", "model.layers.1.self_attn.q_proj.weight"
    with torch.no_grad():
        weights[place.format("B")].fill_(0.5)
    delta = dict(tuning.deltas(model, {}))[name].detach()
    torch.testing.assert_close(delta, 3 * 0.5 * weights[place.format("A")].detach().sum(dim=0).expand(16, 16))
    torch.testing.assert_close(tuning.merged(model)[name], start[name] + delta)


def test_at_the_default_rank_it_starts_as_lora_and_is_it() -> None:
    """The same adapters from the same seed, equally scaled."""
    first, second = (dict(tuning.prepare(tiny.llama(), 3).named_parameters()) for tuning in (Lora(), RsLora()))
    assert tiny.same({n: p.detach() for n, p in first.items()}, {n: p.detach() for n, p in second.items()})
    assert Lora().scaling == RsLora().scaling == 2.0
