"""An experiment of a user's own, for the tests of its axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes an experiment ``mine`` from the text below ``hydra.sweeper``."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))

    def written(sweeper: str, more: str = "") -> list[str]:
        lines = "".join(f"    {line}\n" for line in sweeper.strip().splitlines())
        (folder / "mine.yaml").write_text(f"# @package _global_\n# mine\n{more}\nhydra:\n  sweeper:\n{lines}")
        return ["experiment=mine"]

    return written
