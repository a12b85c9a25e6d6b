"""Memory that runs out: how it shows, and what can be given back."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    import torch

    text = str(error)
    says = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in says)


def release(device: torch.device) -> None:
    """Give back what nothing holds any more, such as what a failed forward pass left."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available_bytes() -> float:
    """Return the memory that may still be taken: what is free on the machine, and no more than the cgroup of a job or container allows."""
    return min([float(psutil.virtual_memory().available), *_cgroup_limits()])


def _cgroup_limits() -> list[float]:
    """Return the limits of this process's cgroup, in bytes, by either version of cgroups.

    None where there are none.
    """
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
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                found.append(float(file.read_text()))
    return found
