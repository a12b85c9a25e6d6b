"""One optimizer step: its rows shared among processes and split into micro-batches, forward and backward, what is counted."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.loss.loss_utils import ForCausalLMLoss

from harness.core.contexts import Penalty, Step
from harness.core.errors import TrainingError, explain

if TYPE_CHECKING:
    from harness.core.contexts import Rollouts

    _Base = Trainer
else:
    _Base = object

FORWARD_SHARE = 3
"""A forward pass is a third of the floating-point operations of forward and backward."""

Batch = dict[str, torch.Tensor]
Streams = Mapping[str, torch.Tensor]

ANNOUNCING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE", "PMI_RANK")
OTHERS = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK")
"""Variables from which accelerate, and so a Trainer, tells whether it is one of several; MPI
sets some of them for every process."""


class ProcessGroup(Protocol):
    """The processes that train one run together, each on its share of a step's rows.

    Rank 0 evaluates and records.
    """

    @property
    def rank(self) -> int:
        """Which of them this is."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def announced(self) -> AbstractContextManager[None]:
        """Return a context in which a Trainer that is made learns of the group."""
        ...

    def total(self, *values: float) -> list[float]:
        """Add up values over all processes; none goes on before all have come here."""
        ...

    def gathered(self, streams: Streams) -> list[Streams]:
        """Return everybody's random streams on rank 0, nothing elsewhere."""
        ...


@dataclass(frozen=True)
class SingleProcess:
    """The group of one."""

    rank: int = 0
    size: int = 1

    def announced(self) -> AbstractContextManager[None]:
        return environment({})

    def total(self, *values: float) -> list[float]:
        return list(values)

    def gathered(self, streams: Streams) -> list[Streams]:
        return [streams]


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block, and hide those that would tell accelerate of another group."""
    names = {*ANNOUNCING, *OTHERS, *values}
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@dataclass
class Meter:
    """What is counted: ``nats`` and ``tokens`` since the stop at step ``since``, ``flops`` and ``seconds`` from the start.

    ``penalty`` sums the penalties of the steps since ``since``, ``generated`` the tokens written in
    training from the start, ``read`` those that a reference and a judge read, ``trained`` and
    ``supervised`` those of rewarded answers. ``step_nats`` and ``step_flops`` are this process's
    share of the step under way.
    """

    since: int = 0
    nats: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    step_nats: float = 0.0
    step_flops: float = 0.0
    began: float = 0.0
    penalty: float = 0.0
    generated: int = 0
    read: int = 0
    trained: int = 0
    supervised: int = 0

    def go(self) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def rest(self) -> None:
        """Stop the clock."""
        self.seconds = self.now()

    def now(self) -> float:
        """Return the seconds of training so far, while the clock runs."""
        return self.seconds + time.perf_counter() - self.began

    def take(self, nats: float, flops: float) -> None:
        """Add a step, of all processes."""
        self.nats, self.flops = self.nats + nats, self.flops + flops
        self.step_nats = self.step_flops = 0.0

    def spend(self, done: Work) -> None:
        """Add the tokens of a step."""
        self.tokens, self.generated, self.read = self.tokens + done.targets, self.generated + done.generated, self.read + done.extra
        self.trained, self.supervised = self.trained + done.trained, self.supervised + done.supervised

    def restart(self, step: int) -> None:
        """Begin anew after a stop."""
        self.since, self.nats, self.tokens, self.penalty = step, 0.0, 0, 0.0


def token_mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: int) -> torch.Tensor:
    """Return the cross-entropy of the next token in nats, summed over targets and divided by ``num_items_in_batch``.

    Args:
        outputs: with ``logits`` (S, T, V); logits at position t are compared with the label at t +
            1.
        labels: (S, T), -100 for no target.
        num_items_in_batch: the targets of the whole optimizer step, of which this may be a
            micro-batch.
    """
    logits = outputs.logits
    return ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=cast(torch.Tensor, num_items_in_batch))


def share(batch: Batch, rank: int, size: int) -> Batch:
    """Return a process's share of a batch, sequences in a row, cut to their longest.

    Of none, two tokens that teach nothing.

    Whoever has nothing to learn takes part all the same: the processes average their gradients, and
    wait for each other to do it.
    """
    if size == 1:
        return batch
    rows = batch["input_ids"].shape[0]
    first, end = rows * rank // size, rows * (rank + 1) // size
    if first == end:
        nothing = {name: value[:1, :2] for name, value in batch.items()}
        return nothing | {"labels": torch.full_like(nothing["labels"], -100)}
    return _cut({name: value[first:end] for name, value in batch.items()})


def split(batch: Batch, micro_rows: int | None) -> list[Batch]:
    """Split the sequences of a batch, tensors (S, T) padded on the right, into micro-batches cut to their own longest sequence."""
    rows = batch["input_ids"].shape[0]
    if micro_rows is None or micro_rows >= rows:
        return [batch]
    return [_cut({name: value[start : start + micro_rows] for name, value in batch.items()}) for start in range(0, rows, micro_rows)]


def _cut(batch: Batch) -> Batch:
    width = int(batch["attention_mask"].sum(dim=1).max())
    return {name: value[:, :width] for name, value in batch.items()}


class Work(NamedTuple):
    """A process's part of one optimizer step: its micro-batches, and of the whole step the targets and the step itself.

    Attributes:
        targets: what the loss is a mean over: supervised tokens, pairs, or answers.
        nats: what is counted as the step's loss in place of the loss itself: minus its rewards;
            None counts the loss.
        read: tokens of forward passes of the live model beside those that learn: of a reference, of
            a sampler.
        generated: tokens written for it.
        extra: tokens of forward passes beside those that learn and those that write: of a
            reference, of a judge.
        trained, supervised: tokens of rewarded answers, prompts included, and those with a loss; 0
            where the rows themselves are learned.
    """

    parts: list[Batch]
    targets: int
    step: Step
    nats: float | None = None
    read: int = 0
    generated: int = 0
    extra: int = 0
    trained: int = 0
    supervised: int = 0


def work(batch: Batch, step: Step, micro_rows: int | None, group: ProcessGroup) -> Work:
    """Return a process's part of a step, of which ``batch`` holds the sequences."""
    targets = int((batch["labels"][:, 1:] != -100).sum())
    return Work(split(share(batch, group.rank, group.size), micro_rows), targets, step)


def pair_work(batch: Batch, step: Step, micro_rows: int | None) -> Work:
    """Return a step of pairs, of which ``batch`` holds both answers one after the other.

    The start model reads them too.
    """
    parts = split(batch, None if micro_rows is None else 2 * micro_rows)
    read = int(batch["attention_mask"].sum())
    return Work(parts, batch["input_ids"].shape[0] // 2, step, read=read, extra=read)


def reward_work(answers: Rollouts, step: Step, micro_answers: int | None) -> Work:
    """Return a step of rewarded answers, so many in a forward pass."""
    return Work(
        split(answers.batch, micro_answers),
        len(answers.rewards),
        step,
        nats=-float(sum(answers.rewards)),
        read=answers.read,
        generated=answers.generated,
        extra=answers.extra,
        trained=answers.trained,
        supervised=answers.supervised,
    )


class StepTrainer(_Base):
    """What the harness adds to a Trainer: the penalty, micro-batches, autocast, and an eye on the loss.

    Autocast is entered here rather than through TrainingArguments, which would wrap the live
    model's forward, and so change the evaluations at the stops. Several processes average their
    gradients (accelerate's DistributedDataParallel), so each takes its share of the loss that many
    times; every one adds the whole penalty.
    """

    def __init__(
        self,
        *,
        penalty: Penalty | None,
        half: bool,
        meter: Meter,
        group: ProcessGroup,
        first: int,
        rolled_out: Callable[[Step], Work] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.rolled_out = rolled_out
        self._done: Work | None = None
        # A Trainer begins by collecting garbage, through all that was ever imported: a quarter of a
        # second, and there is none yet.
        cast(Any, self.accelerator).free_memory = lambda *objects: list(objects)
        self.penalty, self.half, self.meter, self.group, self.first = penalty, half, meter, group, first
        self._penalty_due: Step | None = None
        self._flops_per_token = float(super().floating_point_ops({"input_ids": torch.zeros(1)}))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the steps in order, one at a time.

        The Trainer's own loader would shuffle and batch them.
        """
        return DataLoader(cast(Any, self.train_dataset), batch_size=None, collate_fn=self.data_collator)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward for the micro-batches of one optimizer step.

        Return the step's loss.
        """
        done: Work = inputs if self.rolled_out is None else self.rolled_out(inputs.step)
        self._done, self._penalty_due = done, done.step
        self.meter.step_nats += done.nats or 0.0
        self.meter.spend(done)
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(done.parts, start=1):
            apart = self.group.size > 1 and number < len(done.parts)  # gradients are averaged once a step
            with self.accelerator.no_sync(model) if apart else contextlib.nullcontext():
                # A step may have no target if all its rows were cut; its loss is then 0.
                loss += super().training_step(model, {**batch, "use_cache": False}, max(done.targets, 1))
        return loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a micro-batch; the first of a step carries the penalty."""
        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.half):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        value = self._finite("loss", loss) * num_items_in_batch
        if self._done is None or self._done.nats is None:
            self.meter.step_nats += value
        if self.group.size > 1:
            loss = loss * self.group.size
        if self.penalty is not None and self._penalty_due is not None:
            added = self.penalty(cast(Any, self.model), self._penalty_due)
            self.meter.penalty += self._finite("penalty", added)
            self._penalty_due, loss = None, loss + added
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Estimate as the Trainer does, without its walk over all modules at every step."""
        done = inputs if self._done is None else self._done
        flops = self._flops_per_token * (sum(batch["input_ids"].numel() for batch in done.parts) + done.read / FORWARD_SHARE)
        self.meter.step_flops += flops
        return int(flops)

    def _finite(self, name: str, value: torch.Tensor) -> float:
        number = float(value.detach())
        if not math.isfinite(number):
            step = self.first + self.state.global_step + 1
            got, fix = f"a {name} of {number} in step {step}", "a lower training.learning_rate, or a longer warm-up"
            raise TrainingError(explain("training", got=got, allowed="a finite number", fix=fix))
        return number
