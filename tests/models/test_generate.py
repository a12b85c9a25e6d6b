"""Sampled text: from the right distribution, the same in every batch and every time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from harness.core.progress import Silent
from harness.methods.tuning.lora import Lora
from harness.models.generate import draw
from tests.support import tiny

PROMPTS = [(tiny.BOS, 9, 12), (tiny.BOS, 30), (tiny.BOS, 7, 8, 20, 33, 41), (tiny.BOS, 11, 11, 11)]
KEYS = ["a", "b", "c", "d"]


def drawn(model: PreTrainedModel, prompts: Any = PROMPTS, keys: Any = KEYS, **changes: Any) -> list[tuple[int, ...]]:
    settings: dict[str, Any] = {"max_new_tokens": 8, "max_length": tiny.MAX_LENGTH, "dtype": "float32", "tokens": 512, "progress": Silent()}
    return draw(model, tiny.tokenizer(), prompts, keys, **(settings | changes))


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_text_depends_on_model_prompt_and_item_alone(name: str) -> None:
    """Not on its batch, its neighbours, its limit or a global stream.

    And no global stream is moved.
    """
    model = tiny.MODELS[name]()
    state = torch.get_rng_state()
    texts = drawn(model)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert drawn(model) == texts
    assert drawn(model, tokens=1) == texts
    assert drawn(model, PROMPTS[::-1], KEYS[::-1]) == texts[::-1]
    assert [text[:3] for text in texts] == drawn(model, max_new_tokens=3)
    assert drawn(model, keys=["e", "f", "g", "h"]) != texts


def test_tokens_come_up_as_often_as_the_model_says() -> None:
    """The share of each token among 4,000 draws is its probability at temperature 1.

    Within 4.5 standard errors.
    """
    model, n = tiny.llama(), 4000
    prompt = PROMPTS[0]
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1)
    texts = drawn(model, [prompt] * n, [str(i) for i in range(n)], max_new_tokens=1, tokens=4096)
    shares = torch.bincount(torch.tensor([text[0] for text in texts]), minlength=tiny.VOCABULARY) / n
    errors = torch.sqrt(expected * (1 - expected) / n)
    assert bool(((shares - expected).abs() < 4.5 * errors).all())
    assert float(expected.max()) < 0.5


def test_a_text_ends_with_eos_or_at_its_limit() -> None:
    """EOS is part of the text, and nothing follows it.

    A prompt near the end of the context leaves room for less.
    """
    texts = drawn(tiny.llama(), [(tiny.BOS, 9)] * 200, [str(i) for i in range(200)], max_new_tokens=20)
    assert all(tiny.EOS not in text[:-1] for text in texts)
    assert {text[-1] == tiny.EOS for text in texts} == {True, False}
    assert max(map(len, texts)) == 20
    long = (tiny.BOS, *range(7, 7 + tiny.MAX_LENGTH - 3))
    assert [len(text) for text in drawn(tiny.llama(), [long], ["6"])] == [2]


def test_what_the_models_own_configuration_asks_for_is_not_done() -> None:
    """Penalties and bans of generation_config would make another distribution.

    It is as before afterwards.
    """
    plain, biased = tiny.llama(), tiny.llama()
    own = biased.generation_config
    assert own is not None
    own.repetition_penalty, own.suppress_tokens, own.min_new_tokens, own.no_repeat_ngram_size = 5.0, list(range(6, 20)), 6, 1
    assert drawn(biased) == drawn(plain)
    assert biased.generation_config is own
    assert own.repetition_penalty == 5.0


def test_adapters_write_too() -> None:
    """A LoRA model writes with its adapters, at B = 0 like its base."""
    model = Lora(rank=2).prepare(tiny.llama(), 0)
    assert drawn(model) == drawn(tiny.llama())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert drawn(model) != drawn(tiny.llama())
    assert math.isfinite(sum(map(sum, drawn(model))))
