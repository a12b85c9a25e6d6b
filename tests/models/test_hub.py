"""Pretrained models: inspected without building, loaded whole or rejected in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition, paths
from harness.core.errors import ConfigError, ModelError
from harness.models import weights
from harness.models.folders import find
from harness.models.hub import HubModel
from harness.models.quiet import failures, quiet

WEIGHTS = "model.safetensors"


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
    """A second look reads no bytes."""
    file = folder / "config.json"
    first = weights.file_sha256(file)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("was read again"))
    assert weights.file_sha256(file) == first
    monkeypatch.undo()
    file.write_text(file.read_text() + " ")
    assert weights.file_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


CACHES = ["{ damaged", "[" * 100_000, "[]", '{"KEY": 5}', '{"KEY": [5, 6]}', '{"KEY": [{"state": []}, ""]}']


@pytest.mark.parametrize("text", CACHES)
@pytest.mark.parametrize("cache", ["hashes", "sizes"])
def test_a_damaged_cache_is_only_a_cache(folder: Path, cache: str, text: str) -> None:
    """Its entries are made again, whatever the file holds."""
    facts = HubModel(name=str(folder)).facts()
    store = paths.cache() / f"{cache}.json"
    [key, *_] = json.loads(store.read_text())
    store.write_text(text.replace("KEY", key))
    assert HubModel(name=str(folder)).facts() == facts


@pytest.mark.parametrize(("cache", "wrong"), [("hashes", ("sha256", "0" * 64)), ("sizes", ("params_total", 7))])
def test_an_edited_cache_is_made_again(folder: Path, cache: str, wrong: tuple[str, Any]) -> None:
    """Each entry has a hash of its own."""
    facts = HubModel(name=str(folder)).facts()
    store = paths.cache() / f"{cache}.json"
    entries = json.loads(store.read_text())
    store.write_text(json.dumps({key: [dict([*known.items(), wrong]), digest] for key, (known, digest) in entries.items()}))
    assert HubModel(name=str(folder)).facts() == facts


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


def config(**values: Any) -> Callable[[Path], None]:
    """Return a damage: other values in config.json."""
    return lambda folder: edit(folder / "config.json", lambda known: known | values)


def edit(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def entry(name: str, **values: Any) -> Callable[[Path], None]:
    """Return a damage: other values of a tensor in the header of the weights."""
    return header(lambda known: known | {name: known[name] | values})


def header(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Return a damage: another header of the weights, whose bytes stay."""

    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        text = json.dumps(change(json.loads(content[8:end]))).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[end:])

    return damage


def deep_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((600_000).to_bytes(8, "little") + b'{"a":' * 100_000 + b"1" + b"}" * 99_999)


def deep(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("[" * 100_000)


DOWN = "model.layers.0.mlp.down_proj.weight"  # of shape (8, 16) in bfloat16: 256 bytes
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (entry(DOWN, shape=[8, 15]), r"has 256 bytes, but BF16 of shape \[8, 15\] takes 240"),
        (entry(DOWN, shape=[16, 8]), r"1 mismatched keys, .* of shape \(16, 8\) in the file and \(8, 16\) in the model"),
        (entry(DOWN, shape=[128]), "1 mismatched keys"),
        (entry(DOWN, shape=[-8, -16]), "that are not counts"),
        (entry(DOWN, shape=[10**18, 10**18]), r"has 256 bytes, but BF16 .* takes 2e\+36"),
        (entry(DOWN, shape=None), "that are not counts"),
        (entry(DOWN, shape="8"), "that are not counts"),
        (entry(DOWN, dtype="F32"), r"has 256 bytes, but F32 of shape \[8, 16\] takes 512"),
        (entry(DOWN, dtype="I16"), f"1 quantised tensors, the first is {DOWN}"),
        (entry(DOWN, dtype="X9"), "unknown dtype 'X9'"),
        (entry(DOWN, dtype=["F32"]), "broken safetensors file"),
        (entry(DOWN, data_offsets=[0, 256]), "begins at byte 0"),
        (entry(DOWN, data_offsets=[256, 0]), "begins at byte 256"),
        (entry(DOWN, data_offsets=[0.0, 256.0]), "that are not counts"),
        (entry(DOWN, data_offsets=[1, 2, 3]), "broken safetensors file"),
        (header(lambda known: known | {"__metadata__": 5}), "__metadata__ is not a mapping"),
        (header(lambda known: {UP: known[UP]}), "begins at byte"),
        (deep_header, "broken safetensors file .ValueError: more than 100 nested levels"),
        (deep("model.safetensors.index.json"), "more than 100 nested levels"),
        (deep("config.json"), "more than 100 nested levels"),
        (deep("tokenizer.json"), "tokenizer: got"),
    ],
)
def test_weights_that_contradict_themselves_are_rejected(folder: Path, damage: Callable[[Path], None], word: str) -> None:
    """By their header, before a run starts, in one line that names the tensor."""
    damage(folder)
    with pytest.raises(ModelError, match=word) as caught:
        HubModel(name=str(folder)).facts()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (config(num_hidden_layers=10**9), "num_hidden_layers: got 1000000000; allowed: at most 4096"),
        (config(model_type="qwen2", architectures=["Qwen2ForCausalLM"], num_hidden_layers=10**40), "num_hidden_layers: got 1000"),
        (config(num_labels=10**9), "num_labels: got 1000000000; allowed: at most 65536"),
        (config(text_config={"n_layers": 10**9}), "n_layers: got 1000000000"),
        (config(num_hidden_layers=30), "missing keys"),
        (config(vocab_size=10**12), "1 mismatched keys"),
        (config(hidden_size=10**9), "mismatched keys"),
        (config(num_attention_heads=0), "num_attention_heads: got 0; allowed: greater than 0"),
        (config(num_key_value_heads=0), "num_key_value_heads: got 0; allowed: greater than 0"),
        (config(num_attention_heads=-1), "config.json|weights"),
        (config(head_dim=0), "ZeroDivisionError"),
        (config(num_local_experts=10**9), "num_local_experts: got 1000000000; allowed: at most 65536"),
        (config(max_position_embeddings="64"), "max_position_embeddings.*'64'"),
        (config(max_position_embeddings=0), "max_position_embeddings 0"),
        (config(pad_token_id=10**6), "Padding_idx"),
        (config(architectures=5), "config.json: got TypeError"),
        (config(text_config={"a": 1}), "config.json: got"),
    ],
)
def test_a_config_that_no_model_has_is_rejected(folder: Path, damage: Callable[[Path], None], word: str) -> None:
    """In seconds, whatever sizes it asks for: nothing of that size is made."""
    damage(folder)
    with pytest.raises(ModelError, match=word) as caught:
        HubModel(name=str(folder)).facts()
    assert "\n" not in str(caught.value)


@pytest.mark.model
def test_every_default_config_of_transformers_is_accepted(tmp_path: Path) -> None:
    """No limit is below what some model has: Doge has 16384 experts."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    tried = set()
    with quiet():
        for kind in CAUSAL:
            try:
                (tmp_path / "config.json").write_text(CONFIG_MAPPING[kind]().to_json_string(use_diff=False))
            except failures():  # a few have no defaults
                continue
            tried.add(kind)
            assert find(str(tmp_path), None, weights=True, code=False) == tmp_path
    assert len(tried) > 0.9 * len(CAUSAL)


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
