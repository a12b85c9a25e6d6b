"""Token budget from memory, cost of attention, and reach of a model's attention."""

from __future__ import annotations

import math
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

MOST = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass beyond which it gains nothing: the processor's caches overflow, the GPU
is busy."""

CACHED = 2**19
CACHED_LEAST = 256
"""Hidden numbers of a forward pass that a processor's caches hold (tokens × hidden size), and the
tokens below which weights are read too often. With 135 million parameters, 512 tokens at a time
take 11% less time than 2,048."""

SLOTS = {"cpu": 128, "cuda": 256}
"""Prompts continued at a time beyond which it gains little: weights are read for so many tokens."""

LEAST = 64
MEMORY_SHARE = 0.25
"""Share of the device's memory, after weights, for activations; the rest is for training state,
kept prefixes and other processes."""

ATTENTION_PENALTY = 2.0
"""A masked attention runs at about half the operations per second of the linear layers' matrix
products (measured on a CPU)."""

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention_window")
"""Settings in which configs limit how far a layer looks back."""

KINDS = {"full_attention", "sliding_attention"}


def automatic(model: PreTrainedModel) -> int:
    """Return the token budget for a model on its device, a power of two.

    It depends on the total memory, not on the free memory of the moment, so that machine and model
    decide it: the budget can change the last digits of a score.
    """
    room = _room(model) / _bytes_per_token(model)
    return int(min(MOST.get(model.device.type, MOST["cpu"]), max(LEAST, 2 ** math.floor(math.log2(max(1.0, room))))))


def in_cache(model: PreTrainedModel) -> int:
    """Return the tokens of a forward pass that are computed fastest, a power of two.

    Larger trees are possible, where memory allows: see ``automatic``.
    """
    if model.device.type != "cpu":
        return MOST.get(model.device.type, MOST["cpu"])
    hidden = int(getattr(model.config.get_text_config(), "hidden_size", 768))
    return int(max(CACHED_LEAST, 2 ** math.floor(math.log2(max(1, CACHED // hidden)))))


def slots(model: PreTrainedModel, length: int, parts: int = 1) -> int:
    """Return how many prompts are continued at a time.

    Their keys and values take the share of memory that activations take, at most.

    Args:
        model: on its device.
        length: most tokens of a prompt and its answer.
        parts: divisor of the number.
    """
    config: Any = model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 12))
    size = int(getattr(config, "head_dim", None) or int(getattr(config, "hidden_size", 768)) // heads)
    kept = int(getattr(config, "num_key_value_heads", None) or heads) * size
    room = _room(model) / (2.0 * 4 * kept * int(getattr(config, "num_hidden_layers", 12)) * max(1, length))
    return int(max(1, min(SLOTS.get(model.device.type, SLOTS["cpu"]), room) // parts))


def _room(model: PreTrainedModel) -> float:
    """Return the bytes that a forward pass may take, by the total memory of the device."""
    device = model.device
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else psutil.virtual_memory().total
    return max(0.0, MEMORY_SHARE * (total - sum(parameter.numel() * parameter.element_size() for parameter in _own_parameters(model))))


def _bytes_per_token(model: PreTrainedModel) -> float:
    """Estimate the peak memory of one token in a forward pass, in bytes.

    It counts the parts of a layer, kept keys and values, and logits.
    """
    config: Any = model.config.get_text_config()
    hidden = int(getattr(config, "hidden_size", 768))
    wide = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    layers = int(getattr(config, "num_hidden_layers", 12))
    return 4.0 * (8 * hidden + 4 * wide + 2 * layers * hidden + 2 * int(config.vocab_size))


def operations(model: PreTrainedModel) -> tuple[float, float, float]:
    """Return the floating-point operations of a token, a (query, key) pair and the head.

    Those of a token are in the linear layers without the head, those of the head are per token.
    """
    config: Any = model.config.get_text_config()
    hidden, layers = int(getattr(config, "hidden_size", 768)), int(getattr(config, "num_hidden_layers", 12))
    modules: Any = [model.get_input_embeddings(), model.get_output_embeddings()]
    ends = {id(module.weight): module.weight.numel() for module in modules if module is not None}
    inner = max(1, sum(parameter.numel() for parameter in _own_parameters(model)) - sum(ends.values()))
    return 2.0 * inner, 4.0 * layers * hidden, 2.0 * hidden * int(config.vocab_size)


def _own_parameters(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return a model's parameters without an adapter's.

    An adapter at volume 0, which has no effect yet, must not change any batch.
    """
    adapter = getattr(model.base_model, "prefix", None)  # PEFT's names of parameters begin with it
    return [parameter for name, parameter in model.named_parameters() if not (isinstance(adapter, str) and f".{adapter}" in name)]


def attention_cost(model: PreTrainedModel) -> float:
    """Return the cost of a (query, key) pair in tokens of the linear layers, penalized."""
    linear, pair, _ = operations(model)
    return ATTENTION_PENALTY * pair / linear


def windows(model: PreTrainedModel) -> list[int]:
    """Return the distances beyond which a layer does not look back, by the model's config."""
    config = model.config.get_text_config()
    found = [getattr(config, name, None) for name in WINDOWS]
    return sorted({size for size in found if isinstance(size, int) and size > 0})


def odd_positions(model: PreTrainedModel) -> str | None:
    """Return why a model's positions or layers rule out packing, by its config.

    None if they do not.
    """
    config: Any = model.config.get_text_config()
    if kinds := set(getattr(config, "layer_types", None) or []) - KINDS:
        return f"it has layers of {', '.join(sorted(kinds))}"
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {str(part.get("rope_type")) for part in [rope, *rope.values()] if isinstance(part, dict)}
    if changing := kinds & {"dynamic", "longrope"}:
        return f"its rotary positions ({', '.join(sorted(changing))}) depend on what else is in the row"
    return None
