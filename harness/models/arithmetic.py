"""Arithmetic on whole models, weight by weight in float32: differences, sums, interpolation, and whether two models can be combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.core.errors import ModelError, explain

if TYPE_CHECKING:
    import torch

Weights = Mapping[str, "torch.Tensor"]
"""Plain name → weight."""


def interpolated(start: Weights, end: Weights, share: float) -> dict[str, torch.Tensor]:
    """Return start + share · (end − start), new tensors.

    To the last bit ``start`` for share 0 and ``end`` for share 1.
    """
    require_alike("the tuned model", end, start)
    if share in {0.0, 1.0}:
        return {name: (end if share else start)[name].clone() for name in end}
    return {name: (start[name].float() + share * (end[name].float() - start[name].float())).to(end[name].dtype) for name in end}


def added(weights: Weights, vectors: Sequence[Weights], coefficient: float) -> dict[str, torch.Tensor]:
    """Return weights + coefficient · Σ vectors, new tensors.

    What no vector has, and all for coefficient 0, stays to the last bit.
    """
    found = {}
    for name, value in weights.items():
        moves = [vector[name] for vector in vectors if name in vector] if coefficient else []
        found[name] = (value.float() + coefficient * sum(moves)).to(value.dtype) if moves else value.clone()
    return found


def difference(end: Weights, start: Weights, *, weight: float = 1.0, without: frozenset[str] = frozenset()) -> dict[str, torch.Tensor]:
    """Return weight · (end − start) in float32, the names in ``without`` left out."""
    return {name: weight * (end[name].float() - start[name].float()) for name in end if name not in without}


def require_alike(what: str, weights: Weights, like: Weights, *, without: frozenset[str] = frozenset()) -> None:
    """Refuse weights that have not the same names and shapes as others, but for those in ``without``. Raises ModelError."""
    names, others = {*weights} - without, {*like} - without
    allowed, fix = "the names and shapes of the model it is combined with", "models of one architecture and one vocabulary"
    if names != others:
        first = sorted(names ^ others)[0]
        got = f"{len(names ^ others)} weights that one of them alone has, the first is {first}"
        raise ModelError(explain(what, got=got, allowed=allowed, fix=fix))
    for name in sorted(names):
        if weights[name].shape != like[name].shape:
            got = f"{name} of shape {tuple(weights[name].shape)} beside {tuple(like[name].shape)}"
            raise ModelError(explain(what, got=got, allowed=allowed, fix=fix))


def norm(end: Weights, start: Weights) -> float:
    """Return ‖end − start‖₂ over all weights, summed in float64."""
    return float(sum(float((value.double() - start[name].double()).square().sum()) for name, value in end.items()) ** 0.5)
