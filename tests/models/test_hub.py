"""Pretrained models: inspected without building, loaded whole or rejected in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import composition, paths
from harness.core.errors import ConfigError, ModelError
from harness.models import weights
from harness.models.hub import HubModel

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a two-layer Llama with a tokenizer of ten words, as save_pretrained writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate("abcdefghij")}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="j").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=9,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy that a test may damage, with a cache of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_facts_are_known_without_building(folder: Path) -> None:
    """The embedding has 80 parameters, shared with the output head.

    Two layers have 592 each, the final norm has 8.
    """
    attention = 8 * 8 + 2 * (8 * 4) + 8 * 8
    facts = HubModel(name=str(folder)).facts()
    assert facts.params_total == 10 * 8 + 2 * (attention + 3 * 8 * 16 + 2 * 8) + 8
    assert facts.context_length == 64
    assert facts.content[WEIGHTS] == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(facts.content)


def test_a_model_is_loaded_in_float32_for_evaluation(folder: Path) -> None:
    """Also from a checkpoint in another dtype."""
    import torch

    model = HubModel(name=str(folder)).load()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.device.type == "cpu"
    assert HubModel(name=str(folder)).tokenizer().encode("b c") == [1, 2]


def test_the_weights_hash_changes_with_the_weights(folder: Path) -> None:
    """And not with anything else."""
    before = HubModel(name=str(folder)).weights_sha256()
    (folder / "generation_config.json").write_text("{}")
    assert HubModel(name=str(folder)).weights_sha256() == before
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    assert HubModel(name=str(folder)).weights_sha256() != before


def test_hashes_are_remembered_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look reads no bytes; a damaged cache is only a cache."""
    file = folder / "config.json"
    first = weights.file_sha256(file)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("was read again"))
    assert weights.file_sha256(file) == first
    monkeypatch.undo()
    file.write_text(file.read_text() + " ")
    assert weights.file_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    (paths.cache() / "hashes.json").write_text("{ damaged")
    assert weights.file_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def scramble(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:8] + b"\xff" + content[9:])


def lengthen(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(b"\xff" * 8 + content[8:])


def pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def split(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def encoder_decoder(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": true}')


def masked(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')


def remote(folder: Path) -> None:
    values = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(values))


def unreadable(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def smaller(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"vocab_size": 5}))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (cut, "the file was cut off or damaged"),
        (scramble, "broken safetensors file"),
        (lengthen, "header is longer than the file"),
        (pickle, r"only pytorch_model\.bin; allowed: safetensors only"),
        (split, "1 of 2 weight files missing, the first is model-00002"),
        (encoder_decoder, r"got t5 \(T5ForConditionalGeneration\); allowed: causal language models"),
        (masked, r"got bert \(BertForMaskedLM\)"),
        (remote, r"fix: model\.trust_remote_code=true"),
        (unreadable, r"config\.json"),
        (no_config, r"without config\.json"),
        (no_tokenizer, "no tokenizer"),
        (broken_tokenizer, "tokenizer: got"),
        (smaller, "token 9; allowed: at most 4"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_in_one_line(folder: Path, damage: Callable[[Path], None], word: str) -> None:
    """Before anything is built."""
    damage(folder)
    with pytest.raises(ModelError, match=word) as caught:
        HubModel(name=str(folder)).facts()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_lacks_a_weight_is_refused(folder: Path) -> None:
    """It would be random, and everything measured on it nonsense."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing keys, the first is model\.layers\.1\.mlp\.up_proj\.weight"):
        HubModel(name=str(folder)).load()


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "a/b/c", "nobody/nothing"])
def test_a_model_that_is_not_there_is_one_line(name: str) -> None:
    """A path that is not a directory, and a hub name without a network."""
    with pytest.raises(ModelError, match=r"model\.name: got") as caught:
        HubModel(name=name).facts()
    assert "\n" not in str(caught.value)


def test_a_context_length_that_no_config_gives_must_be_set(folder: Path) -> None:
    """It is never guessed."""
    assert HubModel(name=str(folder), context_length=32).facts().context_length == 32
    with pytest.raises(ConfigError, match=r"model\.context_length"):
        HubModel(name=str(folder), context_length=0)


@pytest.mark.parametrize("name", [name for name in paths.members("conf/model") if not name.startswith(("nursery", "hf"))])
def test_every_ready_model_is_valid(name: str) -> None:
    """Its yaml passes every check that needs no model."""
    assert isinstance(composition.member("model", name), HubModel)


@pytest.mark.hub
def test_a_real_model_is_inspected_and_loaded() -> None:
    """134,515,008 parameters, the output head shared with the embedding."""
    source = HubModel(name="offline/SmolLM2-135M-Instruct-Q4")
    facts = source.facts()
    assert facts.params_total == 134_515_008
    assert facts.context_length == 8192
    assert sum(parameter.numel() for parameter in source.load().parameters()) == facts.params_total
