"""Every piece of a sweep is checked without a network, for clusters without one."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
import pytest

from harness.config import paths
from harness.run.workspace import Workspace
from harness.sweep.plan import prefetch as module
from harness.sweep.plan.offline import offline
from harness.sweep.plan.prefetch import Piece, prefetch, prefetch_command

SWEEP = ["experiment=smoke", "tuning=full", "model=nursery-smoke-a"]


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check pieces in this process, which has no network and is faster to start."""

    def tried(overrides: list[str]) -> list[Piece]:
        workspace = Workspace()
        return [Piece(kind=w.piece.kind, name=w.piece.name, missing=module._why_missing(w, workspace)) for w in module._wanted(overrides)]

    monkeypatch.setattr(module, "_tried", tried)


@pytest.mark.model  # it starts processes
def test_each_piece_is_tried_in_a_process_of_its_own() -> None:
    """Local rows, a nursery model and tinyworld's tasks are found once fetched."""
    said: list[str] = []
    pieces = prefetch(SWEEP, check_only=False, say=said.append)
    assert [(piece.kind, piece.name, piece.missing) for piece in pieces] == [
        ("model", "nursery-smoke-a", ""),
        ("data", "tinyworld-people", ""),
        ("suite", "tinyworld-people", ""),
        ("suite", "tinyworld", ""),
    ]
    assert said[-4:] == [f"{piece.kind} {piece.name}: ok" for piece in pieces]


def test_what_is_missing_is_named_with_its_reason(inside: None, tmp_path: Path) -> None:
    """A hub model that was never fetched, and a file that does not exist.

    Every other piece is still checked.
    """
    said: list[str] = []
    sweep = ["experiment=smoke", "tuning=full", "model=hf", "model.name=no-such/model", "data=files", f"data.train={tmp_path / 'x.jsonl'}"]
    code = prefetch_command(sweep, said.append, check_only=True)
    assert code == 1
    assert said[0].startswith("model no-such/model: missing: model.name: got 'no-such/model'")
    assert said[1].startswith(f"data files[train={tmp_path / 'x.jsonl'}]: missing: ")
    assert said[-2:] == ["suite tinyworld: ok", "2 missing"]


def test_a_model_of_the_nursery_is_made_by_fetching_alone(inside: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check does not make it, and says how to."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    (found, *_) = prefetch(SWEEP, check_only=True, say=lambda _: None)
    assert "not made yet" in found.missing
    assert not (paths.cache() / "nursery").exists()


def test_pieces_are_named_once_however_many_runs_need_them(inside: None) -> None:
    """An anchor counts only if a run draws on it; volumes and seeds add nothing."""
    sweep = [*SWEEP, "seed=0,1,2", "mitigation=none,replay", "anchor=tinyworld-base"]
    pieces = prefetch(sweep, check_only=True, say=lambda _: None)
    assert [(piece.kind, piece.name) for piece in pieces if piece.kind != "suite"] == [
        ("model", "nursery-smoke-a"),
        ("data", "tinyworld-people"),
        ("anchor", "tinyworld-base"),
    ]


def test_nothing_is_fetched_offline_and_settings_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the libraries are imported already."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)

    def now() -> tuple[bool, str | None]:
        return huggingface_hub.constants.HF_HUB_OFFLINE, os.environ.get("HF_DATASETS_OFFLINE")

    with offline():
        inside = now()
    assert inside == (True, "1")
    assert now() == (False, None)
