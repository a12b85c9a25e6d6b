"""Provenance of results: code, versions, machine.

Recorded with every result, part of no identity.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__
from harness.core.masking import masked

PACKAGES = ["torch", "transformers", "lm_eval", "peft", "accelerate", "datasets", "tokenizers", "numpy", "pandas", "scipy"]


_COMMAND: ContextVar[Sequence[str] | str | None] = ContextVar("_COMMAND", default=None)


@contextlib.contextmanager
def made_by(arguments: Sequence[str] | str) -> Iterator[None]:
    """Record a command in place of the process's, until the block ends.

    Args:
        arguments: of ``harness``; or a whole command, as recorded.
    """
    token = _COMMAND.set(arguments)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def command() -> str:
    """Return the command that makes results now, as it is typed in the folder it runs in.

    Secrets are masked, paths inside the folder relative.
    """
    arguments, start = _COMMAND.get(), ["harness"]
    if isinstance(arguments, str):
        return arguments
    if arguments is None:
        arguments = [text for text in sys.argv[1:] if not text.startswith("hydra.searchpath=")]  # which Hydra's command line adds
        start = ["python", "-m", "harness.cli.hydra_app"] if Path(sys.argv[0]).stem == "hydra_app" else start
    here = re.compile(rf"(?<![^\s=,\[\"']){re.escape(str(Path.cwd()))}(/|(?=$|[,\]\"']))")
    return shlex.join([*start, *(masked(here.sub(lambda found: "" if found[1] else ".", text)) for text in arguments)])


def collect() -> dict[str, Any]:
    """Return git commit and dirty flag of the harness, package versions, hardware, time."""
    return {
        "command": command(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": {"harness": __version__} | _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "processor_model": _processor_model(),
        "vector_flags": _vector_flags(),
        "instructions": _instructions(),
        "cores": cores(),
        "gpu": _gpu(),
    }


def cores() -> int:
    """Return the number of cores that this process may use.

    In a cluster job or a container it can be lower than the machine's.
    """
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of the harness's checkout; None if it is installed."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _processor() -> str:
    return _cpuinfo().get("model name") or platform.processor()


def _processor_model() -> str | None:
    """Return maker, family and model, by which libraries choose their code; names say less."""
    known = _cpuinfo()
    parts = [known.get(name) for name in ("vendor_id", "cpu family", "model")]
    return "{} family {} model {}".format(*parts) if all(parts) else None


def _vector_flags() -> str | None:
    """Return the vector instructions that the processor has, sorted; None where it does not say."""
    flags = _cpuinfo().get("flags", "").split()
    return " ".join(sorted(flag for flag in flags if flag.startswith(("avx", "fma", "amx")))) or None


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().split("\n\n")[0] if info.exists() else ""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def _instructions() -> str | None:
    """Return the vector instructions that torch uses, which decide its rounding; None without it.

    Limits by the environment are part of it.
    """
    if "torch" not in sys.modules:
        return None
    import torch

    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return torch.backends.cpu.get_cpu_capability() + (f", oneDNN at most {limit}" if limit else "")


def gpu_bytes() -> int | None:
    """Return the memory of the smallest GPU of this process; None without one."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return min((int(torch.cuda.get_device_properties(one).total_memory) for one in range(count)), default=None)


def _gpu() -> str | None:
    if "torch" not in sys.modules:
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def reset_peak_memory() -> None:
    """Reset the peak of memory, where the machine allows it (GPU, Linux)."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Return the peak of memory since ``reset_peak_memory``: GPU memory, else resident memory.

    Where it cannot be reset (not Linux), it is the peak since the process started.
    """
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
