"""Forward passes of a method's own: rows stacked, logits where supervised tokens are predicted, and gradients worked out at once.

What loss remedies share. Everything here leaves the model as it was: its weights, what is
trainable, its mode, its ``.grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.core.rows import Example
from harness.models import batches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NUMBERS_AT_ONCE = 2**25
"""Padded tokens × vocabulary of one forward pass: 128 MiB an array of float32."""


class OnDevice(Mapping[str, "torch.Tensor"]):
    """Weights by name on a device, each brought there when it is first asked for and kept.

    On the CPU nothing is copied.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self.weights, self.device = weights, device
        self.kept: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.kept:
            self.kept[name] = self.weights[name].to(self.device)
        return self.kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def taught(examples: Sequence[Example]) -> list[Example]:
    """Return the rows that have a supervised token: the only ones that a forward pass here is spent on."""
    return [example for example in examples if example.supervised_tokens]


def chunks(examples: Sequence[Example], vocabulary: int, numbers: int = NUMBERS_AT_ONCE) -> Iterator[list[Example]]:
    """Yield rows of similar length together, longest first, at most so many padded tokens × vocabulary; a longer row alone."""
    waiting = sorted(examples, key=lambda example: len(example.input_ids), reverse=True)
    while waiting:
        rows = max(1, numbers // (vocabulary * len(waiting[0].input_ids)))
        yield waiting[:rows]
        waiting = waiting[rows:]


def logits(model: PreTrainedModel, examples: Sequence[Example], half: bool) -> torch.Tensor:
    """Return the logits that predict each supervised token, row by row, float32 of shape (N, V).

    The region of autocast is this forward pass alone, so that no weight cast for one set of weights
    can serve another.

    Args:
        model: in whatever mode it is.
        examples: stacked into (B, T), padded on the right.
        half: whether the forward pass runs under bfloat16 autocast.
    """
    import torch

    ids, attention = batches.stack(examples)
    wanted = batches.padded([[*example.supervised[1:], False] for example in examples], 0)
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half):
        scores = model(input_ids=ids.to(model.device), attention_mask=attention.to(model.device), use_cache=False).logits  # (B, T, V)
    chosen: torch.Tensor = scores[wanted.bool().to(model.device)]
    return chosen.float()


def targets(examples: Sequence[Example]) -> torch.Tensor:
    """Return the supervised tokens that ``logits`` predict, in its order, int64 of shape (N,)."""
    import torch

    return torch.tensor([token for e in examples for token, on in zip(e.input_ids[1:], e.supervised[1:], strict=True) if on])


@contextmanager
def without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Compute in evaluation mode; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def at_once(parameters: Sequence[torch.nn.Parameter], parts: Iterator[torch.Tensor]) -> torch.Tensor:
    """Return the sum of scalars whose gradients are worked out one part after the other, as soon as each is there.

    So the activations of one part alone are held, at the price of one copy of the gradients.

    Args:
        parameters: what gradients are for.
        parts: each made from them when it is asked for.

    Returns:
        A scalar; its backward pass hands on the gradients that are known already.
    """
    import torch

    total: torch.Tensor | None = None
    found: list[torch.Tensor | None] = [None] * len(parameters)
    for part in parts:
        with torch.enable_grad():
            added: Any = torch.autograd.grad(part, parameters, allow_unused=True)  # None where a parameter takes no part
        found = [new if old is None else old if new is None else old.add_(new) for old, new in zip(found, added, strict=True)]
        total = part.detach() if total is None else total + part.detach()
    if total is None:
        return torch.zeros((), device=parameters[0].device)
    returned: torch.Tensor = _known()(total, found, *parameters)
    return returned


@cache
def _known() -> Callable[..., Any]:
    import torch

    class Known(torch.autograd.Function):
        """A value with gradients that are known."""

        @staticmethod
        def forward(context: Any, value: torch.Tensor, gradients: list[torch.Tensor | None], *_: torch.Tensor) -> torch.Tensor:
            context.gradients = gradients
            return value.clone()

        @staticmethod
        def backward(context: Any, *outer: torch.Tensor) -> Any:
            return None, None, *[None if known is None else known * outer[0] for known in context.gradients]

    return Known.apply


def plain_parameters(model: PreTrainedModel, names: Sequence[str]) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that hold the start weights of these plain names, whether PEFT has wrapped the model or not."""
    wrapped: Any = model
    start = wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped
    plain = {name.replace(".base_layer.", "."): parameter for name, parameter in start.named_parameters()}
    return {name: plain[name] for name in names}


@contextmanager
def differentiable(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Take gradients of these parameters, frozen or not.

    Afterwards each is trainable or frozen as before.
    """
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, trainable in zip(parameters, before, strict=True):
            parameter.requires_grad_(trainable)
