"""L2-SP: a penalty on the squared distance from the start weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.config.strict import check
from harness.core.contexts import Penalty, PenaltyContext, Step
from harness.core.methods import Mitigation
from harness.models.forward import OnDevice

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class L2(Mitigation):
    """L2-SP: loss + (α/2) · ‖θ − θ_0‖².

    θ_0 are the start weights; the norm is over every weight that can move.

    Paper: Li, Grandvalet and Davoine 2018, Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks, arXiv 1802.01483, section 3 (L2-SP). Differs from the paper: there is no
    new head, so no (β/2)·‖head‖²; under LoRA the norm is of the change of the adapted
    weights, (alpha / rank)·B·A, not of A and B; it is part of the loss that AdamW sees (clipped and
    scaled with it), where the paper uses SGD. Checked against: values and gradients by hand.

    Attributes:
        weight: α; 0 is off. The default is in the middle of its usual range, 0.001 to 0.1; search
            it if it matters.
    """

    strength: ClassVar[str] = "weight"

    weight: float = 0.01

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.weight", self.weight, "0 or greater", lambda value: value >= 0)

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Return α/2 times the squared distance of the live weights from the start weights."""
        if self.weight == 0:
            return None
        base, tuning = OnDevice(context.base, context.model.device), context.tuning

        def penalty(model: PreTrainedModel, _: Step) -> torch.Tensor:
            return self.weight / 2 * tuning.squared_change(model, base)

        return penalty
