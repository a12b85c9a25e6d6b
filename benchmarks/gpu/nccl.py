"""A process group of one: NCCL between GPUs, gloo between processors."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist

from benchmarks.gpu.report import Plan, Report
from harness.config.run_config import Training
from harness.core.rows import Example
from harness.methods.contract import tiny
from harness.methods.mitigation.none import NoMitigation
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.training import processes
from harness.training.checkpoint import Checkpoints
from harness.training.job import Callbacks, Job
from harness.training.loop import train
from harness.training.step import ProcessGroup, SingleProcess

LIMIT = 1e-6
"""Largest difference of a weight: DistributedDataParallel adds gradients up in buckets."""


def run(plan: Plan, report: Report) -> None:
    """Train in a group of one as without a group, and add over it."""
    job = _job(plan)
    alone, _ = _trained(job, plan.device, SingleProcess())
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    group = processes._meet(job, 0, store)
    try:
        value = torch.ones(4, device=plan.device)
        dist.all_reduce(value)
        backend = str(dist.get_backend_config()) if hasattr(dist, "get_backend_config") else dist.get_backend()
        report.holds("a sum over the group is the process's own", bool((value == 1).all()), backend)
        if plan.has_gpu:
            report.holds("GPUs are joined by NCCL", "nccl" in backend, backend)
        else:
            report.skip("GPUs are joined by NCCL")
        together, wrapped = _trained(job, plan.device, group)
        report.holds("the model was wrapped in DistributedDataParallel", wrapped)
        apart = max(float((together[name] - value).abs().max()) for name, value in alone.items())
        report.at_most("weights trained in the group, against those without", apart, LIMIT)
    finally:
        processes._part()


def _job(plan: Plan) -> Job:
    rows = [Example(tuple(4 + (7 * row + place) % 40 for place in range(12)), (True,) * 12, "target", row_id=str(row)) for row in range(16)]
    return Job(
        model=tiny.Given(tiny.llama()),
        tuning=Full(),
        objective=Sft(),
        mitigation=NoMitigation(),
        training=Training(),
        resolved=tiny.resolved(device=plan.device),
        seed=0,
        steps=[rows[:8], rows[8:]],
        anchor=(),
        stops={2: 16},
        pad_id=tiny.PAD,
        checkpoints=cast(Checkpoints, None),  # none is read
    )


def _trained(job: Job, device: str, group: ProcessGroup) -> tuple[dict[str, torch.Tensor], bool]:
    """Return the trained weights, and whether a DistributedDataParallel did the forward passes."""
    model: Any = tiny.llama()
    model.to(device)
    base = tiny.copied(model.state_dict())
    wrapped = []
    made = torch.nn.parallel.DistributedDataParallel.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        wrapped.append(self)
        return made(self, *args, **kwargs)

    torch.nn.parallel.DistributedDataParallel.forward = forward  # type: ignore[method-assign]
    try:
        train(job, model, base, Callbacks(on_stop=lambda _: None), group=group)
    finally:
        torch.nn.parallel.DistributedDataParallel.forward = made  # type: ignore[method-assign]
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}, bool(wrapped)
