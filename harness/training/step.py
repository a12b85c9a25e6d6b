"""One optimizer step: shared among processes, split into micro-batches, and counted."""

from __future__ import annotations

import contextlib
import dataclasses
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
from harness.core.counts import Counts
from harness.core.errors import TrainingError, explain

if TYPE_CHECKING:
    from harness.core.contexts import Rollouts

    _Base = Trainer
else:
    _Base = object

PASSES_PER_FORWARD = 3
"""Operations of forward and backward passes over those of a forward pass."""

Batch = dict[str, torch.Tensor]
Streams = Mapping[str, torch.Tensor]

ANNOUNCING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE", "PMI_RANK")
OTHERS = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK")
"""Variables that tell accelerate, and so a Trainer, of other processes; MPI sets some for each."""


class ProcessGroup(Protocol):
    """The processes that train one run together, each on its share of a step's rows.

    Rank 0 evaluates and records.
    """

    @property
    def rank(self) -> int:
        """Number of this process."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def announced(self) -> AbstractContextManager[None]:
        """Return a context in which a new Trainer learns of the group."""
        ...

    def total(self, *values: float) -> list[float]:
        """Add values over all processes; each waits here for the others."""
        ...

    def gathered(self, streams: Streams) -> list[Streams]:
        """Return the random streams of all processes on rank 0, nothing elsewhere."""
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
    """Set environment variables, and hide those that announce another group to accelerate."""
    names = {*ANNOUNCING, *OTHERS, *values}
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


class Meter:
    """Running totals of a training, its clock, and this process's share of the current step.

    Attributes:
        counts: totals after the last finished step; ``seconds`` up to where the clock last stopped.
        step_nats: loss of this process's share of the step.
        step_flops: its floating-point operations.
    """

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.step_nats = self.step_flops = 0.0
        self._step = Counts()
        self._penalty = 0.0
        self._began = 0.0

    def start_clock(self) -> None:
        """Count seconds from now."""
        self._began = time.perf_counter()

    def stop_clock(self) -> None:
        """Add the seconds since the clock started."""
        self.counts = dataclasses.replace(self.counts, seconds=self.seconds())

    def seconds(self) -> float:
        """Return the seconds of training so far, while the clock runs."""
        return self.counts.seconds + time.perf_counter() - self._began

    def begin_step(self, work: Work) -> None:
        """Take the counts of a step's work."""
        self._step = dataclasses.replace(work.counts, nats=0.0)
        if not work.counts_loss:
            self.step_nats += work.counts.nats

    def add_penalty(self, value: float) -> None:
        """Add the penalty of the step."""
        self._penalty += value

    def end_step(self, step: int, nats: float, flops: float) -> None:
        """Add a finished step: its counts, and the nats and operations of all processes."""
        penalty = None if self.counts.penalty is None else self.counts.penalty + self._penalty
        added = dataclasses.replace(self._step, nats=nats, flops=flops)
        self.counts = dataclasses.replace(self.counts.plus(added), step=step, penalty=penalty)
        self.step_nats = self.step_flops = self._penalty = 0.0
        self._step = Counts()


def token_mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: int) -> torch.Tensor:
    """Return the cross-entropy of the next token in nats, a mean over targets.

    Args:
        outputs: with ``logits`` (S, T, V); logits at position t are compared with the label at t +
            1.
        labels: (S, T), -100 for no target.
        num_items_in_batch: the targets of the whole optimizer step, of which this may be a
            micro-batch.
    """
    logits = outputs.logits
    return ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=cast(torch.Tensor, num_items_in_batch))


def share(batch: Batch, rank: int, size: int, together: int = 1) -> Batch:
    """Return a process's share of the sequences of a batch, cut to their longest.

    A process without a sequence gets a dummy batch without targets, since every process joins the
    all-reduce of gradients.

    Args:
        batch: tensors (S, T), padded on the right.
        rank: number of the process.
        size: number of processes.
        together: adjacent sequences that no process splits, such as 2 of a pair.
    """
    if size == 1:
        return batch
    rows = batch["input_ids"].shape[0] // together
    first, end = (together * (rows * number // size) for number in (rank, rank + 1))
    if first == end:
        nothing = {name: value[:together, :2] for name, value in batch.items()}
        return nothing | {"labels": torch.full_like(nothing["labels"], -100)}
    return _cut({name: value[first:end] for name, value in batch.items()})


def split(batch: Batch, micro_rows: int | None) -> list[Batch]:
    """Split a batch into micro-batches, each cut to its own longest sequence.

    Args:
        batch: tensors (S, T), padded on the right.
        micro_rows: sequences of a micro-batch; None returns the batch whole.
    """
    rows = batch["input_ids"].shape[0]
    if micro_rows is None or micro_rows >= rows:
        return [batch]
    return [_cut({name: value[start : start + micro_rows] for name, value in batch.items()}) for start in range(0, rows, micro_rows)]


def _cut(batch: Batch) -> Batch:
    width = int(batch["attention_mask"].sum(dim=1).max())
    return {name: value[:, :width] for name, value in batch.items()}


class Work(NamedTuple):
    """A process's part of one optimizer step.

    Attributes:
        micro_batches: of this process.
        step: the whole step.
        counts: of the whole step: ``targets``, which the loss is a mean over, and tokens.
        counts_loss: whether the loss itself counts as the step's nats; else ``counts.nats`` does.
        forward_tokens: tokens of this process's forward passes of the live model other than those
            that learn: of a reference, of rollouts.
        is_idle: whether the micro-batch is a dummy, whose loss counts nothing: a pair without
            targets has one (log 2).
    """

    micro_batches: list[Batch]
    step: Step
    counts: Counts = Counts()
    counts_loss: bool = True
    forward_tokens: int = 0
    is_idle: bool = False


def token_work(batch: Batch, step: Step, micro_rows: int | None, group: ProcessGroup) -> Work:
    """Return a process's part of a step of rows, collated in ``batch``."""
    targets = int((batch["labels"][:, 1:] != -100).sum())
    return Work(split(share(batch, group.rank, group.size), micro_rows), step, Counts(targets=targets))


def pair_work(batch: Batch, step: Step, micro_rows: int | None, group: ProcessGroup) -> Work:
    """Return a process's part of a step of preference pairs, which the start model reads too.

    Args:
        batch: both answers of each pair of the step, one after the other.
        step: the step.
        micro_rows: pairs of a micro-batch; None is all.
        group: the processes that share the pairs.
    """
    own, pairs = share(batch, group.rank, group.size, together=2), batch["input_ids"].shape[0] // 2
    parts = split(own, None if micro_rows is None else 2 * micro_rows)
    counts = Counts(targets=pairs, read_tokens=int(batch["attention_mask"].sum()))
    is_idle = pairs * group.rank // group.size == pairs * (group.rank + 1) // group.size
    return Work(parts, step, counts, forward_tokens=int(own["attention_mask"].sum()), is_idle=is_idle)


def reward_work(rollouts: Rollouts, step: Step, micro_rollouts: int | None) -> Work:
    """Return a step of rewarded rollouts, at most ``micro_rollouts`` in a forward pass."""
    parts = split(rollouts.batch, micro_rollouts)
    return Work(parts, step, rollouts.counts, counts_loss=False, forward_tokens=rollouts.forward_tokens)


class StepTrainer(_Base):
    """A Trainer with a penalty, exact micro-batches, autocast, and a check of the loss.

    Autocast is entered here, not through TrainingArguments, which would wrap the live model's
    forward and so change the evaluations at stops. Several processes average their gradients
    (accelerate's DistributedDataParallel), so each multiplies its share of the loss by their
    number; every one adds the whole penalty.
    """

    def __init__(
        self,
        *,
        penalty: Penalty | None,
        half: bool,
        meter: Meter,
        group: ProcessGroup,
        first: int,
        rollout: Callable[[Step], Work] | None = None,
        reading: Callable[[Batch], AbstractContextManager[None]] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.rollout, self.reading = rollout, reading
        self._work: Work | None = None
        # A Trainer starts with a garbage collection over everything imported, which takes a quarter
        # of a second and finds nothing.
        cast(Any, self.accelerator).free_memory = lambda *objects: list(objects)
        self.penalty, self.half, self.meter, self.group, self.first = penalty, half, meter, group, first
        self._penalty_due: Step | None = None
        self._flops_per_token = float(super().floating_point_ops({"input_ids": torch.zeros(1)}))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the steps in order, one at a time; the Trainer's loader would shuffle them."""
        return DataLoader(cast(Any, self.train_dataset), batch_size=None, collate_fn=self.data_collator)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run the micro-batches of one optimizer step; return the step's loss."""
        work: Work = inputs if self.rollout is None else self.rollout(inputs.step)
        self._work, self._penalty_due = work, work.step
        self.meter.begin_step(work)
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(work.micro_batches, start=1):
            unsynced = self.group.size > 1 and number < len(work.micro_batches)  # gradients are averaged once a step
            with self.accelerator.no_sync(model) if unsynced else contextlib.nullcontext():
                # A step may have no target if all its rows were cut; its loss is then 0.
                loss += super().training_step(model, {**batch, "use_cache": False}, max(work.counts.targets, 1))
        return loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a micro-batch; the first of a step carries the penalty."""
        reading = contextlib.nullcontext() if self.reading is None else self.reading(inputs)
        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.half), reading:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._work is not None and self._work.is_idle:
            loss = 0.0 * loss
        value = self._finite("loss", loss) * num_items_in_batch
        if self._work is None or self._work.counts_loss:
            self.meter.step_nats += value
        if self.group.size > 1:
            loss = loss * self.group.size
        if self.penalty is not None and self._penalty_due is not None:
            added = self.penalty(cast(Any, self.model), self._penalty_due)
            self.meter.add_penalty(self._finite("penalty", added))
            self._penalty_due, loss = None, loss + added
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Estimate as the Trainer does, without its walk over all modules at every step."""
        work = inputs if self._work is None else self._work
        tokens = sum(batch["input_ids"].numel() for batch in work.micro_batches) + work.forward_tokens / PASSES_PER_FORWARD
        flops = self._flops_per_token * tokens
        self.meter.step_flops += flops
        return int(flops)

    def _finite(self, name: str, value: torch.Tensor) -> float:
        number = float(value.detach())
        if not math.isfinite(number):
            step = self.first + self.state.global_step + 1
            got, fix = f"a {name} of {number} in step {step}", "a lower training.learning_rate, or a longer warm-up"
            raise TrainingError(explain("training", got=got, allowed="a finite number", fix=fix))
        return number
