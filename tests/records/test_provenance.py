"""The command that a record names can be typed again, and has no secret."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from harness.records import provenance


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        (["run", "data=HERE/rows.jsonl", "results=HERE"], "harness run data=rows.jsonl results=."),
        (["sweep", "data.stages=[HERE/a.csv,HERE/b.csv]", "model=HEREAFTER"], "harness sweep 'data.stages=[a.csv,b.csv]' model=HEREAFTER"),
        (
            ["sweep", 'launcher.setup=["export HF_TOKEN=abc def"]', "name=x"],
            "harness sweep 'launcher.setup=[\"export HF_TOKEN=*** def\"]' name=x",
        ),
        (["sweep", "launcher.setup=[\"export HF_TOKEN='abc def'\"]"], "harness sweep 'launcher.setup=[\"export HF_TOKEN=***\"]'"),
    ],
)
def test_paths_are_relative_and_secrets_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], recorded: str) -> None:
    """A path outside the folder stays; so does what a shell would read as a word of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/bin/harness", *(text.replace("HERE", str(tmp_path)) for text in typed)])
    assert provenance.command() == recorded.replace("HERE", str(tmp_path))


def test_hydra_s_command_line_is_named_without_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders of HARNESS_PATH were not typed."""
    monkeypatch.setattr(sys, "argv", ["/lib/harness/cli/hydra_app.py", "-m", "seed=0,1", "hydra.searchpath=[file:///conf]"])
    assert shlex.split(provenance.command()) == ["python", "-m", "harness.cli.hydra_app", "-m", "seed=0,1"]
