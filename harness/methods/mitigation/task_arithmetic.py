"""Task arithmetic: what tuning changed is a vector, to be scaled and added up with that of others."""

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
    """What another tuning changed: members of conf/model after and before it.

    ``weight`` is its share; below 0 it is taken away.
    """

    tuned: str
    start: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.vectors.weight", self.weight, "a number", lambda _: True)


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Mitigation):
    """θ0 + λ (τ + Σ_k w_k τ_k), with τ = θ − θ0 the run's own vector and τ_k = tuned_k − start_k further ones.

    How λ is measured and chosen is as for ``merge``; without further vectors the two are the same
    but for the grid.

    Reference: Ilharco et al. 2022, arXiv 2212.04089, section 2 (θ + λ Σ τ; λ is found on held-out
    data, mostly 0.3 to 0.5). Differs from the paper: further vectors may have weights of their own;
    embeddings and output head are moved as all else. Checked against: numbers by hand, NumPy.

    Attributes:
        grid: values of λ that are measured, 0 or greater.
        coefficient: the λ that the run stands for; null is chosen on the ``select`` items of the
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
        """Every λ that is measured, ascending."""
        return every_coefficient(self.grid, self.coefficient)

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the sum.

        Without further vectors, to the last bit the start model's for 0 and the tuned one's for 1.

        Raises:
            ModelError: where another model has not the same weights.
        """
        own = arithmetic.interpolated(context.base, context.tuned, coefficient)
        further = []
        for vector in self.vectors:
            tuned, start = context.other(vector.tuned), context.other(vector.start)
            arithmetic.require_alike(f"mitigation=task_arithmetic: model {vector.tuned}", tuned, context.base)
            arithmetic.require_alike(f"mitigation=task_arithmetic: model {vector.start}", start, context.base)
            further.append(arithmetic.difference(tuned, start, weight=vector.weight))
        return arithmetic.added(own, further, coefficient)
