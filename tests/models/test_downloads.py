"""Files of the hub's cache: compared with the hashes that they are named by."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from harness.core.errors import ModelError
from harness.models.hub import HubModel

WEIGHTS = "model.safetensors"


@pytest.fixture
def fetched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model org/m in a hub's cache on disk: a snapshot of links to files named by hashes."""
    from huggingface_hub import constants

    root = tmp_path / "hub" / "models--org--m"
    snapshot = root / "snapshots" / ("a" * 40)
    for place in (snapshot, root / "blobs", root / "refs"):
        place.mkdir(parents=True)
    (root / "refs" / "main").write_text("a" * 40)
    for path in folder.iterdir():
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        blob = root / "blobs" / (hashlib.sha256(content).hexdigest() if path.name == WEIGHTS else git)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


DAMAGED = [WEIGHTS, "config.json", "tokenizer.json"]


def flip(file: Path) -> Path:
    """Change a bit of a file that keeps it readable; return the file behind a link."""
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.resolve().write_bytes(content)
    return file.resolve()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_download_is_rejected_without_a_network(fetched: Path, name: str) -> None:
    """The line names the one file to delete."""
    model = HubModel(name="org/m")
    assert model.facts().content == HubModel(name=str(fetched)).facts().content
    blob = flip(fetched / name)
    with pytest.raises(ModelError, match=f"model org/m: got {blob}, damaged since it was fetched; .*; fix: delete that file"):
        model.facts()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_download_is_fetched_again_and_that_is_said(
    fetched: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a network: once; the rest of the cache stays."""
    import huggingface_hub
    from huggingface_hub import constants

    content, blob, calls = HubModel(name="org/m").facts().content, flip(fetched / name), []

    def fetch(*_: object, **__: object) -> str:
        calls.append(blob.exists())
        if not blob.exists():
            shutil.copy(folder / name, blob)
        return str(fetched)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert HubModel(name="org/m").facts().content == content
    assert caplog.messages == [f"model org/m: {blob} is damaged; fetched again"]
    assert calls[:2] == [True, False]


def test_weights_are_not_hashed_for_a_tokenizer_alone(fetched: Path) -> None:
    """Gigabytes would be read; the model is checked when it is used."""
    flip(fetched / WEIGHTS)
    assert HubModel(name="org/m").tokenizer().encode("b c") == [1, 2]
    assert HubModel(name="org/m").longest_input() == 64
