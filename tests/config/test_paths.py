"""Folders of configuration and caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import paths
from harness.core.errors import ConfigError


def test_a_users_own_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member in HARNESS_PATH hides a shipped one of the same name."""
    (tmp_path / "conf" / "tuning").mkdir(parents=True)
    (tmp_path / "conf" / "tuning" / "mine.yaml").write_text("# mine\n")
    (tmp_path / "conf" / "tuning" / "full.yaml").write_text("# my full\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    found = paths.members("conf/tuning")
    assert {"mine", "full", "lora"} <= set(found)
    assert found["full"].parent == tmp_path / "conf" / "tuning"


def test_a_folder_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt HARNESS_PATH is not ignored."""
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="HARNESS_PATH: got .*absent', not a directory"):
        paths.members("conf/model")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HARNESS_CACHE, else XDG_CACHE_HOME."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "own"))
    assert paths.cache() == tmp_path / "own"
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache() == tmp_path / "forgetting-harness"
