"""Interpolation with the start model: part of the way back, at no further training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.contexts import WeightsContext
from harness.core.methods import Mitigation
from harness.methods.coefficients import check_coefficients, every_coefficient
from harness.models import arithmetic

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Merge(Mitigation):
    """θ0 + λ (θ − θ0) over all weights, θ0 those before training and θ those after.

    Each λ of the grid is measured at each volume, as a run of its own that is derived from this
    one. This one stands for ``coefficient`` or, where that is null, for the λ that is best on the
    ``select`` items of the target suites at that volume: the mean over the suites of their primary
    metric, turned so that higher is better; a tie goes to the smaller λ. The choice is among the
    grid alone, as in the second paper: λ = 1, the tuned model itself, is in it only where the grid
    has it.

    Reference: Wortsman et al. 2021, arXiv 2109.01903, equation 1 (WiSE-FT, over all weights); Farn
    et al. 2024, arXiv 2412.19512 (merging of the models before and after tuning, λ in {0.2, 0.4,
    0.6, 0.8} chosen on the task's validation set). Differs from the papers: of low-rank adapters it
    is the merged weights that are interpolated, which for the adapted layers is the adapter's scale
    times λ; ties are settled by a rule. Checked against: numbers by hand, NumPy.

    Attributes:
        grid: values of λ that are measured, 0 (the start model) to 1 (the tuned one).
        coefficient: the λ that the run stands for, measured too where the grid does not have it;
            null is chosen.
    """

    off: ClassVar[Mapping[str, Any]] = {"grid": (1.0,), "coefficient": 1.0}

    grid: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    coefficient: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        check_coefficients(self.grid, self.coefficient, "from 0 to 1", lambda value: 0 <= value <= 1)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Every λ that is measured, ascending."""
        return every_coefficient(self.grid, self.coefficient)

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the interpolated weights.

        To the last bit the start model's for 0 and the tuned one's for 1.
        """
        return arithmetic.interpolated(context.base, context.tuned, coefficient)
