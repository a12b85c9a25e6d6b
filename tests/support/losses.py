"""Shared by tests of loss mitigations: a prepared model, a context, rows as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from harness.core.contexts import Penalty, PenaltyContext, Step
from harness.core.methods import Mitigation
from harness.core.rows import Example, RowKind
from harness.core.seeds import seed_torch
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from tests.support import tiny


def rows(count: int, *, kind: RowKind = "completion", seed: int = 0, origin: Any = "target") -> list[Example]:
    return [Sft().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, origin) for row in tiny.rows(kind, count, seed)]


def context(
    model: PreTrainedModel, tuning: Any = None, anchor: Sequence[Example] = (), **changes: Any
) -> tuple[PreTrainedModel, PenaltyContext]:
    """The model prepared by a tuning, and the inputs of a penalty."""
    tuning, base = tuning or Full(), tiny.copied(model.state_dict())
    model = tuning.prepare(model, 0)
    return model, PenaltyContext(**{"model": model, "base": base, "anchor": anchor, "tuning": tuning, "seed": 7, **changes})


def heavy() -> PreTrainedModel:
    """A model whose weights, 3.5 MB, outweigh activations and logits."""
    seed_torch(0)
    sizes: dict[str, Any] = {"vocab_size": tiny.VOCABULARY, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": tiny.MAX_LENGTH}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


def made(method: Mitigation, given: PenaltyContext) -> Penalty:
    penalty = method.penalty(given)
    assert penalty is not None
    return penalty


def moved(model: PreTrainedModel, by: float = 0.1) -> PreTrainedModel:
    """Add different numbers to all weights that can move."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def one(examples: Sequence[Example], number: int = 0) -> Step:
    return Step(number, examples)


def number(value: torch.Tensor) -> float:
    return float(value.detach())
