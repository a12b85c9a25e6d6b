"""A broken contract, and the tests that report one."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class ContractBroken(AssertionError):
    """A method does not do what its base class promises; the message is one line."""


def require(holds: bool, message: str) -> None:
    """Raise ContractBroken with a message unless something holds."""
    if not holds:
        raise ContractBroken(message)


def require_close(found: torch.Tensor, expected: torch.Tensor, within: float, message: str) -> None:
    """Raise ContractBroken unless two tensors agree within an absolute difference."""
    far = float((found - expected).abs().max()) if found.numel() else 0.0
    require(far <= within, f"{message}: they differ by {far:.3g}, more than {within:g}")


def require_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], message: str) -> None:
    """Raise ContractBroken unless two sets of weights agree in names and in every bit."""
    if found.keys() != expected.keys():
        raise ContractBroken(f"{message}: {min(found.keys() ^ expected.keys())} is in one of them only")
    for name, value in expected.items():
        require(torch.equal(found[name], value), f"{message}: {name} differs")
