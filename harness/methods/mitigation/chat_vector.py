"""The chat vector: what made a chat model of a base model, added to that base model trained further."""

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
    """A chat model and the base model that it was made of, members of conf/model.

    ``weight`` is its share among several vectors.
    """

    chat: str
    base: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.vectors.weight", self.weight, "a number", lambda _: True)


@dataclass(frozen=True, kw_only=True)
class ChatVector(Mitigation):
    """θ + r Σ_k w_k (chat_k − base_k), with θ the weights after training, in float32.

    Each r of the grid is measured at each volume, as a run of its own that is derived from this
    one, which stands for ``coefficient``. The start model is the base; what "before" is measured on
    may be the chat model, ``reference=NAME``.

    Reference: Huang et al. 2023, arXiv 2310.04799, section 3 (τ = θ_chat − θ_base, added to the
    continually pre-trained θ; r = 1, for several vectors a share of each). Differs from the paper:
    one grid of r scales all vectors, each with a weight of its own, and the tokenizer stays the
    start model's, since the vocabularies have to be equal; so rows of special tokens of the chat
    model alone are not copied. The official code takes such rows from the base model where it means
    the chat model; here the vector of an embedding is chat − base as of all else. Checked against:
    numbers by hand, NumPy.

    Attributes:
        vectors: such as ``[{chat: smollm2-135m-instruct, base: smollm2-135m}]``.
        grid: values of r that are measured, 0 or greater.
        coefficient: the r that the run stands for, measured too where the grid does not have it.
        embeddings: ``add`` treats the input and output embeddings as all else; ``skip`` leaves them
            as training left them.
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
        """Every r that is measured, ascending."""
        return every_coefficient(self.grid, self.coefficient)

    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Refuse to add nothing, unless it is switched off."""
        return "no mitigation.vectors, such as [{chat: NAME, base: NAME}]" if not self.vectors and any(self.coefficients) else ""

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the sum; to the last bit the tuned model's for 0.

        Raises:
            ModelError: where another model has not the same weights; embeddings that are skipped
                may differ.
        """
        without = context.embeddings if self.embeddings == "skip" else frozenset[str]()
        moves = []
        for pair in self.vectors if coefficient else ():
            chat, base = context.other(pair.chat), context.other(pair.base)
            arithmetic.require_alike(f"mitigation=chat_vector: model {pair.chat}", chat, context.tuned, without=without)
            arithmetic.require_alike(f"mitigation=chat_vector: model {pair.base}", base, context.tuned, without=without)
            moves.append(arithmetic.difference(chat, base, weight=pair.weight, without=without))
        return arithmetic.added(context.tuned, moves, coefficient)
