"""Interpolation with the start model, without further training."""

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
    """Interpolation of all weights: θ0 + λ (θ − θ0).

    θ0 are the weights before training, θ those after. Each λ of the grid is measured at each
    volume, as a separate run that is derived from this one. This run reports ``coefficient`` or, if
    that is null, the λ that is best on the ``select`` items of the target suites at that volume:
    the mean over the suites of their primary metric, oriented so that higher is better; a tie goes
    to the smaller λ. Only values of the grid are candidates, as in the second paper: λ = 1, the
    tuned model itself, is one only if the grid has it.

    Reference: Wortsman et al. 2021, arXiv 2109.01903, equation 1 (WiSE-FT, over all weights); Farn
    et al. 2024, arXiv 2412.19512 (merging of the models before and after tuning, λ in {0.2, 0.4,
    0.6, 0.8} chosen on the task's validation set). Differs from the papers: with low-rank adapters,
    the merged weights are interpolated, which in an adapted layer scales the adapter by λ; ties
    have a rule. Checked against: numbers by hand, NumPy.

    Attributes:
        grid: measured values of λ, 0 (the start model) to 1 (the tuned one).
        coefficient: the λ that the run reports, measured even if not in the grid; null is chosen.
    """

    off: ClassVar[Mapping[str, Any]] = {"grid": (1.0,), "coefficient": 1.0}

    grid: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    coefficient: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        check_coefficients(self.grid, self.coefficient, "from 0 to 1", lambda value: 0 <= value <= 1)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Every measured λ, ascending."""
        return every_coefficient(self.grid, self.coefficient)

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the interpolated weights.

        Bit for bit the start model's for 0 and the tuned one's for 1.
        """
        return arithmetic.interpolated(context.base, context.tuned, coefficient)
