"""Memory: errors that report its end, memory that can be freed, memory that is available."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory ran out, on a GPU or a CPU."""
    import torch

    text = str(error)
    says = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in says)


def release(device: torch.device) -> None:
    """Free unreferenced memory, such as that of a failed forward pass."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available_bytes() -> float:
    """Return the free memory of the machine, at most the limit of this process's cgroup."""
    return min([float(psutil.virtual_memory().available), *_cgroup_limits()])


def _cgroup_limits() -> list[float]:
    """Return the limits of this process's cgroup in bytes; empty without any."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                file = Path(f"/sys/fs/cgroup{path}/memory.max")
            elif "memory" in controllers.split(","):
                file = Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")
            else:
                continue
            with contextlib.suppress(OSError, ValueError):  # "max" is not a number
                found.append(float(file.read_text()))
    return found
