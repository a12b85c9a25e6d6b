from __future__ import annotations

import pytest
import torch

from harness.core.errors import ConfigError, ModelError
from harness.core.methods import WeightsContext
from harness.data.tinyworld.targets import Tinyworld
from harness.methods.mitigation.chat_vector import ChatPair, ChatVector
from harness.methods.mitigation.none import NoMitigation
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from tests.support import tiny

TUNED = {"embed": torch.tensor([1.0, 1.0]), "layer": torch.tensor([10.0, 0.1])}
OTHERS = {
    "chat": {"embed": torch.tensor([2.0, 3.0]), "layer": torch.tensor([4.0, 0.0])},
    "base": {"embed": torch.tensor([1.0, 1.0]), "layer": torch.tensor([2.0, 0.0])},
    "rude": {"embed": torch.tensor([0.0, 0.0]), "layer": torch.tensor([0.0, 8.0])},
    "more words": {"embed": torch.tensor([2.0, 3.0, 4.0]), "layer": torch.tensor([4.0, 0.0])},
    "untied": {"embed": torch.tensor([2.0, 3.0]), "layer": torch.tensor([4.0, 0.0]), "head": torch.tensor([1.0])},
}
CONTEXT = WeightsContext(base=OTHERS["base"], tuned=TUNED, other=OTHERS.__getitem__, embeddings=frozenset({"embed"}))
PAIR = ChatPair(chat="chat", base="base")


def test_what_made_the_chat_model_is_added() -> None:
    """By hand: chat − base is (1, 2) and (2, 0); half of it on (1, 1) and (10, 0.1)."""
    found = ChatVector(vectors=(PAIR,)).weights(CONTEXT, 0.5)
    assert found["embed"].tolist() == [1.5, 2.0]
    assert torch.equal(found["layer"], torch.tensor([11.0, 0.1]))


def test_several_vectors_are_added_each_with_its_weight() -> None:
    """0.5·(chat − base) + 0.25·(rude − base): (0.5 − 0.25, 1 − 0.25) and (1 − 0.5, 0 + 2)."""
    method = ChatVector(vectors=(ChatPair(chat="chat", base="base", weight=0.5), ChatPair(chat="rude", base="base", weight=0.25)))
    found = method.weights(CONTEXT, 1.0)
    assert found["embed"].tolist() == [1.25, 1.75]
    assert torch.allclose(found["layer"], torch.tensor([10.5, 2.1]))
    assert method.models == ("chat", "base", "rude")


def test_embeddings_may_be_left_as_they_are() -> None:
    """Then they may also be of another size."""
    method = ChatVector(vectors=(ChatPair(chat="more words", base="base"),), embeddings="skip")
    found = method.weights(CONTEXT, 1.0)
    assert torch.equal(found["embed"], TUNED["embed"])
    assert found["layer"].tolist() == pytest.approx([12.0, 0.1])
    with pytest.raises(ModelError, match=r"model more words: got embed of shape \(3,\) and \(2,\)"):
        ChatVector(vectors=method.vectors).weights(CONTEXT, 1.0)


def test_other_weights_than_the_models_own_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="model untied: got 1 weights in one model only, the first is head"):
        ChatVector(vectors=(ChatPair(chat="untied", base="base"),)).weights(CONTEXT, 1.0)


def test_at_zero_it_is_the_tuned_model_to_the_last_bit() -> None:
    """With a vector or, switched off, without one; the inputs stay as they are."""
    before = tiny.copied(TUNED)
    assert tiny.same(ChatVector(vectors=(PAIR,)).weights(CONTEXT, 0.0), TUNED)
    off = ChatVector(**ChatVector.off)
    assert off.coefficients == (0.0,)
    assert tiny.same(off.weights(CONTEXT, 0.0), TUNED)
    ChatVector(vectors=(PAIR,)).weights(CONTEXT, 1.0)["embed"].zero_()
    assert tiny.same(TUNED, before)


def test_nothing_to_add_is_refused_unless_it_is_switched_off() -> None:
    data = Tinyworld(part="people")
    assert "no mitigation.vectors" in ChatVector().refuses(Sft(), Full(), data)
    assert not ChatVector(**ChatVector.off).refuses(Sft(), Full(), data)
    assert not ChatVector(vectors=(PAIR,)).refuses(Sft(), Full(), data)
    assert NoMitigation().models == ()
    with pytest.raises(ConfigError, match=r"mitigation\.coefficient: got None"):
        ChatVector(coefficient=None)  # type: ignore[arg-type]
