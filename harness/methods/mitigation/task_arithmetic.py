"""Task arithmetic: the change by tuning, scaled, plus those of other models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.config.strict import check
from harness.core.contexts import WeightsContext
from harness.core.methods import Mitigation
from harness.methods.coefficients import check_coefficients, every_coefficient
from harness.models import arithmetic

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TaskVector:
    """The change by another tuning.

    Attributes:
        tuned: member of conf/model after it.
        start: member of conf/model before it.
        weight: factor; below 0 the change is subtracted.
    """

    tuned: str
    start: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.vectors.weight", self.weight, "a number", lambda _: True)


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Mitigation):
    """Task arithmetic: θ0 + λ (τ + Σ_k w_k τ_k).

    τ = θ − θ0 is the run's own vector, and τ_k = tuned_k − start_k are further ones. λ is measured
    and chosen as for ``merge``; without further vectors, the two differ only in their grid.

    Reference: Ilharco et al. 2022, arXiv 2212.04089, section 2 (θ + λ Σ τ; λ is found on held-out
    data, mostly 0.3 to 0.5). Differs from the paper: each further vector has a weight; embeddings
    and output head move like all other weights. Checked against: numbers by hand, NumPy.

    Attributes:
        grid: measured values of λ, 0 or greater.
        coefficient: the λ that the run reports; null is chosen on the ``select`` items of the
            target suites.
        vectors: further ones, such as ``[{tuned: smollm2-135m-instruct, start: smollm2-135m}]``.
    """

    off: ClassVar[Mapping[str, Any]] = {"grid": (1.0,), "coefficient": 1.0, "vectors": ()}

    grid: tuple[float, ...] = (0.3, 0.4, 0.5)
    coefficient: float | None = None
    vectors: tuple[TaskVector, ...] = ()

    def __post_init__(self) -> None:
        """Check ranges."""
        check_coefficients(self.grid, self.coefficient, "0 or greater", lambda value: value >= 0)

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the further vectors."""
        return tuple(dict.fromkeys(name for vector in self.vectors for name in (vector.tuned, vector.start)))

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Every measured λ, ascending."""
        return every_coefficient(self.grid, self.coefficient)

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the sum.

        Without further vectors, it is bit for bit the start model's for 0 and the tuned one's for
        1.

        Raises:
            ModelError: if another model's weights differ in name or shape.
        """
        own = arithmetic.interpolated(context.base, context.tuned, coefficient)
        further = []
        for vector in self.vectors:
            tuned, start = context.other(vector.tuned), context.other(vector.start)
            arithmetic.require_alike(f"mitigation=task_arithmetic: model {vector.tuned}", tuned, context.base)
            arithmetic.require_alike(f"mitigation=task_arithmetic: model {vector.start}", start, context.base)
            further.append(arithmetic.difference(tuned, start, weight=vector.weight))
        return arithmetic.added(own, further, coefficient)
