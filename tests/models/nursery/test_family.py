from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.config import paths
from harness.config.composition import member
from harness.core.errors import ConfigError, ModelError
from harness.data.tinyworld import vocabulary as tiny_vocabulary
from harness.data.tinyworld import world
from harness.models.nursery import family as module
from harness.models.nursery.family import NOTES, Nursery
from harness.models.nursery.pretraining import batches, pretrain

MICRO = Nursery(layers=1, width=16, heads=2, mlp=16, tokens=1024, learning_rate=0.01, batch=4, context=32)
FAMILY = ("nursery-xs", "nursery-s", "nursery-m", "nursery-l", "nursery-xl")
PARTNERS = ("nursery-s-chat", "nursery-m-chat", "nursery-l-chat")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    return tmp_path / "nursery"


def forbid_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Nursery) -> Any:
        raise AssertionError("pretrained again")

    monkeypatch.setattr(module, "pretrain", fail)


def test_facts_count_the_parameters_of_the_built_model(cache: Path) -> None:
    """The count on the meta device equals that of the loaded model; nothing is pretrained."""
    facts = MICRO.facts()
    assert not cache.exists()
    width, vocabulary = 16, len(tiny_vocabulary.VOCABULARY)
    layer = 4 * width * width + 3 * width * 16 + 2 * width
    assert facts.params_total == vocabulary * width + layer + width
    assert facts.params_total == sum(parameter.numel() for parameter in MICRO.load().parameters())
    assert facts.context_length == 32
    assert facts.content == {"recipe": MICRO.recipe}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", 2),
        ("width", 32),
        ("heads", 4),
        ("mlp", 24),
        ("tokens", 2048),
        ("learning_rate", 0.02),
        ("batch", 8),
        ("context", 64),
        ("warmup", 0.2),
        ("weight_decay", 0.0),
        ("prompt_weight", 1.0),
        ("seed", 1),
    ],
)
def test_every_field_changes_the_recipe(field: str, value: float) -> None:
    """A model that may have other weights has another recipe."""
    assert dataclasses.replace(MICRO, **{field: value}).recipe != MICRO.recipe  # type: ignore[arg-type]


def test_every_field_is_tried() -> None:
    """The test above names every field there is."""
    named = "layers width heads mlp tokens learning_rate batch context warmup weight_decay prompt_weight seed"
    assert named.split() == [field.name for field in dataclasses.fields(Nursery)]


def test_the_world_changes_the_recipe_and_the_cache_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The recipe depends on the pretraining data and vocabulary, not on places."""
    before = MICRO.recipe
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "elsewhere"))
    assert MICRO.recipe == before == dataclasses.replace(MICRO).recipe
    monkeypatch.setattr(world, "fingerprint", lambda: "another world")
    assert MICRO.recipe != before


def test_its_content_has_the_bytes_of_its_weights_once_it_is_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine that follows the same recipe gets other weights, which are another model."""
    assert (MICRO.is_made, set(MICRO.facts().content)) == (False, {"recipe"})
    MICRO.load()
    made = MICRO.facts().content
    assert (MICRO.is_made, made["model.safetensors"]) == (True, MICRO.weights_sha256())
    elsewhere(monkeypatch)
    shutil.rmtree(cache / MICRO.recipe)
    MICRO.load()
    rebuilt = MICRO.facts().content
    assert rebuilt["recipe"] == made["recipe"]
    assert rebuilt["model.safetensors"] != made["model.safetensors"]


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pretraining give other weights, as on another machine."""

    def other(nursery: Nursery) -> Any:
        model, loss = pretrain(nursery)
        with torch.no_grad():
            next(model.parameters())[0, 0] += 1e-3
        return model, loss

    monkeypatch.setattr(module, "pretrain", other)


def test_a_cached_model_is_not_pretrained_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load reads the same weights from the cache."""
    first = MICRO.load()
    digest = MICRO.weights_sha256()
    forbid_pretraining(monkeypatch)
    again = MICRO.load()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not again.training
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert MICRO.weights_sha256() == digest
    assert [path.name for path in sorted(cache.iterdir()) if path.is_dir()] == [MICRO.recipe]
    assert len({path.stat().st_mode for path in (cache / MICRO.recipe).iterdir()}) == 1


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 64
    file.write_bytes(content)


def shorten(file: Path) -> None:
    """Save the weights of a model without its blocks, as a whole safetensors file."""
    kept = {name: value for name, value in load_file(file).items() if ".layers." not in name}
    save_file(kept, file, {"format": "pt"})


WEIGHTS_LOST: dict[str, Callable[[Path], Any]] = {
    "no notes": lambda folder: (folder / NOTES).unlink(),
    "notes in pieces": lambda folder: (folder / NOTES).write_text("[" * 100_000),
    "cut weights": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "a bit of the weights": lambda folder: flip(folder / "model.safetensors"),
    "weights of another depth": lambda folder: shorten(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
}

WEIGHTS_KEPT: dict[str, Callable[[Path], Any]] = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "another depth": lambda folder: edit(folder / "config.json", num_hidden_layers=3),
    "another epsilon": lambda folder: edit(folder / "config.json", rms_norm_eps=0.5),
    "another tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "an adapter beside it": lambda folder: (folder / "adapter_config.json").write_text("{}"),
}


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("damage", WEIGHTS_LOST)
def test_damaged_weights_are_pretrained_again_and_that_is_said(cache: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each file is compared with its hash of when it was written; the line names what differs."""
    MICRO.load()
    digest, folder = MICRO.weights_sha256(), cache / MICRO.recipe
    WEIGHTS_LOST[damage](folder)
    assert (MICRO.is_made, MICRO.has_weights) == (False, False)
    assert set(MICRO.facts().content) == {"recipe"}
    caplog.clear()
    MICRO.load()
    said = "nursery.json, model.safetensors" if "notes" in damage else "model.safetensors"
    assert warned(caplog) == [f"nursery model {folder}: damaged or missing: {said}; pretrained again"]
    assert (MICRO.is_made, MICRO.weights_sha256()) == (True, digest)


@pytest.mark.parametrize("damage", WEIGHTS_KEPT)
def test_sound_weights_are_kept_when_other_files_are_damaged(
    cache: Path, damage: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of another machine are other runs, so the model is not pretrained again."""
    first, folder = MICRO.load(), cache / MICRO.recipe
    content, files = MICRO.facts().content, {path.name: path.read_bytes() for path in folder.iterdir()}
    forbid_pretraining(monkeypatch)
    WEIGHTS_KEPT[damage](folder)
    assert (MICRO.is_made, MICRO.has_weights) == (False, True)
    caplog.clear()
    again = MICRO.load()
    [line] = warned(caplog)
    assert line.endswith("written again, with the same weights")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert MICRO.facts().content == content
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert MICRO.damage is None


def test_a_model_that_lacks_a_weight_is_rejected(cache: Path) -> None:
    """Even where the hash of its file is right: the weight would be random."""
    MICRO.load()
    folder = cache / MICRO.recipe
    shorten(folder / "model.safetensors")
    notes = json.loads((folder / NOTES).read_text())
    notes["files"]["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / NOTES).write_text(json.dumps(notes))
    with pytest.raises(ModelError, match=r"got 9 missing keys, the first is model.layers.0"):
        MICRO.load()


def test_two_that_want_one_model_both_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pretrains, the other waits for it."""
    calls: list[int] = []

    def slow(nursery: Nursery) -> Any:
        calls.append(1)
        time.sleep(0.3)
        return pretrain(nursery)

    monkeypatch.setattr(module, "pretrain", slow)
    folders: list[Path] = []
    workers = [threading.Thread(target=lambda: folders.append(MICRO._pretrained())) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(folders) == 2
    assert len(calls) == 1


def test_a_faster_process_where_locks_do_not_work_is_accepted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding the folder filled at the end, the slower one uses it."""
    MICRO._fill(cache_folder(cache))
    digest, filled = MICRO.weights_sha256(), cache_folder(cache).rename(cache / "filled")

    def slow(nursery: Nursery) -> Any:
        shutil.copytree(filled, cache_folder(cache))
        return pretrain(dataclasses.replace(nursery, seed=1))

    monkeypatch.setattr(module, "pretrain", slow)
    MICRO._fill(cache_folder(cache))
    assert MICRO.weights_sha256() == digest


def cache_folder(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    return cache / MICRO.recipe


def test_a_cache_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to set."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="HARNESS_CACHE") as caught:
        MICRO.load()
    assert "\n" not in str(caught.value)


def test_the_weight_hash_of_a_model_never_loaded_is_an_error(cache: Path) -> None:
    """There is no hash of what is not there."""
    with pytest.raises(ModelError, match="load"):
        MICRO.weights_sha256()


def test_pretraining_is_deterministic_and_leaves_no_trace() -> None:
    """Same recipe, same weights.

    Another seed, others; threads and global random state are as before.
    """
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first, again, other = pretrain(MICRO)[0], pretrain(MICRO)[0], pretrain(dataclasses.replace(MICRO, seed=1))[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training


def test_pretraining_learns() -> None:
    """A hundred steps bring the loss well below that of guessing among all words."""
    _, loss = pretrain(dataclasses.replace(MICRO, tokens=100 * 4 * 32))
    assert loss < 0.75 * np.log(len(tiny_vocabulary.VOCABULARY))


def test_batches_are_packed_documents() -> None:
    """A batch has the stated shape and holds base documents, from BOS to EOS."""
    batch = next(batches(MICRO))
    assert batch.shape == (4, 32)
    words = " ".join(tiny_vocabulary.VOCABULARY[int(i)] for i in batch.flatten())
    known = set(world.documents())
    whole = [text.strip() for text in words.split("<s>")[1:-1]]  # the last may be cut
    assert len(whole) > 5
    assert {text.removesuffix(" </s>") for text in whole} <= known
    assert all(text.endswith(" </s>") for text in whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 15}, "multiple"), ({"layers": 0}, "layers"), ({"warmup": 2.0}, "warmup"), ({"context": 8}, "context")],
)
def test_impossible_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    """The error names the field."""
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MICRO, **change)


def test_the_longest_text_fits() -> None:
    """Every row of tinyworld fits the context of every nursery model with room to spare."""
    from harness.data.tinyworld.targets import Tinyworld

    parts = [Tinyworld(part="people"), Tinyworld(part="skill"), Tinyworld(part="language"), Tinyworld(part="base")]
    assert max(len(row.text.split()) for part in parts for row in part.rows("train")) + 2 <= 32


def test_the_cache_lies_where_caches_lie(cache: Path) -> None:
    """Under the cache folder of the harness, by recipe."""
    MICRO.load()
    assert (paths.cache() / "nursery" / MICRO.recipe / "model.safetensors").is_file()


@pytest.mark.parametrize("name", [*FAMILY, *PARTNERS])
def test_the_family_ships(name: str, cache: Path) -> None:
    """Nothing is pretrained or written: every machine starts from the same bytes, its identity."""
    model = member("model", name)
    notes = json.loads((module.SHIPPED / name / NOTES).read_text())
    assert (model.ships, model.is_made, model.damage) == (True, True, None)
    assert model.facts().content == notes["files"]
    assert notes["recipe"] == model.recipe
    assert notes["files"]["model.safetensors"] == hashlib.sha256((module.SHIPPED / name / "model.safetensors").read_bytes()).hexdigest()
    found = model.load()
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert all(torch.equal(parameter, parameter.bfloat16().float()) for parameter in found.parameters())
    assert not cache.exists()


def test_all_sizes_see_the_same_texts_in_the_same_order() -> None:
    """Size alone varies, each size by half and more."""
    seen = {(model.tokens, model.batch, model.context, model.seed) for model in (member("model", name) for name in FAMILY)}
    assert len(seen) == 1
    sizes = [member("model", name).facts().params_total for name in FAMILY]
    assert all(large > 1.5 * small for small, large in itertools.pairwise(sizes)), sizes


def test_shipped_weights_are_small() -> None:
    """A wheel of at most 12 MB."""
    assert sum(path.stat().st_size for path in module.SHIPPED.rglob("*")) < 12e6


def test_a_damaged_shipped_model_is_an_error(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretraining it would give other weights."""
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    MICRO.make(tmp_path / "shipped" / "micro")
    module._shipped_folders.cache_clear()
    try:
        assert (MICRO.ships, MICRO.is_made) == (True, True)
        flip(tmp_path / "shipped" / "micro" / "model.safetensors")
        with pytest.raises(ModelError, match=r"damaged or missing: model.safetensors; .*install the package again"):
            MICRO.load()
        (tmp_path / "shipped" / "micro" / NOTES).write_text("{")
        module._shipped_folders.cache_clear()
        with pytest.raises(ModelError, match=r"no readable nursery.json; .*install the package again"):
            MICRO.load()
    finally:
        module._shipped_folders.cache_clear()
    assert not cache.exists()
