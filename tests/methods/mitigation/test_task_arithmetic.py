from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.core.contexts import WeightsContext
from harness.core.errors import ModelError
from harness.methods.mitigation.task_arithmetic import TaskArithmetic, TaskVector
from tests.support import tiny

BASE = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[0.5]])}
TUNED = {"a": torch.tensor([2.0, 0.0]), "b": torch.tensor([[1.5]])}
OTHERS = {
    "math": {"a": torch.tensor([3.0, 3.0]), "b": torch.tensor([[0.0]])},
    "start": {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[4.0]])},
    "wide": {"a": torch.tensor([3.0, 3.0, 3.0]), "b": torch.tensor([[0.0]])},
}
CONTEXT = WeightsContext(base=BASE, tuned=TUNED, other=OTHERS.__getitem__, embeddings=frozenset())


def test_vectors_are_added_and_scaled() -> None:
    """By hand: own vector (1, −2), 1.

    The other's is (2, 2), −4, with weight ½; so 1 + 0.5·(1 + 1) = 2, 2 + 0.5·(−2 + 1) = 1.5.
    """
    method = TaskArithmetic(vectors=(TaskVector(tuned="math", start="start", weight=0.5),))
    found = method.weights(CONTEXT, 0.5)
    assert found["a"].tolist() == [2.0, 1.5]
    assert found["b"].tolist() == [[0.0]]
    assert method.models == ("math", "start")
    several = TaskArithmetic(vectors=(TaskVector(tuned="math", start="start"), TaskVector(tuned="start", start="math", weight=-1.0)))
    expected = BASE["a"].numpy() + 0.3 * (np.array([1.0, -2.0]) + 2 * np.array([2.0, 2.0]))
    assert np.allclose(several.weights(CONTEXT, 0.3)["a"].numpy(), expected)


def test_with_no_other_vector_its_ends_are_the_two_models() -> None:
    assert tiny.same(TaskArithmetic().weights(CONTEXT, 1.0), TUNED)
    assert tiny.same(TaskArithmetic().weights(CONTEXT, 0.0), BASE)
    assert TaskArithmetic(**TaskArithmetic.off).coefficients == (1.0,)


def test_a_model_of_another_shape_is_rejected() -> None:
    with pytest.raises(ModelError, match=r"model wide: got a of shape \(3,\) and \(2,\)"):
        TaskArithmetic(vectors=(TaskVector(tuned="wide", start="start"),)).weights(CONTEXT, 0.5)
