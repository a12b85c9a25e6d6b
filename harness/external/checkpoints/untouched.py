"""A live model in training, restored to the bit after a measurement, also one that fails."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.core.seeds import untouched_global_streams

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIGS = ("config", "generation_config")
"""Attributes of a model whose values an evaluation may change (use_cache, attention)."""


@contextmanager
def untouched(model: nn.Module, optimizer: Any = None) -> Iterator[None]:
    """Restore a model, its optimizer and the process after a block that measures the model.

    Of each module: its mode, parameters, buffers, hooks and other attributes (caches, adapters,
    flags of gradient checkpointing). Of the process: random streams and the number of threads.

    Args:
        model: live, between two steps, so without gradients in use.
        optimizer: of its training; a schedule-free one has its weights for evaluation in the block.
    """
    import torch

    threads = torch.get_num_threads()
    with untouched_global_streams(), _evaluated(optimizer):
        modules = {module: _attributes(vars(module)) for module in model.modules()}
        configs = {id(found): (found, _attributes(vars(found))) for module in modules for found in _configs(module)}
        trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        try:
            yield
        finally:
            for module, known in modules.items():
                _restore(vars(module), known)
            for config, known in configs.values():
                _restore(vars(config), known)
            for parameter, is_trained in trained:
                parameter.requires_grad_(is_trained)
            torch.set_num_threads(threads)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _configs(module: nn.Module) -> list[Any]:
    found = [vars(module).get(name) for name in CONFIGS]
    return [one for one in found if hasattr(one, "__dict__")]


def _attributes(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return attributes; of collections (parameters, buffers, hooks), their content too."""
    return {name: (value, copy.copy(value) if isinstance(value, dict | set | list) else None) for name, value in values.items()}


def _restore(values: dict[str, Any], known: dict[str, tuple[Any, Any]]) -> None:
    values.clear()
    for name, (value, content) in known.items():
        if content is not None:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(content)
        values[name] = value


@contextmanager
def _evaluated(optimizer: Any) -> Iterator[None]:
    """Give a schedule-free optimizer its weights for evaluation, and those of training back.

    The way back rounds, so the weights are copied.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it, with eval() and train() for any
    groups: list[dict[str, Any]] = getattr(inner, "param_groups", [])
    modes = all(callable(getattr(inner, name, None)) for name in ("eval", "train"))
    if not modes or not groups or not groups[0].get("train_mode", True):
        yield
        return
    kept: list[tuple[torch.Tensor, torch.Tensor]] = [(one, one.detach().clone()) for group in groups for one in group["params"]]
    inner.eval()
    try:
        yield
    finally:
        inner.train()
        for weight, value in kept:
            weight.data.copy_(value)
