"""Full fine-tuning: every weight moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.tuning import Tuning

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.core.sources import ModelFacts

RATE_AT_7B = 2e-5
RATE_EXPONENT = 0.4


def full_rate(params_total: int) -> float:
    """Return the default peak learning rate with AdamW: 2e-5 · (7e9 / parameters)^0.4.

    An assumption for models without a searched rate. Its evidence: 1e-5 (mathematics) and 5e-5
    (code) were the best of a sweep at 7B, with Lion (Biderman et al. 2024, arXiv 2405.09673v2), and
    good rates fall with size, in pretraining from 1e-3 at 70M to 1.2e-4 at 6.9B (Biderman et al.
    2023, arXiv 2304.01373). The exponent gives 1e-4 at 135M and 1.5e-3 at 145k.
    """
    return float(RATE_AT_7B * (7e9 / params_total) ** RATE_EXPONENT)


@dataclass(frozen=True, kw_only=True)
class Full(Tuning):
    """Every weight moves, in float32."""

    def default_learning_rate(self, params_total: int) -> float:
        """Return ``full_rate``."""
        return full_rate(params_total)

    def trainable(self, facts: ModelFacts) -> int:
        """Return the number of all parameters."""
        return facts.params_total

    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Mark every parameter trainable, in place. Draws no random numbers."""
        model.requires_grad_(True)
        return model

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return the number of trainable parameters, shared ones counted once."""
        return {"trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)}

    def deltas(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, p - p0) for every trainable parameter.

        A tied one is yielded once, under its first name.
        """
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter - base[name].to(parameter.device)

    def merged(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return copies of the parameters; a tied one once, under its first name.

        Buffers, which never move, are not included.
        """
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()}

    @contextmanager
    def base_weights(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Point every parameter at the start weights, and back.

        No weight is copied, except onto another device. The start weights are the original ones in
        float32, so that no rounding is added.
        """
        tuned = {name: parameter.data for name, parameter in model.named_parameters()}
        try:
            for name, parameter in model.named_parameters():
                parameter.data = base[name].to(parameter.device)
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.data = tuned[name]

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write safetensors and config, for ``AutoModelForCausalLM.from_pretrained``."""
        model.save_pretrained(folder)
