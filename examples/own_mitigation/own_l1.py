"""own_l1: a mitigation that penalises the distance from the start weights, to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.config.strict import check
from harness.core import Mitigation, Penalty, PenaltyContext, Step
from harness.models.forward import OnDevice

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class OwnL1(Mitigation):
    """Loss + weight · Σ |θ − θ_0|, over every weight that can move.

    Other methods of ``Mitigation`` mix old rows in, write rows, or change the weights afterwards;
    each has a default that does nothing (harness/core/methods.py).

    Attributes:
        weight: 0 is off.
    """

    strength: ClassVar[str] = "weight"  # the field whose 0 switches it off

    weight: float = 0.001

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.weight", self.weight, "0 or greater", lambda value: value >= 0)

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Return what is added to the loss of each step, or None for nothing."""
        if self.weight == 0:
            return None
        base, tuning = OnDevice(context.base, context.model.device), context.tuning

        def penalty(model: PreTrainedModel, _: Step) -> torch.Tensor:
            import torch

            # deltas: (name, live weight - start weight) of every weight, of adapters too
            return self.weight * torch.stack([delta.abs().sum() for _, delta in tuning.deltas(model, base)]).sum()

        return penalty
