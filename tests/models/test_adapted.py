"""Saved models and adapters: logits of plain transformers or PEFT, or rejected by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from harness.core.errors import ConfigError, ModelError
from harness.core.seeds import seed_torch, untouched_global_streams
from harness.models import whole
from harness.models.hub import HubModel

ROWS = 12
IDS = torch.arange(10)[None]
EVERYTHING: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]  # of PEFT, on tied weights


def words(count: int = ROWS, template: str | None = None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({chr(97 + i): i for i in range(count)}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="j", chat_template=template)


def llama(*, tied: bool = True, bias: bool = False, rows: int = ROWS, seed: int = 0) -> Any:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=rows, max_position_embeddings=64, tie_word_embeddings=tied, attention_bias=bias, initializer_range=0.5,
        bos_token_id=None, eos_token_id=9, **sizes,
    )  # fmt: skip
    with untouched_global_streams():
        seed_torch(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():  # biases begin at zero
            for name, weight in model.named_parameters():
                if name.endswith("bias"):
                    weight.normal_()
        return model


def put(model: Any, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    words(model.config.vocab_size).save_pretrained(folder)
    return folder


def plain(folder: Path, base: Path | None = None) -> torch.Tensor:
    """Logits of transformers, or of PEFT's unmerged adapter."""
    model: Any = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32)
    if base:
        model = PeftModel.from_pretrained(model, str(folder))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def ours(folder: Path, **settings: Any) -> torch.Tensor:
    source = HubModel(name=str(folder), **settings)
    facts, model = source.facts(), source.load()
    assert facts.params_total == sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with a cache of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def trained(base: Path, folder: Path, *, rows: int | None = None, dtype: Any = torch.float32, **settings: Any) -> Path:
    """Save an adapter whose every weight has moved."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with untouched_global_streams():
        seed_torch(1)
        if rows:
            model.resize_token_embeddings(rows, mean_resizing=False)
        adapted: Any = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight.add_(0.3 * torch.randn_like(weight))
    adapted.to(dtype).save_pretrained(str(folder))
    return folder


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": EVERYTHING,
    "dora": EVERYTHING | {"use_dora": True},
    "rslora": EVERYTHING | {"use_rslora": True},
    "bfloat16": EVERYTHING | {"dtype": torch.bfloat16},
    "embedding": {"target_modules": ["embed_tokens"]},
    "head": {"target_modules": ["lm_head"]},
    "both": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "both, kept tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "dora on the embedding": {"target_modules": ["embed_tokens"], "use_dora": True},
    "embedding saved whole": EVERYTHING | {"modules_to_save": ["embed_tokens"]},
    "both saved whole": EVERYTHING | {"modules_to_save": ["embed_tokens", "lm_head"]},
    "single tokens": EVERYTHING | {"trainable_token_indices": [3, 5]},
    "biases": EVERYTHING | {"bias": "lora_only"},
    "all biases": EVERYTHING | {"bias": "all"},
}


UNTIED = ("lora", "both", "both saved whole", "biases")
"""Those also shown on a base whose head is a weight of its own."""


@pytest.mark.parametrize(("name", "tied"), [*((name, True) for name in ADAPTERS), *((name, False) for name in UNTIED)])
def test_an_adapter_computes_as_peft_does_unmerged(place: Path, name: str, tied: bool) -> None:
    """On tied and untied embeddings; saved again, the merged model is the same model."""
    base = put(llama(tied=tied, bias="bias" in name), place / "base")
    folder = trained(base, place / "adapter", **ADAPTERS[name])
    wanted = plain(folder, base)
    assert not torch.allclose(wanted, plain(base), atol=1e-2)
    assert torch.allclose(ours(folder), wanted, atol=1e-5)
    saved = put(HubModel(name=str(folder)).load(), place / "merged")
    assert torch.allclose(ours(saved), wanted, atol=1e-5)


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


def resized(model: Any, rows: int) -> Any:
    model.resize_token_embeddings(rows)
    return model


def beside(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("{}")
    return folder


def edited(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configured(folder: Path, **values: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | values))
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


def test_a_settings_file_without_weights_is_an_adapter(place: Path) -> None:
    """As trainers write: config.json of the base next to the adapter."""
    base = put(llama(), place / "base")
    folder = trained(base, place / "adapter", **EVERYTHING)
    shutil.copy(base / "config.json", folder)
    assert torch.allclose(ours(folder), plain(base=base, folder=folder), atol=1e-5)


def test_an_adapter_brings_its_own_tokenizer_and_template(place: Path) -> None:
    """Both together, the template alone, and neither; each is part of the content, and noted."""
    base = put(llama(), place / "base")
    folder = trained(base, place / "adapter", **EVERYTHING)
    assert HubModel(name=str(folder)).facts().notes == ()
    before = HubModel(name=str(folder)).facts().content
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    source = HubModel(name=str(folder))
    assert source.tokenizer().chat_template == "{{ messages[0].content }}!"
    assert "brings its own chat template, used in place of those of" in source.facts().notes[0]
    assert source.facts().content != before
    words(ROWS - 1, "{{ messages[0].content }}?").save_pretrained(folder)
    assert len(source.tokenizer()) == ROWS - 1
    assert source.tokenizer().chat_template == "{{ messages[0].content }}?"
    assert "brings its own tokenizer and chat template" in source.facts().notes[0]


def test_an_adapter_with_more_rows_resizes_its_base(place: Path) -> None:
    """Where it brings their values; as PEFT on a base resized by hand."""
    base = put(llama(), place / "base")
    folder = trained(base, place / "adapter", rows=16, **EVERYTHING, modules_to_save=["embed_tokens", "lm_head"])
    assert torch.allclose(ours(folder)[..., :ROWS], plain(folder, put(resized(llama(), 16), place / "large"))[..., :ROWS], atol=1e-5)
    assert f"has 16 rows of the embedding: its base {base} is resized from {ROWS}" in HubModel(name=str(folder)).facts().notes[0]


def test_rows_without_values_are_rejected_with_both_numbers(place: Path) -> None:
    """An adapter of a larger embedding, and a tokenizer of one, without its values."""
    base = put(llama(), place / "base")
    folder = trained(base, place / "adapter", rows=16, target_modules=["embed_tokens"])
    kept = {name: tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items() if "base_layer" not in name}
    save_file(kept, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=f"16 rows of the embedding for a base of {ROWS}"):
        HubModel(name=str(folder)).facts()
    other = trained(base, place / "other", **EVERYTHING)
    words(20).save_pretrained(other)
    with pytest.raises(ModelError, match=f"token 19; allowed: at most {ROWS - 1}: the model has {ROWS} rows; fix: delete its tokenizer"):
        HubModel(name=str(other)).facts()


def changed(folder: Path, **values: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(json.loads((folder / "adapter_config.json").read_text()) | values))
    return folder


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, r"base_model_name_or_path ''; .*fix: model\.base="),
        ("/nowhere/at/all", r"base_model_name_or_path '/nowhere/at/all'; allowed: a base that exists; fix: model\.base="),
        ("unsloth/llama-3-bnb-4bit", r"the quantised base unsloth/llama-3-bnb-4bit; .*fix: model\.base="),
        ("itself", r"the base .*adapter, which is loaded onto it; allowed: a base of its own"),
        ("nobody/nothing", r"adapter .*, base nobody/nothing: model\.name: got 'nobody/nothing'"),
    ],
)
def test_a_base_that_cannot_be_used_is_rejected_with_the_way_to_name_another(place: Path, base: str | None, message: str) -> None:
    whole_model = put(llama(), place / "base")
    folder = trained(whole_model, place / "adapter", **EVERYTHING)
    named = str(folder) if base == "itself" else base
    with pytest.raises(ModelError, match=message):
        HubModel(name=str(changed(folder, base_model_name_or_path=named))).facts()
    assert torch.allclose(ours(folder, base=str(whole_model)), plain(folder, whole_model), atol=1e-5)


def test_an_adapter_that_was_trained_on_a_merged_one_is_loaded_onto_it(place: Path) -> None:
    """As PEFT on the merged model, saved; another base of the first is not forgotten."""
    base = put(llama(), place / "base")
    first = trained(base, place / "first", target_modules=["embed_tokens", "q_proj"])
    merged = put(HubModel(name=str(first)).load(), place / "merged")
    second = place / "second"
    for given, named in ((None, str(first)), (str(put(llama(seed=3), place / "other")), "")):
        start: Any = HubModel(name=str(first), base=given).load()
        get_peft_model(start, LoraConfig(r=2, **EVERYTHING)).save_pretrained(str(second))
        assert (json.loads((second / "adapter_config.json").read_text())["base_model_name_or_path"] or "") == named
    trained(merged, second, **EVERYTHING)
    assert torch.allclose(ours(changed(second, base_model_name_or_path=str(first))), plain(second, merged), atol=1e-5)


def test_a_tensor_that_the_base_lacks_is_rejected(place: Path) -> None:
    """More layers than the base has; and a weight that the file lacks."""
    folder = trained(put(llama(), place / "base"), place / "adapter", **EVERYTHING)
    tensors = load_file(folder / "adapter_model.safetensors")
    first = next(iter(tensors))
    save_file(tensors | {first.replace("layers.0", "layers.7"): tensors[first].clone()}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors that its base does not use, the first is .*layers\.7"):
        HubModel(name=str(folder)).load()
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="missing adapter keys"):
        HubModel(name=str(folder)).load()


@pytest.fixture
def hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub on disk: org/m at main and at the tag old, other weights each."""
    from huggingface_hub import constants

    root = place / "hub" / "models--org--m"
    for seed, (ref, commit) in enumerate({"main": "a" * 40, "old": "b" * 40}.items()):
        put(llama(seed=seed), root / "snapshots" / commit)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return root / "snapshots"


def test_an_adapter_is_loaded_onto_the_revision_that_it_names(hub: Path, place: Path) -> None:
    """Another base, or another revision, can be named, and is noted."""
    main, old = hub / ("a" * 40), hub / ("b" * 40)
    folder = changed(trained(old, place / "adapter", **EVERYTHING), base_model_name_or_path="org/m", revision="old")
    assert torch.allclose(ours(folder), plain(folder, old), atol=1e-5)
    assert torch.allclose(ours(folder, base="org/m"), plain(folder, main), atol=1e-5)
    assert "names the base org/m@old, but is loaded onto org/m" in HubModel(name=str(folder), base="org/m").facts().notes[0]
    assert HubModel(name=str(folder)).facts().notes == ()


def test_a_name_may_have_a_revision(hub: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path with an @ that exists wins; a folder has no revisions; two revisions are rejected."""
    assert torch.equal(ours(Path("org/m@old")), plain(hub / ("b" * 40)))
    assert torch.equal(ours(Path("org/m"), revision="old"), plain(hub / ("b" * 40)))
    assert HubModel(name="org/m@old").facts().content == HubModel(name="org/m", revision="old").facts().content
    monkeypatch.chdir(place)
    put(llama(seed=7), place / "org" / "m@old")
    assert torch.equal(ours(Path("org/m@old")), plain(place / "org" / "m@old"))
    with pytest.raises(ModelError, match=r"got x of the folder \./org/m@old"):
        HubModel(name="./org/m@old@x").facts()
    with pytest.raises(ConfigError, match="got main for org/m@other; allowed: one revision"):
        HubModel(name="org/m@other", revision="main")
    with pytest.raises(ModelError, match=r"model\.base: got 'org/m' for org/m, a whole model"):
        HubModel(name="org/m", base="org/m").facts()


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


def test_an_adapter_of_the_hub_is_a_model_too(hub: Path, place: Path) -> None:
    """Its own revision is not its base's."""
    folder = changed(trained(hub / ("b" * 40), place / "adapter", **EVERYTHING), base_model_name_or_path="org/m", revision="old")
    root = hub.parents[1] / "models--org--ad"
    shutil.copytree(folder, root / "snapshots" / ("c" * 40))
    (root / "refs").mkdir()
    (root / "refs" / "v2").write_text("c" * 40)
    assert torch.allclose(ours(Path("org/ad@v2")), plain(folder, hub / ("b" * 40)), atol=1e-5)


def test_a_merge_that_changes_the_model_is_rejected_with_the_difference(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's own merge of a tied embedding, which adds the change of one place to both."""
    from harness.models import adapted

    folder = trained(put(llama(), place / "base"), place / "adapter", target_modules=["embed_tokens"])
    monkeypatch.setattr(adapted, "separate", lambda model: False)
    with pytest.raises(ModelError, match=r"adapter .*logits that differ by [1-9]\S* when the adapter is merged"):
        HubModel(name=str(folder)).load()
