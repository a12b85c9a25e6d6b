"""Too much memory: a run that is rejected before loading, and one that runs out while it trains."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.gpu.models import Built, write_rows
from benchmarks.gpu.report import Plan, Report
from harness.analysis import verify
from harness.config import composition
from harness.config.resolution import Machine
from harness.core.errors import ConfigError
from harness.records.store import Experiment
from harness.run.preparation import prepare
from harness.run.workspace import Workspace, this_machine
from harness.sweep import command

NAME = "limits"
GPU_BYTES = 80 * 2**30
"""Memory of the GPU that is imagined where there is none."""

CAP = 10
"""Bytes a parameter that a training may use: enough for weights and gradients, not for moments, so
that no micro-batch fits."""


def run(plan: Plan, report: Report) -> None:
    """Check both."""
    rows = write_rows(plan.work / "rows.jsonl", 16, 24)
    common = [f"data={rows}", "data.volumes=[8]", "probe_suites=[tinyworld_text]", "evaluation.limit=8", f"results={plan.work / 'results'}"]
    _rejected(plan, report, common)
    _runs_out(plan, report, [*common, f"name={NAME}", f"model=gpu-{'tiny' if plan.tiny else 'small'}", "training.learning_rate=1e-4"])


def _rejected(plan: Plan, report: Report, common: Sequence[str]) -> None:
    machine = this_machine() if plan.has_gpu else Machine(cores=1, gpus=1, gpu_bytes=GPU_BYTES)
    loads, said = Built.loads, {}
    for model, tuning in (("gpu-70b", "full"), ("gpu-8b", "lora")):
        config = composition.compose([*common, f"model={model}", f"tuning={tuning}"])
        try:
            prepare(config, Workspace(), machine)
            said[model] = ""
        except ConfigError as error:
            said[model] = str(error)
    one_line = "\n" not in said["gpu-70b"] and "memory of model=gpu-70b" in said["gpu-70b"]
    report.holds("70B, full: rejected in one line", one_line, said["gpu-70b"])
    report.holds("8B, LoRA: not rejected", not said["gpu-8b"], said["gpu-8b"])
    report.at_most("models loaded for that", Built.loads - loads, 0)


def _runs_out(plan: Plan, report: Report, overrides: Sequence[str]) -> None:
    """Run out of memory in a run that shares volume 0 with a complete one, then run it again."""
    failed, _ = _run([*overrides, "seed=0"])
    report.holds("a first run is done", not failed, " / ".join(failed))
    experiment = Experiment(plan.work / "results" / NAME)
    first = set(experiment.current())
    params = Built(size="tiny" if plan.tiny else "small").facts().params_total
    with limited(plan, CAP * params):
        failed, said = _run([*overrides, "seed=1"])
    told = [reason for reason in failed if "out of memory with micro-batches of 1 rows" in reason and "fix:" in reason]
    report.holds("out of memory: told in one line, with a fix", len(failed) == len(told) == 1 and "\n" not in failed[0], " / ".join(failed))
    report.holds("out of memory: no traceback on the terminal", "Traceback" not in said)
    second = [run_id for run_id in experiment.current() if run_id not in first]
    half = [f"{run_id} at {volume}" for run_id in second for volume in experiment.volumes(run_id)]
    report.holds(
        "out of memory: no point, no record", len(second) == 1 and not half and experiment.record(second[0]) is None, ", ".join(half)
    )
    report.at_most("out of memory: damaged files", len(list(verify.errors(experiment))), 0)
    failed, _ = _run([*overrides, "seed=1"])
    report.holds("with enough memory the same run is done", not failed and all(map(experiment.record, second)), " / ".join(failed))


@contextlib.contextmanager
def limited(plan: Plan, size: int) -> Iterator[None]:
    """Limit the memory of tensors: of the GPU's allocator; without a GPU, of those alive."""
    if not plan.has_gpu:
        from benchmarks.mitigation_memory import Peak

        class Limit(Peak):
            """Raises torch's own error where more is alive."""

            def _count(self, storage: Any) -> None:
                super()._count(storage)
                if self.live > size:
                    raise torch.OutOfMemoryError("out of memory (limit of the test)")

        with Limit():
            yield
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _run(overrides: Sequence[str]) -> tuple[list[str], str]:
    """Carry out a run as ``harness run`` does; return why it failed, and what it wrote."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        _, tally = command.run(overrides)
    return [reason for _, reason in tally.failed], said.getvalue()
