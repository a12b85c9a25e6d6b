"""Adapters compute as PEFT computes them unmerged, or are rejected by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from harness.core.errors import ConfigError, ModelError
from harness.core.sandbox import TemplateLimitError
from harness.core.seeds import seed_torch
from harness.models.hub import HubModel
from tests.support.saved import EVERYTHING, ROWS, changed, llama, ours, plain, put, resized, trained, words

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]  # of PEFT, on tied weights

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
    assert HubModel(name=str(folder)).facts().content
    saved = put(HubModel(name=str(folder)).load(), place / "merged")
    assert torch.allclose(ours(saved), wanted, atol=1e-5)


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
    assert "brings its own chat template, in place of those of its base" in source.facts().notes[0]
    assert source.facts().content != before
    words(ROWS - 1, "{{ messages[0].content }}?").save_pretrained(folder)
    assert len(source.tokenizer()) == ROWS - 1
    assert source.tokenizer().chat_template == "{{ messages[0].content }}?"
    assert "brings its own tokenizer and chat template" in source.facts().notes[0]


def test_the_template_of_an_adapter_has_limits(place: Path) -> None:
    """Like one that comes with a tokenizer."""
    folder = trained(put(llama(), place / "base"), place / "adapter", **EVERYTHING)
    (folder / "chat_template.jinja").write_text("{{ 'a' * 10**11 }}")
    with pytest.raises(TemplateLimitError):
        HubModel(name=str(folder)).tokenizer().apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    (folder / "chat_template.jinja").write_bytes("café".encode("latin-1"))
    with pytest.raises(ModelError, match="chat_template.jinja: got UnicodeDecodeError.*a template in UTF-8"):
        HubModel(name=str(folder)).tokenizer()


def test_a_chain_of_adapters_is_identified_by_all_of_it(place: Path) -> None:
    """Their files have the same names: two first adapters under one second are two models."""
    base = put(llama(), place / "base")
    first, other = (trained(base, place / name, **EVERYTHING) for name in ("first", "other"))
    tensors = {name: 2.0 * tensor for name, tensor in load_file(other / "adapter_model.safetensors").items()}
    save_file(tensors, other / "adapter_model.safetensors")
    second = trained(base, place / "second", **EVERYTHING)
    one, two = (HubModel(name=str(second), base=str(folder)) for folder in (first, other))
    assert not torch.allclose(plain(put(one.load(), place / "one")), plain(put(two.load(), place / "two")), atol=1e-3)
    assert one.facts().content != two.facts().content


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


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, r"base_model_name_or_path ''; .*fix: model\.base="),
        ("/nowhere/at/all", r"base_model_name_or_path '/nowhere/at/all'; allowed: a base that exists; fix: model\.base="),
        ("unsloth/llama-3-bnb-4bit", r"the quantised base unsloth/llama-3-bnb-4bit; .*fix: model\.base=unsloth/llama-3, if"),
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
        HubModel(name=str(folder)).facts()
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="missing adapter keys"):
        HubModel(name=str(folder)).facts()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 10**12}, "size mismatch"),
        ({"r": 0}, "`r` should be a positive integer"),
        ({"rank_pattern": {"q_proj": 10**12}}, "size mismatch"),
        ({"lora_alpha": "x"}, "TypeError"),
        ({"target_modules": "("}, "unterminated subpattern"),
        ({"target_modules": ["nothing"]}, "Target modules"),
        ({"peft_type": "NOTHING"}, "KeyError: 'NOTHING'"),
    ],
)
def test_settings_that_are_not_those_of_its_weights_are_rejected(place: Path, settings: dict[str, Any], message: str) -> None:
    """Before a run starts, on the meta device: nothing of the rank that they name is made."""
    folder = trained(put(llama(), place / "base"), place / "adapter", **EVERYTHING)
    with pytest.raises(ModelError, match=message) as caught:
        HubModel(name=str(changed(folder, **settings))).facts()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("method", "settings"), [("BOFT", {"boft_block_size": 2}), ("Shira", {"r": 2}), ("HRA", {"r": 2})])
def test_methods_that_the_meta_device_cannot_build_are_checked_at_load(place: Path, method: str, settings: dict[str, Any]) -> None:
    """BOFT needs values, and SHiRA an operator, that it lacks; HRA is checked before."""
    if not hasattr(peft, f"{method}Config"):
        pytest.skip("a later version of PEFT has it")
    base, folder = put(llama(), place / "base"), place / "adapter"
    seed_torch(0)
    adapted: Any = get_peft_model(llama(), getattr(peft, f"{method}Config")(target_modules=["q_proj"], **settings))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn_like(weight))
    adapted.save_pretrained(str(folder))
    changed(folder, base_model_name_or_path=str(base))
    assert not torch.allclose(plain(folder, base), plain(base), atol=1e-2)
    assert torch.allclose(ours(folder), plain(folder, base), atol=1e-5)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.7.mlp.weight"] = torch.ones(2)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors that its base does not use, the first is .*layers\.7"):
        HubModel(name=str(folder)).load()


def test_settings_that_cannot_be_read_are_rejected(place: Path) -> None:
    """JSON without an end to its depth."""
    folder = trained(put(llama(), place / "base"), place / "adapter", **EVERYTHING)
    (folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="more than 100 nested levels"):
        HubModel(name=str(folder)).facts()


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
