"""Dropout rates set for a training, in place of the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.core.errors import TrainingError, explain

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RATES = ("attention_dropout", "dropout", "hidden_dropout", "activation_dropout")
"""Attributes in which modules of transformers keep a rate that their forward pass reads."""

ADAPTERS = ".lora_dropout."


@contextmanager
def dropping(model: PreTrainedModel, rate: float) -> Iterator[None]:
    """Drop at one rate wherever the model can drop; restore the model's own rates afterwards.

    The model family decides what can drop: gpt2 and pythia drop embeddings, hidden states and
    attention weights; llama, qwen and olmo only attention weights. An adapter's dropout is set by
    the tuning, and stays.

    Args:
        model: drops in training mode, never in evaluation mode.
        rate: 0 keeps the model's own rates.

    Raises:
        TrainingError: where nothing in the model can drop.
    """
    places = _places(model) if rate else []
    if rate and not places:
        got = f"{rate}, with {type(model).__name__}, in which nothing drops"
        raise TrainingError(explain("training.dropout", got=got, allowed="a model that has dropout", fix="training.dropout=0"))
    before = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, rate)
        yield
    finally:
        for (module, name), own in zip(places, before, strict=True):
            setattr(module, name, own)


def _places(model: PreTrainedModel) -> list[tuple[torch.nn.Module, str]]:
    import torch

    found: list[tuple[torch.nn.Module, str]] = []
    for path, module in model.named_modules():
        if ADAPTERS in f"{path}.":
            continue
        if isinstance(module, torch.nn.Dropout):
            found.append((module, "p"))
        found += [(module, name) for name in RATES if isinstance(vars(module).get(name), float | int)]
    return found
