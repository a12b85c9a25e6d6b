"""How much runs at a time: the token budget from memory, what attention costs beside the linear layers, how far a model looks back."""

from __future__ import annotations

import math
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

MOST = {"cpu": 2048, "cuda": 16384}
"""Beyond so many tokens a forward pass gains nothing more: the processor's caches overflow, the
GPU is full."""

LEAST = 64
MEMORY_SHARE = 0.25
"""Of the device's memory that weights leave, for activations; the rest is for training state,
kept prefixes and other processes."""

ATTENTION_PENALTY = 2.0
"""A masked attention makes about half as much use of its operations as a matrix product of the
linear layers (measured on a CPU)."""

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention_window")
"""Names under which configs say how far a layer looks back."""

KINDS = {"full_attention", "sliding_attention"}


def automatic(model: PreTrainedModel) -> int:
    """Return the token budget for a model on its device: a power of two, the same whenever the machine and the model are the same.

    It is found from the total memory, not from what is free at the moment, since the budget can
    move the last digits of a score.
    """
    device = model.device
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else psutil.virtual_memory().total
    weights = sum(parameter.numel() * parameter.element_size() for parameter in _own_parameters(model))
    room = max(0.0, MEMORY_SHARE * (total - weights)) / _bytes_per_token(model)
    return int(min(MOST.get(device.type, MOST["cpu"]), max(LEAST, 2 ** math.floor(math.log2(max(1.0, room))))))


def _bytes_per_token(model: PreTrainedModel) -> float:
    """Estimate what one token of a forward pass holds at its widest: the parts of a layer, its kept keys and values, its logits."""
    config: Any = model.config.get_text_config()
    hidden = int(getattr(config, "hidden_size", 768))
    wide = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    layers = int(getattr(config, "num_hidden_layers", 12))
    return 4.0 * (8 * hidden + 4 * wide + 2 * layers * hidden + 2 * int(config.vocab_size))


def operations(model: PreTrainedModel) -> tuple[float, float, float]:
    """Return the floating-point operations of a token in the linear layers, of a (query, key) pair, and of a token in the head."""
    config: Any = model.config.get_text_config()
    hidden, layers = int(getattr(config, "hidden_size", 768)), int(getattr(config, "num_hidden_layers", 12))
    modules: Any = [model.get_input_embeddings(), model.get_output_embeddings()]
    ends = {id(module.weight): module.weight.numel() for module in modules if module is not None}
    inner = max(1, sum(parameter.numel() for parameter in _own_parameters(model)) - sum(ends.values()))
    return 2.0 * inner, 4.0 * layers * hidden, 2.0 * hidden * int(config.vocab_size)


def _own_parameters(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return a model's parameters without those of an adapter on it: one that does nothing yet must not change any batch."""
    adapter = getattr(model.base_model, "prefix", None)  # what PEFT's tuners begin the names of their parameters with
    return [parameter for name, parameter in model.named_parameters() if not (isinstance(adapter, str) and f".{adapter}" in name)]


def attention_cost(model: PreTrainedModel) -> float:
    """Return the cost of one (query, key) pair in tokens of the linear layers, with the penalty."""
    linear, pair, _ = operations(model)
    return ATTENTION_PENALTY * pair / linear


def windows(model: PreTrainedModel) -> list[int]:
    """Return the distances at which a layer of this model stops looking back, as its config says."""
    config = model.config.get_text_config()
    found = [getattr(config, name, None) for name in WINDOWS]
    return sorted({size for size in found if isinstance(size, int) and size > 0})


def odd_positions(model: PreTrainedModel) -> str | None:
    """Return why a model's positions or layers rule out packing, as far as its config says, or None."""
    config: Any = model.config.get_text_config()
    if kinds := set(getattr(config, "layer_types", None) or []) - KINDS:
        return f"it has layers of {', '.join(sorted(kinds))}"
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {str(part.get("rope_type")) for part in [rope, *rope.values()] if isinstance(part, dict)}
    if changing := kinds & {"dynamic", "longrope"}:
        return f"its rotary positions ({', '.join(sorted(changing))}) depend on what else is in the row"
    return None
