"""Nursery models that a run lacks are pretrained in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.errors import ModelError
from harness.models.nursery.family import Nursery
from harness.run import other_models

MICRO = Nursery(layers=1, width=16, heads=2, mlp=16, tokens=1024, learning_rate=0.01, batch=4, context=32)

SCRIPT = f"""
from harness.models.nursery.family import Nursery
from harness.run import other_models

print("once")
other_models._load_apart({MICRO!r})
print({MICRO!r}.is_made)
"""


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    """``harness.train`` is called from scripts of five lines, on machines without any model."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"HARNESS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["once", "True"]), done.stderr


def test_an_error_of_pretraining_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what the other process said last."""
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"nursery model: got an error while it was pretrained \(.*nursery cache"):
        other_models._load_apart(MICRO)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stopped_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It hurts itself once; the next one ends well. One that is always hurt fails the model."""
    monkeypatch.setattr(other_models, "LOOK", 0.2)
    monkeypatch.setattr(other_models, "STOPPED", 0.4)
    flag = tmp_path / "flag"
    hurt = f"import os, pathlib; flag = pathlib.Path({str(flag)!r})\n"
    monkeypatch.setattr(other_models, "_LOAD", hurt + f"if not flag.exists(): flag.touch(); os.kill(os.getpid(), {int(number)})\n")
    other_models._load_apart(MICRO)
    assert flag.exists()
    monkeypatch.setattr(other_models, "_LOAD", f"import os; os.kill(os.getpid(), {int(number)})")
    with pytest.raises(ModelError, match="exit code -9"):
        other_models._load_apart(MICRO)
