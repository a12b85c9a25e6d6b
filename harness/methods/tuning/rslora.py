"""Rank-stabilised LoRA: adapters scaled by 1 / √rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from harness.methods.tuning.lora import Lora


@dataclass(frozen=True, kw_only=True)
class RsLora(Lora):
    """W + (alpha / √rank)·B·A, otherwise as ``lora``.

    With a constant alpha, large ranks learn as fast as small ones.

    Paper: Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv
    2312.03732, section 3. Differs from the paper: every linear layer except the output head
    is adapted; alpha is 8 unless given, so that the scaling at the default rank of 16 is 2, as in
    ``lora`` at every rank (its alpha is twice the rank). Checked against: PEFT's
    ``use_rslora``, and B·A by hand.

    Attributes:
        alpha: numerator of the scaling; null is 8 for any rank.
    """

    rank_stabilised: ClassVar[bool] = True

    @property
    def resolved_alpha(self) -> float:
        """Alpha, resolved."""
        return 8.0 if self.alpha is None else self.alpha

    @property
    def scaling(self) -> float:
        """Factor on B·A."""
        return self.resolved_alpha / math.sqrt(self.rank)
