"""Rotary positions whose frequencies depend on the longest row of a batch, or on earlier ones.

``longrope`` has one set of frequencies up to a length and another beyond it, ``dynamic`` scales
them with the longest row, and transformers keeps the last scale. So a row beyond that length is run
alone, and every forward pass starts from the frequencies of the config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def limit(config: PreTrainedConfig) -> int | None:
    """Return the longest batch in tokens in which rows do not depend on each other.

    None if they never do.
    """
    text: Any = config.get_text_config()
    rope: Any = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    parts = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    return min((found for part in parts if (found := _limit(text, part)) is not None), default=None)


def _limit(text: Any, part: dict[str, Any]) -> int | None:
    kind, longest = str(part.get("rope_type") or part.get("type")), int(getattr(text, "max_position_embeddings", 0) or 0)
    if kind == "longrope":
        return int(part.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None) or longest)
    return longest if "dynamic" in kind else None


def fresh(model: PreTrainedModel) -> None:
    """Give ``dynamic`` positions the frequencies of the config, which longer rows have changed."""
    if limit(model.config) is None:
        return
    for module in model.modules():
        state = vars(module)
        tensors = {**state, **state.get("_buffers", {})}
        for name in [name for name in tensors if name.endswith("original_inv_freq")]:
            prefix, original = name.removesuffix("original_inv_freq"), tensors[name]
            current = tensors.get(f"{prefix}inv_freq")
            if original is None or current is None:
                continue
            setattr(module, f"{prefix}inv_freq", original.to(current.device).clone())
            if hasattr(module, "original_max_seq_len"):
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
