"""Linear layers by oneDNN, where torch's own matrix products leave half of the processor idle.

On AMD processors, MKL's float32 products use 256-bit instructions; oneDNN's use 512 bits where the
processor has them. It reads the weights as they are, so no copy is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

LEAST_WEIGHTS = 2**16
LEAST_PRODUCTS = 2**20
"""Weights of a layer, and its multiplications in one call, below which a call costs more than the
product gains."""


@contextmanager
def fast(model: PreTrainedModel) -> Iterator[None]:
    """Compute a model's large float32 linear layers by oneDNN for a while, where that is faster."""
    changed: list[Any] = []
    try:
        if model.device.type == "cpu" and faster():
            module: Any
            for module in filter(_fits, model.modules()):
                module.forward = partial(_linear, module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _fits(module: torch.nn.Module) -> bool:
    """Return whether a module is a plain linear layer that is large enough."""
    if type(module) is not torch.nn.Linear or "forward" in vars(module):
        return False
    return module.weight.dtype == torch.float32 and module.weight.numel() >= LEAST_WEIGHTS


def _linear(module: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    products = inputs.numel() * module.out_features
    if products < LEAST_PRODUCTS or inputs.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return torch.nn.functional.linear(inputs, module.weight, module.bias)
    return _product()(inputs, module.weight, module.bias, "none", [], "")


@cache
def _product() -> Callable[..., torch.Tensor]:
    return cast(Callable[..., torch.Tensor], torch.ops.mkldnn._linear_pointwise)


@cache
def faster() -> bool:
    """Return whether oneDNN's products are faster: an AMD processor with 512-bit instructions."""
    known: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    information = Path("/proc/cpuinfo")
    if known is None or torch.backends.cpu.get_cpu_capability() != "AVX512" or not information.exists():
        return False
    return "AuthenticAMD" in information.read_text(encoding="utf-8", errors="replace")
