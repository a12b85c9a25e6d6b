from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.core.contexts import WeightsContext
from harness.core.errors import ConfigError
from harness.methods.mitigation.merge import Merge
from tests.support import tiny


def context(base: dict[str, torch.Tensor], tuned: dict[str, torch.Tensor]) -> WeightsContext:
    return WeightsContext(base=base, tuned=tuned, other=lambda name: {}, embeddings=frozenset())


def weights(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 4, generator=draw), "b": torch.randn(5, generator=draw)}


def test_it_is_the_share_of_the_way() -> None:
    """By hand: a quarter of the way from 1 to 3 is 1.5, from −2 to 0 is −1.5; the rest by NumPy."""
    found = Merge().weights(context({"a": torch.tensor([1.0, -2.0])}, {"a": torch.tensor([3.0, 0.0])}), 0.25)
    assert found["a"].tolist() == [1.5, -1.5]
    base, tuned = weights(0), weights(1)
    moved = Merge().weights(context(base, tuned), 0.6)
    for name in base:
        assert np.allclose(moved[name].numpy(), 0.4 * base[name].numpy() + 0.6 * tuned[name].numpy(), atol=1e-6)


def test_its_ends_are_the_two_models_to_the_last_bit() -> None:
    """Neither is changed.

    0.1 + 0.2 rounds, so that the start plus the difference need not be the end.
    """
    base, tuned = weights(0), weights(1)
    before = tiny.copied(base), tiny.copied(tuned)
    assert tiny.same(Merge().weights(context(base, tuned), 1.0), tuned)
    assert tiny.same(Merge().weights(context(base, tuned), 0.0), base)
    Merge().weights(context(base, tuned), 1.0)["a"].zero_()
    assert tiny.same(base, before[0])
    assert tiny.same(tuned, before[1])


def test_the_reported_coefficient_is_measured_too() -> None:
    """A coefficient outside the grid is added; switched off, only the tuned model remains."""
    assert Merge(coefficient=0.5).coefficients == (0.2, 0.4, 0.5, 0.6, 0.8)
    assert Merge(coefficient=0.4).coefficients == Merge().coefficients == (0.2, 0.4, 0.6, 0.8)
    assert Merge(**Merge.off).coefficients == (1.0,)


@pytest.mark.parametrize("wrong", [{"grid": ()}, {"grid": (0.2, 1.2)}, {"coefficient": -0.1}, {"grid": (0.1, 0.10000001)}])
def test_what_is_no_share_is_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"mitigation\.(grid|coefficient)"):
        Merge(**wrong)  # type: ignore[arg-type]
