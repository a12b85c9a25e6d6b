"""Linear layers in mixed precision from bfloat16 copies of their weights.

Autocast casts the weights of a linear layer at each forward pass: under ``inference_mode`` it keeps
no cast weight. A copy has the same numbers, so results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@contextmanager
def weights(model: PreTrainedModel, half: bool) -> Iterator[None]:
    """Let linear layers compute from bfloat16 copies of their float32 weights.

    Call the model under bfloat16 autocast only. Afterwards, also after an error, it has its own
    parameters. Where memory does not suffice for all copies, the other layers keep their weights.

    Args:
        model: plain or PEFT; its gradients are not computed meanwhile.
        half: whether to do so.
    """
    before: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    try:
        if half:
            before.extend(_exchange(model))
        yield
    finally:
        for module, name, parameter in before:
            module._parameters[name] = parameter


def _exchange(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Parameter]]:
    """Put copies in place of weights and biases; yield each of these with its place."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from harness.core import memory

    linear = (torch.nn.Linear, Conv1D)
    for module in [module for module in model.modules() if type(module) in linear]:
        for name, parameter in list(module._parameters.items()):
            if parameter is None or parameter.dtype != torch.float32 or type(parameter.data) is not torch.Tensor:
                continue
            try:
                copy = torch.nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
            except RuntimeError as error:
                if not memory.out_of_memory(error):
                    raise
                memory.release(model.device)
                return
            module._parameters[name] = copy
            yield module, name, parameter
