"""`forgetting.json`: a later watch resumes it, and a training follows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.external.checkpoints import finding
from harness.external.checkpoints.following import Following
from harness.external.checkpoints.outcome import NOTHING
from harness.external.checkpoints.stopping import Rule
from harness.external.checkpoints.summary_file import Measured, Summary
from tests.support import trainings

SUITE: dict[str, Any] = {"unit": "share", "metric": "acc", "n": 100, "before": 0.9, "after": 0.4, "loss": 0.5, "interval": [0.46, 0.54]}
SUITE |= {"stderr": 0.02, "df": 99.0, "verdict": "lost"}


def _measured(step: int, files: tuple[str, ...]) -> Measured:
    known: dict[str, Any] = {"rows": None, "tokens": None, "training_loss": 2.5, "seconds": 1.0, "suites": {"s": SUITE}}
    return Measured(checkpoint=f"checkpoint-{step}", volume=step, step=step, files=files, **known)


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        ("the same", [10, 20]),
        ("checkpoint-10 deleted", [10, 20]),
        ("both deleted, checkpoint-30 continues", [10, 20]),
        ("both deleted, checkpoint-30 of other losses", []),
        ("emptied", []),
        ("deleted", []),
        ("checkpoint-20 rewritten", [10]),
    ],
)
def test_a_watch_keeps_what_was_measured_of_the_training_in_the_folder(tmp_path: Path, now: str, kept: list[int]) -> None:
    out, file = tmp_path / "out", tmp_path / "forgetting.json"
    first = Summary(base="base", output=str(out), evaluations={})
    history = [{"step": step, "loss": 2.5} for step in (10, 20, 30)]
    for step in (10, 20):
        folder = trainings.checkpoint(out, step, log_history=history[: step // 10])
        first.add(_measured(step, tuple(" ".join(map(str, one)) for one in finding.signature(folder))))
    first.write(file)
    if now == "checkpoint-10 deleted":
        shutil.rmtree(out / "checkpoint-10")
    elif now == "checkpoint-20 rewritten":
        trainings.checkpoint(out, 20, value=1, log_history=history)
    elif now != "the same":
        shutil.rmtree(out)
    if now == "emptied":
        out.mkdir()
    elif "checkpoint-30" in now:
        trainings.checkpoint(out, 30, log_history=history if "continues" in now else [{"step": 5, "loss": 2.4}])
    later = Summary(base="base", output=str(out), evaluations={})
    later.resume(file)
    assert [one.step for one in later.checkpoints] == kept


def test_a_training_is_not_stopped_by_checkpoints_of_an_earlier_one(tmp_path: Path) -> None:
    """They are in the file when it begins, and stay there; its own one of the same name counts."""
    file = tmp_path / "forgetting.json"

    def write(*checkpoints: Measured) -> None:
        summary = Summary(base="base", output="out", evaluations={})
        for one in checkpoints:
            summary.add(one)
        file.unlink(missing_ok=True)
        summary.write(file)

    write(old := _measured(10, ("model.safetensors 8 1 1",)))
    training = Following(file, Rule(limits={"s": 0.05}, measurements=5))
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"time": "later"}))
    assert training.measure(10, None, None) == NOTHING
    write(old, _measured(20, ("model.safetensors 8 2 2",)))
    assert training.measure(10, None, None) == NOTHING
    write(_measured(10, ("model.safetensors 8 3 3",)))
    assert training.measure(15, None, None).stop
