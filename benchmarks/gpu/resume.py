"""A training that resumes from its checkpoint on disk, against one straight through."""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import OWN, Built
from benchmarks.gpu.report import Plan, Report
from harness.config.run_config import Training
from harness.core.progress import Interrupted, Silent
from harness.core.rows import Example
from harness.core.tuning import Tuning
from harness.methods.contract import tiny
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.records.writer import ExperimentWriter
from harness.training.checkpoint import Checkpoints

STEPS, ROWS, CUT = 4, 4, 2
"""Optimizer steps, rows of each, and the step after which the training is interrupted."""

CASES: dict[str, tuple[Tuning, str]] = {
    "full, float32": (Full(), "float32"),
    "full, bfloat16": (Full(), "bfloat16"),
    "LoRA with dropout, bfloat16": (Lora(dropout=0.1), "bfloat16"),
}


SHARE = 3.0
"""Without deterministic kernels, a resumed training may be so many times as far from one straight
through as a second one straight through is."""


class Until(Silent):
    """Interrupts a training after some steps."""

    def __init__(self, steps: int) -> None:
        """Take the number of steps."""
        self.left = steps

    def advance(self, units: int = 1) -> None:
        """Count a step. Raises Interrupted."""
        self.left -= units
        if self.left == 0:
            raise Interrupted


def run(plan: Plan, report: Report) -> None:
    """Compare weights bit for bit; by distance where a kernel is not deterministic."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts
    for name, (tuning, dtype) in CASES.items():
        made = functools.partial(_trained, plan, tuning, dtype)
        report.holds(f"{name}: trained", _differing(made(), made(steps=0)) > 0, "weights moved")
        torch.use_deterministic_algorithms(True)
        try:
            report.at_most(f"{name}: weights of another bit", _differing(made(folder=plan.work / "checked"), made()), 0, "tensors")
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            report.skip(f"{name}: weights of another bit", str(error).splitlines()[0])
            torch.use_deterministic_algorithms(False)
            straight, again = made(), made()
            apart = _distance(made(folder=plan.work / "again"), straight)
            report.at_most(f"{name}: distance from straight through", apart, SHARE * _distance(again, straight))
        finally:
            torch.use_deterministic_algorithms(False)


def _trained(plan: Plan, tuning: Tuning, dtype: str, *, folder: Path | None = None, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """Return the trained weights; with a folder, of a training that is interrupted and resumes."""
    size = "tiny" if plan.tiny else "small"
    prepare = lambda: tuning.prepare(Built(size=size).load(), 0)  # noqa: E731
    examples = _steps(int(OWN[size]["vocab_size"]), 32 if plan.tiny else 256)[:steps]
    settings: dict[str, Any] = {"tuning": tuning, "training": Training(micro_batch_rows=2), "device": plan.device, "dtype": dtype}
    settings |= {"max_length": 256, "learning_rate": 1e-3, "base": {"none": torch.zeros(1)}}
    model, start = prepare(), None
    if not examples:
        return _weights(model)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        kept = Checkpoints(ExperimentWriter(folder), "run")
        try:
            tiny.run(model, examples, Sft(), progress=Until(CUT), on_state=kept.save, **settings)
        except Interrupted:
            model, start = prepare(), kept.newest(lambda counts: counts.step == CUT)
        if start is None:
            raise RuntimeError(f"no checkpoint of step {CUT} in {folder}")
    tiny.run(model, examples, Sft(), start=start, **settings)
    return _weights(model)


def _steps(vocabulary: int, length: int) -> Sequence[Sequence[Example]]:
    """Return the steps of a training: rows of random tokens."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(4, vocabulary, (STEPS, ROWS, length), generator=draw).tolist()
    return [
        [Example(tuple(row), (True,) * length, "target", row_id=f"{step} {number}") for number, row in enumerate(rows)]
        for step, rows in enumerate(ids)
    ]


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def _differing(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> int:
    """Return the number of tensors that are not equal in every bit."""
    return sum(name not in found or not torch.equal(found[name], value) for name, value in expected.items())


def _distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return ‖found − expected‖."""
    return math.sqrt(sum(float((found[name] - value).double().square().sum()) for name, value in expected.items()))
