"""Forward passes and gradients of a method's own: logits at supervised places.

Loss mitigations and divergences use them. Every function leaves the model's weights, trainable
parameters, mode and ``.grad`` unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.core.footprint import NUMBERS_AT_ONCE
from harness.core.rows import Example
from harness.models import rotary
from harness.models.anatomy import unwrapped
from harness.models.batches import padded, stack

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class OnDevice(Mapping[str, "torch.Tensor"]):
    """Weights by name, each copied to a device when first read, and kept there.

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
    """Return the rows with a supervised token: no other row needs a forward pass."""
    return [example for example in examples if example.supervised_tokens]


def chunks(examples: Sequence[Example], vocabulary: int, numbers: int = NUMBERS_AT_ONCE) -> Iterator[list[Example]]:
    """Yield batches of rows of similar length, longest first.

    Args:
        examples: the rows.
        vocabulary: size of the vocabulary.
        numbers: most padded tokens × vocabulary of a batch; a longer row is a batch of its own.
    """
    waiting = sorted(examples, key=lambda example: len(example.input_ids), reverse=True)
    while waiting:
        rows = max(1, numbers // (vocabulary * len(waiting[0].input_ids)))
        yield waiting[:rows]
        waiting = waiting[rows:]


def logits(model: PreTrainedModel, examples: Sequence[Example], half: bool) -> torch.Tensor:
    """Return the logits that predict supervised tokens, row by row, float32 (N, V).

    Autocast covers this forward pass alone: it caches cast weights, and those of one model must not
    serve another.

    Args:
        model: in any mode.
        examples: become one batch (B, T), padded on the right.
        half: whether the forward pass runs under bfloat16 autocast.
    """
    import torch

    rotary.fresh(model)
    ids, attention = stack(examples)
    wanted = padded([example.supervised[1:] for example in examples], ids.shape[1]).bool()
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half):
        scores = model(input_ids=ids.to(model.device), attention_mask=attention.to(model.device), use_cache=False).logits  # (B, T, V)
    chosen: torch.Tensor = scores[wanted.to(model.device)]
    return chosen.float()


def targets(examples: Sequence[Example]) -> torch.Tensor:
    """Return the supervised tokens that ``logits`` predicts, in its order, int64 (N,)."""
    import torch

    return torch.tensor([token for e in examples for token, on in zip(e.input_ids[1:], e.supervised[1:], strict=True) if on])


@contextmanager
def without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation mode; afterwards every module is in its former mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def at_once(
    parameters: Sequence[torch.Tensor], parts: Iterator[torch.Tensor], reached: Sequence[torch.Tensor] | None = None
) -> torch.Tensor:
    """Return the sum of scalars, having computed the gradients of each part in turn.

    So memory holds the activations of one part at a time, and one copy of the gradients.

    Args:
        parameters: for which gradients are computed.
        parts: scalars, each computed from the parameters when the iterator reaches it.
        reached: tensors that take the gradients, where parameters are detached copies of them.

    Returns:
        A scalar; its backward pass, of which there is one, returns the gradients computed here.
    """
    import torch

    total: torch.Tensor | None = None
    found: list[torch.Tensor | None] = [None] * len(parameters)
    for part in parts:
        with torch.enable_grad():
            added: Any = torch.autograd.grad(part, parameters, allow_unused=True)  # None where a parameter takes no part
        found = [new if old is None else old if new is None else old.add_(new) for old, new in zip(found, added, strict=True)]
        total = part.detach() if total is None else total + part.detach()
        del added  # else it is held while those of the next part are computed
    if total is None:
        return torch.zeros((), device=parameters[0].device)
    returned: torch.Tensor = _known()(total, found, *(reached or parameters))
    return returned


@cache
def _known() -> Callable[..., Any]:
    import torch

    class Known(torch.autograd.Function):
        """A value whose gradients are computed already."""

        @staticmethod
        def forward(context: Any, value: torch.Tensor, gradients: list[torch.Tensor | None], *_: torch.Tensor) -> torch.Tensor:
            context.gradients = gradients
            return value.clone()

        @staticmethod
        def backward(context: Any, *outer: torch.Tensor) -> Any:
            gradients, context.gradients = context.gradients, []
            return None, None, *[None if known is None else known.mul_(outer[0]) for known in gradients]

    return Known.apply


def plain_parameters(model: PreTrainedModel, names: Sequence[str]) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that hold start weights, by plain name, also inside a PEFT model."""
    plain = {name.replace(".base_layer.", "."): parameter for name, parameter in unwrapped(model).named_parameters()}
    return {name: plain[name] for name in names}


@contextmanager
def differentiable(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Make parameters trainable for a while; afterwards each is trainable or frozen as before."""
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, trainable in zip(parameters, before, strict=True):
            parameter.requires_grad_(trainable)


@contextmanager
def taken(parameters: Sequence[torch.Tensor], takers: Sequence[Callable[[torch.Tensor], None]]) -> Iterator[None]:
    """Give each gradient to its taker as soon as a backward pass has it, and free it.

    Afterwards ``.grad`` is as before.
    """

    def hook(take: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
        def taking(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            take(parameter.grad)
            parameter.grad = None

        return taking

    before = [parameter.grad for parameter in parameters]
    hooks = []
    try:
        for parameter, take in zip(parameters, takers, strict=True):
            parameter.grad = None
            hooks.append(parameter.register_post_accumulate_grad_hook(hook(take)))
        yield
    finally:
        for one in hooks:
            one.remove()
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
