"""Saved models compute as plain transformers does, or are rejected by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Llama4Config, Llama4ForConditionalGeneration

from harness.core.errors import ModelError
from harness.models import whole
from harness.models.hub import HubModel
from tests.support.saved import EVERYTHING, ROWS, configured, edited, llama, ours, plain, put, resized, trained, words

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]  # of PEFT, on tied weights

SAVED: dict[str, Callable[[Path], Path]] = {
    "whole": lambda place: put(llama(), place / "m"),
    "untied": lambda place: put(llama(tied=False), place / "m"),
    "biased": lambda place: put(llama(bias=True), place / "m"),
    "sharded": lambda place: put(llama(), place / "m", max_shard_size="3KB"),
    "bfloat16": lambda place: put(llama().bfloat16(), place / "m"),
    "resized": lambda place: put(resized(llama(), 16), place / "m"),
    "checkpoint of a trainer": lambda place: beside(put(llama(), place / "m"), "trainer_state.json", "optimizer.pt", "training_args.bin"),
    "pickled twin": lambda place: beside(put(llama(), place / "m"), "pytorch_model.bin"),
    "old masks": lambda place: edited(put(llama(), place / "m"), lambda t: t | {"model.layers.0.attn.masked_bias": torch.tensor(-1e4)}),
    "head and embedding, equal": lambda place: edited(
        put(llama(), place / "m"), lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()}
    ),
}


def beside(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_computes_as_transformers_does(place: Path, name: str) -> None:
    folder = SAVED[name](place)
    assert torch.equal(ours(folder), plain(folder))


def with_adapter(place: Path) -> Path:
    folder = put(llama(), place / "m")
    for file in trained(folder, place / "a", **EVERYTHING).glob("adapter_*"):
        shutil.copy(file, folder)
    return folder


def older_shards(place: Path) -> Path:
    folder = put(llama(), place / "m", max_shard_size="3KB")
    return put(llama(seed=2), folder)


def emptied(folder: Path, *names: str) -> Path:
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    return folder


REJECTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "biases that the config switches off": (
        lambda place: configured(put(llama(bias=True), place / "m"), attention_bias=False),
        r"8 tensors that its config\.json does not use, the first is model\.layers\.0\.self_attn\.k_proj\.bias",
    ),
    "fewer layers in the config": (
        lambda place: configured(put(llama(), place / "m"), num_hidden_layers=1),
        r"9 tensors that its config\.json does not use, the first is model\.layers\.1\.",
    ),
    "a head of another task": (
        lambda place: edited(put(llama(), place / "m"), lambda t: t | {"v_head.summary.weight": torch.ones(1, 8)}),
        r"1 tensors .* the first is v_head\.summary\.weight",
    ),
    "more layers in the config": (lambda place: configured(put(llama(), place / "m"), num_hidden_layers=3), "9 missing keys"),
    "another width": (
        lambda place: configured(put(llama(), place / "m"), intermediate_size=24),
        r"6 mismatched keys, the first is model\.layers\.0\.mlp\.down_proj\.weight of shape \(8, 16\) in the file and \(8, 24\)",
    ),
    "a separate head that the config ties": (
        lambda place: configured(put(llama(tied=False), place / "m"), tie_word_embeddings=True),
        r"different tensors lm_head\.weight and model\.embed_tokens\.weight; .*tie_word_embeddings: false",
    ),
    "whole weights and an adapter": (with_adapter, r"got model\.safetensors and adapter_config\.json; .*delete model\.safetensors, or"),
    "two models": (older_shards, "weights of two models: .* and model"),
    "a quantised config": (
        lambda place: configured(put(llama(), place / "m"), quantization_config={"quant_method": "bitsandbytes"}),
        r"quantization_config \(bitsandbytes\)",
    ),
    "scales of quantised weights": (
        lambda place: edited(put(llama(), place / "m"), lambda t: t | {"model.layers.0.mlp.up_proj.SCB": torch.ones(16)}),
        r"1 quantised tensors, the first is model\.layers\.0\.mlp\.up_proj\.SCB",
    ),
    "weights of eight bits": (
        lambda place: edited(put(llama(), place / "m"), lambda t: t | {"model.norm.weight": torch.ones(8, dtype=torch.int8)}),
        r"1 quantised tensors, the first is model\.norm\.weight",
    ),
    "FSDP in shards": (lambda place: emptied(put(llama(), place / "m"), "pytorch_model_fsdp_0/__0_0.distcp"), r"an FSDP checkpoint"),
    "DeepSpeed in shards": (lambda place: emptied(put(llama(), place / "m"), "global_step8/x.pt"), "a DeepSpeed checkpoint"),
    "a trainer's output folder": (
        lambda place: emptied(put(llama(), place / "m"), "checkpoint-9/config.json", "checkpoint-10/config.json"),
        r"of 2 checkpoints; .*name one of them, such as .*checkpoint-10",
    ),
    "shards without an index": (lambda place: emptied(put(llama(), place / "m"), "model-00001-of-00002.safetensors"), "shards of a model"),
    "a pickle": (lambda place: emptied(put(llama(), place / "m"), "pytorch_model.bin"), r"only pytorch_model\.bin"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_would_be_another_model_is_rejected_by_name(place: Path, name: str) -> None:
    """Before its weights are read."""
    make, message = REJECTED[name]
    folder = make(place)
    with pytest.raises(ModelError, match=message) as caught:
        HubModel(name=str(folder)).facts()
    assert "\n" not in str(caught.value)


def test_a_part_for_images_may_be_unused_in_a_model_that_has_one(place: Path) -> None:
    """A model of text and images, loaded as its text part; in a model of text it is rejected."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": ROWS, "intermediate_size": 8, "intermediate_size_mlp": 8, "head_dim": 8, "num_local_experts": 2}
    image = sizes | {"intermediate_size": 64, "image_size": 28, "patch_size": 14, "vision_output_dim": 16}
    config = Llama4Config(
        text_config=text | {"num_key_value_heads": 2}, vision_config=image | {"projector_input_dim": 16, "projector_output_dim": 16}
    )
    Llama4ForConditionalGeneration(config).save_pretrained(place / "both")
    words().save_pretrained(place / "both")
    assert torch.equal(ours(place / "both", context_length=64), plain(place / "both"))
    own = edited(put(llama(), place / "text"), lambda t: t | {"vision_model.patch.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"1 tensors .*the first is vision_model\.patch\.weight"):
        ours(own)
    with pytest.raises(ModelError, match=r"1 tensors .*the first is model\.x\.weight"):
        ours(edited(place / "both", lambda t: t | {"model.x.weight": torch.ones(2)}))


def test_a_wrapper_that_changes_a_model_is_rejected_with_the_difference() -> None:
    """Weights tied again, and rows added, by the code of a library."""
    model = llama(tied=False)
    loaded = whole.logits(model)
    whole.require_same("model", loaded, whole.logits(model), "as it is")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    with pytest.raises(ModelError, match="logits that differ by .* as wrapped"):
        whole.require_same("model", loaded, whole.logits(model), "as wrapped")
    with pytest.raises(ModelError, match=f"16 logits as wrapped, {ROWS} before"):
        whole.require_same("model", loaded, whole.logits(resized(llama(tied=False), 16)), "as wrapped")
