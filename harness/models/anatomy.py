"""Parts of a causal language model of any family: embeddings, blocks, attention, MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.core.errors import ModelError, explain

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ATTENTION = ("attn", "attention")
MLP = ("mlp", "ffn", "feed_forward", "feedforward", "moe", "experts", "fc1", "fc2")
"""What module names of attention and MLP contain, over the families of transformers."""


def unwrapped(model: Any) -> Any:
    """Return the model inside a PEFT model, adapters included; another model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def blocks(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """Return the blocks of a model, the one next to the embeddings first.

    They are the list of modules that is as long as the config's number of hidden layers.

    Raises:
        ModelError: for a model without such a list.
    """
    import torch

    count = int(model.config.get_text_config().num_hidden_layers)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    got = f"{type(model).__name__} without a list of {count} blocks"
    raise ModelError(explain("model", got=got, allowed="a model with its blocks in a list", fix="another tuning"))


def embeddings(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Return the embeddings of tokens, and of positions where these are learned.

    A tied output head is the token embedding itself.
    """
    import torch

    return [parameter for module in model.modules() if isinstance(module, torch.nn.Embedding) for parameter in module.parameters()]


def part_of(path: str) -> str:
    """Return the part that a layer belongs to: ``attention``, ``mlp``, or empty if unknown.

    The last name of its path that contains one of ATTENTION or MLP decides.

    Args:
        path: dotted, such as ``model.layers.0.self_attn.q_proj``.
    """
    for name in reversed(path.lower().split(".")):
        if any(word in name for word in MLP):
            return "mlp"
        if any(word in name for word in ATTENTION):
            return "attention"
    return ""


def linear_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Return the linear layers of a model by path, without its output head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return {path: module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D) and module is not head}


def described(model: PreTrainedModel) -> dict[str, Any]:
    """Return the sizes in ``ModelFacts``: ``linear``, ``parts``, ``blocks``, ``embeddings``."""
    linear: dict[str, int] = {}
    parts: dict[str, int] = {}
    for path, module in linear_layers(model).items():
        name, part, size = path.rsplit(".", 1)[-1], part_of(path), sum(module.weight.shape)
        linear[name] = linear.get(name, 0) + size
        if part:
            parts[part] = parts.get(part, 0) + size
    try:
        sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks(model)]
    except ModelError:  # tunings that need blocks raise it themselves
        sizes = []
    return {"linear": linear, "parts": parts, "blocks": sizes, "embeddings": sum(p.numel() for p in embeddings(model))}
