"""Checkpoints of output folders: which there are, which are complete, and claims of them."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import ConfigError, ModelError
from harness.external.checkpoints import finding
from tests.support import trainings


def test_output_folder_is_its_checkpoints_by_number_then_its_own_weights(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for step in (10, 9, 100):
        trainings.checkpoint(out, step)
    trainings.weights(out, "adapter")
    found = finding.find([str(out)])
    assert [(Path(one.source).name, one.number, one.is_adapter) for one in found] == [
        ("checkpoint-9", 9, False), ("checkpoint-10", 10, False), ("checkpoint-100", 100, False), ("out", None, True),
    ]  # fmt: skip
    assert {(one.group, one.group_key) for one in found} == {("out", str(out.resolve()))}
    assert [one.state.step if one.state else None for one in found] == [9, 10, 100, None]


def test_other_folders_and_links_are_ignored(tmp_path: Path) -> None:
    """As trainers leave them next to checkpoint-N, or inside."""
    real = trainings.checkpoint(tmp_path / "out", 7)
    for name in ("tmp-checkpoint-8", "checkpoint-7-merged", "checkpoint-x", "checkpoint-7/ref", "checkpoint-7/global_step7"):
        trainings.weights(_made(tmp_path / "out" / name))
    for name in ("last", "checkpoint-99"):
        (tmp_path / "out" / name).symlink_to(real, target_is_directory=True)
    assert [one.source for one in finding.find([str(tmp_path / "out")])] == [str(real)]


def test_root_with_settings_alone_is_no_checkpoint(tmp_path: Path) -> None:
    """As axolotl writes config.json and adapter_config.json there before training."""
    for name in ("config.json", "adapter_config.json", "tokenizer.json", "training_args.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match="got a folder without checkpoint-N and without weights"):
        finding.find([str(tmp_path)])
    trainings.checkpoint(tmp_path, 5)
    assert [one.number for one in finding.find([str(tmp_path)])] == [5]


def test_named_checkpoints_of_a_training_are_one_group(tmp_path: Path) -> None:
    folders = [trainings.checkpoint(tmp_path / "out", step) for step in (20, 10)]
    (tmp_path / "out" / "last").symlink_to(folders[0])
    found = finding.find([*map(str, folders), str(tmp_path / "out" / "last"), str(tmp_path / "out")])
    assert [(one.number, one.group) for one in found] == [(20, "out"), (10, "out")]  # each once, as named first


def test_trainings_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for run in ("a", "b"):
        trainings.checkpoint(tmp_path / run / "out", 10)
    assert [one.group for one in finding.find([str(tmp_path / run / "out") for run in ("a", "b")])] == ["a/out", "b/out"]


def test_names_are_kept_as_they_are() -> None:
    found = finding.find(["EleutherAI/pythia-160m@step1000", "EleutherAI/pythia-160m", "nursery-s"])
    assert [(one.source, one.group, one.number) for one in found] == [
        ("EleutherAI/pythia-160m@step1000", "EleutherAI/pythia-160m", None),
        ("EleutherAI/pythia-160m", "EleutherAI/pythia-160m", None),
        ("nursery-s", "nursery-s", None),
    ]


def test_paths_without_checkpoints_are_rejected_in_one_line(tmp_path: Path) -> None:
    trainings.checkpoint(tmp_path / "output" / "v0-20260801", 5)
    (tmp_path / "file").touch()
    for source, words in {
        "absent/folder/x": "a path that does not exist",
        "./absent": "a path that does not exist",
        "": "a path that does not exist",
        str(tmp_path / "file"): "a file",
        str(_made(tmp_path / "empty")): "wait for the first checkpoint",
        str(tmp_path / "output"): f"such as {tmp_path}/output/v0-20260801",  # ms-swift's folder of runs
    }.items():
        with pytest.raises(ConfigError) as caught:
            finding.find([source])
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def _truncated(folder: Path) -> None:
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _without_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def _distributed(folder: Path) -> None:
    _without_weights(folder)
    (_made(folder / "pytorch_model_fsdp_0") / "__0_0.distcp").touch()


def _zero_3(folder: Path) -> None:
    _without_weights(folder)
    (_made(folder / "global_step10") / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()


def _without_weights(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()


def _pickled(folder: Path) -> None:
    _without_weights(folder)
    (folder / "pytorch_model.bin").touch()


@pytest.mark.parametrize(
    ("kind", "damage", "words"),
    [
        ("shards", _without_index, "shards of a model without model.safetensors.index.json"),
        ("shards", lambda folder: (folder / "model-00001-of-00002.safetensors").unlink(), "1 of 2 weight files missing"),
        ("shards", _truncated, "the file was cut off"),
        ("adapter", lambda folder: (folder / "adapter_config.json").unlink(), "an adapter without adapter_config.json"),
        ("adapter", lambda folder: (folder / "adapter_model.safetensors").unlink(), "no weights: half-written"),
        ("model", _without_weights, "no weights: half-written"),
        ("model", lambda folder: (folder / "config.json").unlink(), "weights without config.json"),
        ("model", lambda folder: (folder / "checkpoint-is-incomplete.txt").touch(), "that is being saved"),
        ("model", lambda folder: (folder / "trainer_state.json").write_text('{"global_'), "a file that is cut off"),
        ("model", _distributed, "an FSDP checkpoint in shards (.distcp), without model.safetensors … accelerate merge-weights"),
        ("model", _zero_3, "a DeepSpeed checkpoint in shards, without model.safetensors … zero_to_fp32.py"),
        ("model", _pickled, "only pytorch_model.bin … .save_pretrained("),
        ("model", shutil.rmtree, "a checkpoint that was deleted"),
    ],
)  # fmt: skip
def test_incomplete_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, damage: Callable[[Path], object], words: str
) -> None:
    """Named, they are errors; in an output folder they are left out, and not all may be."""
    folder = trainings.checkpoint(tmp_path, 10, kind=kind)
    assert finding.lacks(folder) is None
    damage(folder)
    reason = finding.lacks(folder)
    assert reason is not None
    assert all(part in reason for part in words.split(" … "))
    with pytest.raises(ModelError):
        finding.claim(folder, tmp_path / "staging")
    assert not any((tmp_path / "staging").glob("*"))
    if folder.exists():
        for source in (folder, tmp_path):
            with pytest.raises(ModelError) as caught:
                finding.find([str(source)])
            assert str(caught.value) == reason
    trainings.checkpoint(tmp_path, 11)
    with caplog.at_level(logging.WARNING):
        assert [one.number for one in finding.find([str(tmp_path)])] == [11]
    assert (reason in caplog.text) == folder.exists()


def test_sharded_checkpoint_of_fsdp_without_settings_names_its_layout(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-10"
    (_made(folder / "pytorch_model_fsdp_0") / "__0_0.distcp").touch()
    with pytest.raises(ModelError, match=r"FSDP checkpoint in shards.*accelerate merge-weights"):
        finding.find([str(folder)])


def test_unreadable_weights_are_not_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As safetensors 0.8 writes them, mode 0600: another user sees a complete folder."""
    folder = trainings.checkpoint(tmp_path, 10)
    (folder / "model.safetensors").chmod(0o600)
    opened = Path.open

    def as_other_user(path: Path, *how: str, **more: str) -> object:
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *how, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", as_other_user)
    reason = finding.lacks(folder)
    assert reason is not None
    assert f"no permission to read it (mode 0600, of user {os.getuid()})" in reason
    assert f"chmod -R a+rX {folder}" in reason


def test_claim_survives_the_deletion_of_its_checkpoint(tmp_path: Path) -> None:
    folder = trainings.checkpoint(tmp_path / "out", 10, kind="shards")
    before = sorted(path.name for path in folder.iterdir())
    claimed = finding.claim(folder, tmp_path / "staging")
    assert sorted(path.name for path in folder.iterdir()) == before  # nothing is written into the output folder
    weights = claimed / "model-00001-of-00002.safetensors"
    assert weights.stat().st_ino == (folder / weights.name).stat().st_ino
    assert not (claimed / "training_args.bin").exists()
    shutil.rmtree(folder)
    assert finding.lacks(claimed) is None
    assert weights.read_bytes() == trainings.safetensors(0, "w0")


def test_rewriting_in_place_shows_in_the_signature_of_a_claim(tmp_path: Path) -> None:
    """A hard link is the same file: what truncates the checkpoint's file truncates the claim's."""
    folder = trainings.checkpoint(tmp_path / "out", 10)
    claimed = finding.claim(folder, tmp_path / "staging")
    before = finding.signature(claimed)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(20)
    assert finding.signature(claimed) != before
    assert finding.lacks(claimed) is not None


def test_claim_is_a_copy_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    folder = trainings.checkpoint(tmp_path / "out", 10)
    claimed = finding.claim(folder, tmp_path / "staging")
    assert (claimed / "model.safetensors").stat().st_ino != (folder / "model.safetensors").stat().st_ino
    assert finding.lacks(claimed) is None


def test_checkpoint_deleted_between_two_files_of_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, link = trainings.checkpoint(tmp_path / "out", 10, kind="shards"), os.link

    def link_then_delete(*pair: Path) -> None:
        link(*pair)
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(os, "link", link_then_delete)
    with pytest.raises(ModelError, match="a checkpoint that was deleted"):
        finding.claim(folder, tmp_path / "staging")
    assert not any((tmp_path / "staging").glob("*"))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
