"""Folders of configuration and caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import overrides, paths
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


@pytest.mark.parametrize("path", ["~no-such-user/models", "~no-such-user", "~no-such-user/../a"])
def test_the_home_of_an_unknown_user_is_one_line(path: str) -> None:
    """A path that begins with ~NAME; a folder of that name is reached by its whole path."""
    with pytest.raises(ConfigError, match=f"path '{path}': got a user without a known home directory; .*fix: write the whole path"):
        paths.expanded(path)
    assert paths.expanded(f"/a/{path}") == Path(f"/a/{path}")


def test_a_home_directory_is_in_the_place_of_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In caches and folders of the user's own, too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HARNESS_PATH", "~/mine")
    monkeypatch.setenv("HARNESS_CACHE", "~/cache")
    assert paths.roots()[0] == tmp_path / "mine"
    assert paths.cache() == tmp_path / "cache"


def test_no_module_looks_up_a_home_directory_by_itself() -> None:
    """Pathlib raises RuntimeError where there is none, which is no error for users."""
    package = Path(paths.__file__).parents[1]
    assert [file.name for file in package.rglob("*.py") if ".expanduser()" in file.read_text(encoding="utf-8")] == ["paths.py"]


def test_what_only_the_working_folder_has_comes_with_harness_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As after `harness new` without HARNESS_PATH; once it is named, there is nothing to say."""
    monkeypatch.delenv("HARNESS_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "mine.yaml").touch()
    (tmp_path / "my_l1.py").touch()
    with pytest.raises(ConfigError, match=r"data: got 'mine'; .*; fix: HARNESS_PATH=\. in front of the command"):
        overrides.check_choice("data", "mine")
    assert paths.not_on_path("", "my_l1") == "HARNESS_PATH=. in front of the command"
    assert paths.not_on_path("", "my_l2") == ""
    monkeypatch.setenv("HARNESS_PATH", ".")
    assert paths.not_on_path("", "my_l1") == ""
