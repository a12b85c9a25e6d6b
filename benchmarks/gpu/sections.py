"""The sections, and the process that carries one out within its deadline."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import report


@dataclass(frozen=True)
class Section:
    """A module with ``run(plan, report)``, and its deadline.

    Attributes:
        module: its name.
        says: what it checks, for the table.
        seconds: after which it is ended, on a GPU.
    """

    module: str
    says: str
    seconds: int


SECTIONS: Mapping[str, Section] = {
    "losses": Section("benchmarks.gpu.losses", "losses, gradients and short trainings against the CPU", 60),
    "resume": Section("benchmarks.gpu.resume", "resumed training equals one straight through", 40),
    "limits": Section("benchmarks.gpu.limits", "too much memory: rejected before loading, or told in one line", 50),
    "scores": Section("benchmarks.gpu.scores", "`prefix` against lm-eval's HFLM", 60),
    "training": Section("benchmarks.gpu.training", "tokens per second, and peak memory against the formula", 130),
    "loads": Section("benchmarks.gpu.loads", "evaluation loads: `prefix`, HFLM, continuous batching", 120),
    "nccl": Section("benchmarks.gpu.nccl", "an NCCL world of one", 20),
}
"""Name → section, in order; their deadlines add up to 8 minutes."""

GRACE = 2.0
"""Seconds for a section that is ended to leave its GPU."""


def carry_out(name: str, section: Section, out: Path, *, tiny: bool) -> str:
    """Carry out a section in a process of its own; return its status, which is on disk too.

    The process is forked from one that has imported what sections need, and never used a GPU.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu.preload"])
    file = out / f"{name}.json"
    file.unlink(missing_ok=True)
    began = time.perf_counter()
    process = context.Process(target=_section, args=(name, section.module, str(out), tiny))
    process.start()
    timed_out = False
    try:
        process.join(section.seconds)
        timed_out = process.is_alive()
    finally:  # after Ctrl-C too, which a session of its own does not see
        if process.is_alive():
            _end(process)
    found = report.read(file) or {"section": name, "status": report.RUNNING, "checks": [], "measured": []}
    if found["status"] == report.RUNNING:  # it could not say how it ended
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        found["status"] = f"timed out after {section.seconds} s" if timed_out else f"died ({how})"
        found["seconds"] = round(time.perf_counter() - began, 1)
        report.write(file, found)
    return str(found["status"])


def _end(process: Any) -> None:
    """End a section and the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        process.join(GRACE)
        if not process.is_alive():
            return


def _section(name: str, module: str, out: str, tiny: bool) -> None:
    """Run a section in this process, its output in a log, and write how it ended."""
    os.setsid()
    log = os.open(Path(out) / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    found = report.Report(Path(out) / f"{name}.json", name)
    work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=out))
    try:
        run_section(module, report.Plan(work=work, tiny=tiny, device=device()), found)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the other sections continue
        traceback.print_exc()
        found.end(f"error: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()


def run_section(module: str, plan: report.Plan, found: report.Report) -> None:
    """Run a section, and write what its checks say."""
    os.environ["HARNESS_CACHE"] = str(plan.work / "cache")
    os.environ["HARNESS_PATH"] = str(Path(__file__).parent)
    found.facts(**report.plan_facts(plan), **machine())
    importlib.import_module(module).run(plan, found)
    found.end()


def device() -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """Return the device and the releases that results belong to."""
    from importlib.metadata import PackageNotFoundError, version

    from harness.records import provenance

    found: dict[str, Any] = {"machine": provenance._gpu() or provenance._processor(), "gpu_bytes": provenance.gpu_bytes()}
    for name in ("torch", "transformers", "lm_eval", "peft", "trl", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
