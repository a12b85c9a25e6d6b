"""Running totals of a run: one set of counters for checkpoints, stops and points."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Running totals after an optimizer step.

    Attributes:
        step: optimizer steps done.
        since: step of the previous stop, where ``nats``, ``targets`` and ``penalty`` start.
        nats: summed loss without any penalty; of rewarded rollouts, minus their summed rewards.
        targets: number that the loss is a mean over: supervised tokens, pairs or rollouts.
        penalty: summed penalties, one a step; None without a penalty.
        flops: estimated as transformers does, 6 · tokens (padding included) · parameters that are
            not embeddings; from the start.
        seconds: of training, from the start; stops do not count.
        generated_tokens: written by models, from the start.
        read_tokens: of forward passes other than training and generation (a reference model, a
            judge), from the start.
        trained_tokens: trained on, prompts included, from the start. In training, of rollouts
            alone: those of rows follow from the rows.
        supervised_tokens: tokens of these with a loss.
    """

    step: int = 0
    since: int = 0
    nats: float = 0.0
    targets: int = 0
    penalty: float | None = None
    flops: float = 0.0
    seconds: float = 0.0
    generated_tokens: int = 0
    read_tokens: int = 0
    trained_tokens: int = 0
    supervised_tokens: int = 0

    @property
    def train_loss(self) -> float | None:
        """Mean loss per target since the previous stop, in nats; None without targets."""
        return self.nats / self.targets if self.targets else None

    @property
    def train_penalty(self) -> float | None:
        """Mean penalty per step since the previous stop; None without a penalty."""
        steps = self.step - self.since
        return None if self.penalty is None or not steps else self.penalty / steps

    def plus(self, other: Counts) -> Counts:
        """Return these totals with the targets, nats, flops and tokens of further work."""
        return dataclasses.replace(
            self,
            nats=self.nats + other.nats,
            targets=self.targets + other.targets,
            flops=self.flops + other.flops,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            read_tokens=self.read_tokens + other.read_tokens,
            trained_tokens=self.trained_tokens + other.trained_tokens,
            supervised_tokens=self.supervised_tokens + other.supervised_tokens,
        )

    def from_stop(self) -> Counts:
        """Return these totals as they continue after a stop."""
        return dataclasses.replace(self, since=self.step, nats=0.0, targets=0, penalty=None if self.penalty is None else 0.0)
