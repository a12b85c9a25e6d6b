"""Memory that runs out: how it shows, and what can be given back."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

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
