from __future__ import annotations

import pytest
import torch

from harness.methods.tuning.full import Full, full_rate
from tests.support import tiny


def test_every_parameter_is_trainable_and_a_tied_one_counts_once() -> None:
    """The tied output head is the embedding: one name, one count."""
    tied, untied = (Full().prepare(tiny.llama(tied=tied), 0) for tied in (True, False))
    head = tiny.VOCABULARY * 16
    assert Full().facts(untied)["trainable"] - Full().facts(tied)["trainable"] == head
    assert "lm_head.weight" not in dict(Full().deltas(tied, tied.state_dict()))
    assert "lm_head.weight" in dict(Full().deltas(untied, untied.state_dict()))


def test_the_gradient_of_a_delta_is_that_of_the_weight() -> None:
    """A penalty ½‖ΔW‖² pulls each weight back by its own distance."""
    model = Full().prepare(tiny.llama(), 0)
    base = tiny.copied(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    penalty = torch.stack([delta.square().sum() for _, delta in Full().deltas(model, base)]).sum() / 2
    penalty.backward()
    for parameter in model.parameters():
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 0.5))


def test_merged_weights_are_copies() -> None:
    """Later training does not change them."""
    model = Full().prepare(tiny.llama(), 0)
    merged = Full().merged(model)
    kept = tiny.copied(merged)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert tiny.same(merged, kept)


@pytest.mark.parametrize(("params", "rate"), [(7_000_000_000, 2e-5), (135_000_000, 9.7e-5), (145_000, 1.5e-3)])
def test_the_default_rate_falls_with_size(params: int, rate: float) -> None:
    """The values in its docstring."""
    assert full_rate(params) == pytest.approx(rate, rel=0.03)
