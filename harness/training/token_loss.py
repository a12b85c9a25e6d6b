"""The loss of objectives that learn tokens: many logits are never held at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from harness.core.footprint import NUMBERS_AT_ONCE
from harness.core.rows import NO_LOSS
from harness.models import whole
from harness.models.forward import at_once
from harness.training.step import token_mean

HALF_ROUNDING = 1e-2
"""Largest difference of two bfloat16 logits that rounding explains, as a share of the largest."""

FACTORS = ("logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
"""Settings by which families multiply or divide the output of the head (TRL 1.16,
``trl.trainer.utils.add_fused_lm_head``)."""


class Tail(NamedTuple):
    """The way from the output of a head to logits: a factor, then a soft cap."""

    factor: float = 1.0
    cap: float | None = None

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        scaled = output if self.factor == 1.0 else output * self.factor
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap


class TokenLoss:
    """Cross-entropy of the next token in nats, a mean over targets.

    Where padded tokens × vocabulary of a micro-batch exceed ``NUMBERS_AT_ONCE``, the output head
    and its gradients are computed for targets alone, in chunks of that many logits. Loss and
    gradients are equal up to rounding. Fewer logits are computed whole, as are those of models
    that do more to the output of their head than ``Tail``.

    Attributes:
        hidden: input of the head, (S, T, H), while a forward pass ends before it.
    """

    def __init__(self, model: Any, half: bool) -> None:
        """Take a prepared model.

        Args:
            model: of any family, also inside PEFT.
            half: whether forward passes run under bfloat16 autocast.
        """
        self.model, self.half = model, half
        self.head = model.get_output_embeddings()
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.hidden: torch.Tensor | None = None
        self._tail: Tail | None = None
        self._is_probed = self.head is None

    @contextmanager
    def reading(self, batch: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Let forward passes of a batch with many logits end before the head."""
        if batch["input_ids"].numel() * self.vocabulary <= NUMBERS_AT_ONCE or self._probed() is None:
            yield
            return
        self.head.forward = self._keep
        try:
            yield
        finally:
            del self.head.forward
            self.hidden = None

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: int) -> torch.Tensor:
        """Return the loss; arguments as in ``token_mean``."""
        if self.hidden is None:
            return token_mean(outputs, labels, num_items_in_batch)
        hidden, labels = self.hidden[:, :-1], labels[:, 1:].to(self.hidden.device)
        taught = labels != NO_LOSS
        if not bool(taught.any()):  # its gradient still reaches every weight, which other processes wait for
            return 0.0 * self._logits(hidden[:1, :1]).sum()
        rows = max(1, NUMBERS_AT_ONCE // self.vocabulary)
        pieces, targets = hidden[taught].split(rows), labels[taught].split(rows)
        # Copies, since a tied head's weight is also on the way to its input.
        copies = [piece.detach().requires_grad_() for piece in pieces]
        parts = (
            cross_entropy(self._logits(piece), target, reduction="sum") / num_items_in_batch
            for piece, target in zip(copies, targets, strict=True)
        )
        moving = [parameter for parameter in self.head.parameters() if parameter.requires_grad]
        with torch.autocast(hidden.device.type, enabled=False):  # for the backward passes
            return at_once([*copies, *moving], parts, [*pieces, *moving])

    def _keep(self, hidden: torch.Tensor) -> torch.Tensor:
        """Keep the input of the head, and return little in place of logits."""
        self.hidden = hidden
        return hidden[..., :1]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits in float32."""
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=self.half):
            output = type(self.head).forward(self.head, hidden)
            assert self._tail is not None
            return self._tail(output).float()

    def _probed(self) -> Tail | None:
        """Return the model's tail, found by a few of its logits; None if it is unknown."""
        if not self._is_probed:
            self._is_probed = True
            outputs: list[torch.Tensor] = []
            hook = self.head.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
            try:
                found = whole.logits(self.model)
            finally:
                hook.remove()
            if len(outputs) == 1:
                rounding = (HALF_ROUNDING if self.half else whole.ROUNDING) * float(found.abs().max())
                matching = (tail for tail in _tails(self.model.config) if _differ(tail(outputs[0]).float().cpu(), found) <= rounding)
                self._tail = next(matching, None)
        return self._tail


def _tails(config: Any) -> Iterator[Tail]:
    """Yield the tails that a config may mean."""
    text = config.get_text_config()
    values = [value for name in FACTORS if (value := getattr(text, name, None))]
    cap = getattr(text, "final_logit_softcapping", None)
    for factor in [1.0 / value for value in values] + values + [1.0]:
        yield Tail(factor, cap)


def _differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
