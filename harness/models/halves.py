"""Frozen linear weights in bfloat16 while training steps run, in float32 everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.models import whole
from harness.models.anatomy import linear_layers, unwrapped

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class FrozenHalves:
    """Frozen weights of linear layers, which training steps under bfloat16 autocast read.

    Autocast rounds them at every forward pass, and autograd keeps each rounded copy until the
    backward pass. Rounded once, they need half the memory and no copy, and give the same logits,
    bit for bit. Embeddings and the output head, which methods read outside autocast, stay float32.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a prepared model; nothing is rounded yet."""
        layers = linear_layers(unwrapped(model)).values()
        self.model = model
        self.frozen = [
            parameter
            for layer in layers
            for parameter in layer.parameters(recurse=False)
            if parameter.is_floating_point() and not parameter.requires_grad  # quantised ones are packed integers
        ]
        self.lost: dict[int, torch.Tensor] = {}

    def halve(self) -> None:
        """Round them; where that would change a bit of the logits, they stay float32."""
        import torch

        if not self.frozen:
            return
        expected = _logits(self.model)
        for number, parameter in enumerate(self.frozen):
            half = parameter.data.bfloat16()
            if not torch.equal(half.float(), parameter.data):  # the files had more digits
                self.lost[number] = parameter.data.cpu()
            parameter.data = half
        found = _logits(self.model)
        if found is None or expected is None or not torch.equal(found, expected):
            self.restore()
            self.frozen = []

    def restore(self) -> None:
        """Give them back as they were, bit for bit."""
        for number, parameter in enumerate(self.frozen):
            kept = self.lost.pop(number, None)
            parameter.data = parameter.data.float() if kept is None else kept.to(parameter.device)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Restore them for a block."""
        self.restore()
        yield
        self.halve()


def _logits(model: PreTrainedModel) -> torch.Tensor | None:
    """Return logits of a few tokens under autocast; None from a layer that needs float32."""
    import torch

    try:
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            return whole.logits(model)
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        return None
