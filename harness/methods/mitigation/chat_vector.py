"""Chat vector: a chat model minus its base model, added to the tuned weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.config.strict import check
from harness.core.contexts import WeightsContext
from harness.core.methods import Mitigation, Objective
from harness.core.sources import Source
from harness.core.tuning import Tuning
from harness.methods.coefficients import check_coefficients, every_coefficient
from harness.models import arithmetic

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ChatPair:
    """A chat model and its base model.

    Attributes:
        chat: member of conf/model.
        base: member of conf/model that it was made from.
        weight: factor among several vectors.
    """

    chat: str
    base: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.vectors.weight", self.weight, "a number", lambda _: True)


@dataclass(frozen=True, kw_only=True)
class ChatVector(Mitigation):
    """Chat vector: θ + r Σ_k w_k (chat_k − base_k).

    θ are the weights after training, in float32. Each r of the grid is measured at each volume, as
    a separate run that is derived from this one, which reports ``coefficient``. The start model is
    the base model; the model measured as "before" may be the chat model (``reference=NAME``).

    Reference: Huang et al. 2023, arXiv 2310.04799, section 3 (τ = θ_chat − θ_base, added to the
    continually pre-trained θ; r = 1, for several vectors a share of each). Differs from the paper:
    one grid of r scales all vectors, each with its own weight; the tokenizer remains the start
    model's, since the vocabularies have to be equal, so rows of special tokens that only the chat
    model has are not copied. The official code takes such rows from the base model although it
    means the chat model; here the vector of an embedding is chat − base, like all others. Checked
    against: numbers by hand, NumPy.

    Attributes:
        vectors: such as ``[{chat: smollm2-135m-instruct, base: smollm2-135m}]``.
        grid: measured values of r, 0 or greater.
        coefficient: the r that the run reports, measured even if not in the grid.
        embeddings: ``add`` treats the input and output embeddings like all other weights; ``skip``
            keeps the tuned ones.
    """

    off: ClassVar[Mapping[str, Any]] = {"grid": (0.0,), "coefficient": 0.0}

    vectors: tuple[ChatPair, ...] = ()
    grid: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    coefficient: float = 1.0
    embeddings: Literal["add", "skip"] = "add"

    def __post_init__(self) -> None:
        """Check ranges."""
        check_coefficients(self.grid, self.coefficient, "0 or greater", lambda value: value >= 0, may_choose=False)

    @property
    def models(self) -> tuple[str, ...]:
        """The models of all vectors."""
        return tuple(dict.fromkeys(name for pair in self.vectors for name in (pair.chat, pair.base)))

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Every measured r, ascending."""
        return every_coefficient(self.grid, self.coefficient)

    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Reject a run without vectors, unless it is switched off."""
        return "no mitigation.vectors, such as [{chat: NAME, base: NAME}]" if not self.vectors and any(self.coefficients) else ""

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the sum; bit for bit the tuned model's for 0.

        Raises:
            ModelError: if another model's weights differ in name or shape; skipped embeddings may.
        """
        without = context.embeddings if self.embeddings == "skip" else frozenset[str]()
        moves = []
        for pair in self.vectors if coefficient else ():
            chat, base = context.other(pair.chat), context.other(pair.base)
            arithmetic.require_alike(f"mitigation=chat_vector: model {pair.chat}", chat, context.tuned, without=without)
            arithmetic.require_alike(f"mitigation=chat_vector: model {pair.base}", base, context.tuned, without=without)
            moves.append(arithmetic.difference(chat, base, weight=pair.weight, without=without))
        return arithmetic.added(context.tuned, moves, coefficient)
