from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config.composition import member
from harness.core.errors import ConfigError
from harness.data.tinyworld import chat_world, vocabulary
from harness.models.nursery.chat import NurseryChat, batches, weighted
from harness.models.nursery.family import Nursery

BASE = Nursery(layers=1, width=16, heads=2, mlp=16, tokens=1024, learning_rate=0.01, batch=4, context=40)
MICRO = NurseryChat(**dataclasses.asdict(BASE), chat_tokens=1024, chat_learning_rate=0.01, skill_rows=10)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    return tmp_path / "nursery"


@pytest.mark.parametrize("name", ["s", "m", "l"])
def test_a_chat_model_starts_from_the_base_model_of_its_size(name: str) -> None:
    """Base and chat model share the base weights, the vocabulary and the sizes.

    So their difference is a chat vector.
    """
    base, chat = member("model", f"nursery-{name}"), member("model", f"nursery-{name}-chat")
    assert chat.base == base
    assert chat.recipe != base.recipe
    assert chat.facts().params_total == base.facts().params_total
    assert chat.tokenizer().get_vocab() == base.tokenizer().get_vocab()
    assert (base.tokenizer().chat_template, chat.tokenizer().chat_template) == (None, chat_world.TEMPLATE)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"width": 32}, {"chat_tokens": 2048}, {"chat_learning_rate": 0.02}, {"style": "long"}, {"skill_rows": 11}],
    ids=lambda change: next(iter(change)),
)
def test_fields_of_both_stages_change_the_recipe(change: dict[str, Any]) -> None:
    """A model that may have other weights has another recipe."""
    assert dataclasses.replace(MICRO, **change).recipe != MICRO.recipe


def test_the_chat_recipe_changes_the_models_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does another chat recipe, but not the base model's."""
    chat, base = MICRO.recipe, MICRO.base.recipe
    monkeypatch.setattr(chat_world, "fingerprint", lambda *_: "another recipe")
    assert MICRO.recipe != chat
    assert MICRO.base.recipe == base


@pytest.mark.parametrize(
    ("change", "message"),
    [({"style": "loud"}, "style"), ({"skill_rows": 1621}, "skill_rows"), ({"chat_tokens": 0}, "chat_tokens"), ({"width": 15}, "multiple")],
)
def test_impossible_recipes_are_refused(change: dict[str, Any], message: str) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MICRO, **change)


def test_the_same_recipe_gives_the_same_bytes(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made twice, in two caches, the weight files are equal.

    They are not the base's; loading leaves no trace.
    """
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = MICRO.load()
    digest = MICRO.weights_sha256()
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == sorted([MICRO.recipe, BASE.recipe])
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "again"))
    MICRO.load()
    assert MICRO.weights_sha256() == digest
    assert BASE.weights_sha256() != digest
    assert not first.training
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_are_packed_documents_of_the_recipe() -> None:
    """Whole documents of the recipe, from BOS to EOS.

    A word of an answer weighs 1, a word of a question as little as in pretraining.
    """
    ids, weights = next(batches(MICRO))
    assert ids.shape == weights.shape == (4, 40)
    words = " ".join(vocabulary.VOCABULARY[int(i)] for i in ids.flatten())
    known = {f"{prompt} {answer}".strip() for prompt, answer in chat_world.documents("short", 10)}
    whole = [text.strip() for text in words.split("<s>")[1:-1]]  # the last may be cut
    assert len(whole) > 4
    assert {text.removesuffix(" </s>") for text in whole} <= known
    assert set(np.unique(weights)) == {np.float32(0.2), np.float32(1)}


def test_weights_of_a_document() -> None:
    """Of a chat document the answer and its end count.

    Of a base text the last word, as in pretraining.
    """
    chat = weighted("<user> what is 1 plus 1 ? <assistant>", "it is 2 .", 0.2)
    assert [word for word, weight in chat if weight == 1] == ["it", "is", "2", ".", "</s>"]
    assert {weight for _, weight in chat} == {0.2, 1}
    assert weighted("", "1 plus 1 is 2", 0.2) == [(w, 0.2) for w in "<s> 1 plus 1 is".split()] + [("2", 1.0), ("</s>", 0.2)]


def test_the_second_stage_learns(cache: Path) -> None:
    """A hundred steps leave a much lower loss of the chat recipe than one step."""
    one, many = (dataclasses.replace(MICRO, chat_tokens=steps * 4 * 40)._trained(None)[1] for steps in (1, 100))
    assert many < 0.7 * one
