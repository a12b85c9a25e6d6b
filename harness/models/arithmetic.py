"""Arithmetic on whole models, weight by weight in float32: differences, sums, interpolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.core.errors import ModelError, explain

if TYPE_CHECKING:
    import torch

Weights = Mapping[str, "torch.Tensor"]
"""Plain name → weight."""


def interpolated(start: Weights, end: Weights, share: float) -> dict[str, torch.Tensor]:
    """Return start + share · (end − start), as new tensors.

    Share 0 gives ``start`` and share 1 gives ``end``, to the last bit.
    """
    require_alike("the tuned model", end, start)
    if share in {0.0, 1.0}:
        return {name: (end if share else start)[name].clone() for name in end}
    return {name: (start[name].float() + share * (end[name].float() - start[name].float())).to(end[name].dtype) for name in end}


def added(weights: Weights, vectors: Sequence[Weights], coefficient: float) -> dict[str, torch.Tensor]:
    """Return weights + coefficient · Σ vectors, as new tensors.

    A weight that no vector has stays the same to the last bit, as does every one for coefficient 0.
    """
    found = {}
    for name, value in weights.items():
        moves = [vector[name] for vector in vectors if name in vector] if coefficient else []
        found[name] = (value.float() + coefficient * sum(moves)).to(value.dtype) if moves else value.clone()
    return found


def difference(end: Weights, start: Weights, *, weight: float = 1.0, without: frozenset[str] = frozenset()) -> dict[str, torch.Tensor]:
    """Return weight · (end − start) in float32, leaving out the names in ``without``."""
    return {name: weight * (end[name].float() - start[name].float()) for name in end if name not in without}


def require_alike(model: str, weights: Weights, like: Weights, *, without: frozenset[str] = frozenset()) -> None:
    """Raise ModelError unless two models have weights of the same names and shapes.

    Args:
        model: name of the first one, for messages.
        weights: of the first one.
        like: weights of the other.
        without: names that are not compared.
    """
    names, others = {*weights} - without, {*like} - without
    allowed, fix = "the names and shapes of the model it is combined with", "models of one architecture and one vocabulary"
    if names != others:
        first = sorted(names ^ others)[0]
        got = f"{len(names ^ others)} weights in one model only, the first is {first}"
        raise ModelError(explain(model, got=got, allowed=allowed, fix=fix))
    for name in sorted(names):
        if weights[name].shape != like[name].shape:
            got = f"{name} of shape {tuple(weights[name].shape)} and {tuple(like[name].shape)}"
            raise ModelError(explain(model, got=got, allowed=allowed, fix=fix))


def norm(end: Weights, start: Weights) -> float:
    """Return ‖end − start‖₂ over all weights, summed in float64."""
    return float(sum(float((value.double() - start[name].double()).square().sum()) for name, value in end.items()) ** 0.5)
