"""The training loop: trains a prepared model in place, with stops at volumes.

The loop is transformers.Trainer's, or that of a class derived from it which the objective names,
inside accelerate's DistributedDataParallel where several processes train. ``StepTrainer``
(harness.training.step) adds the penalty, exact micro-batches and autocast. ``_Loop`` calls back at
the volumes, and saves checkpoints: there, every ten minutes, and when the run is interrupted.
Weights and optimizer are float32, but for frozen weights during steps under bfloat16 autocast
(harness.models.halves).
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from harness.config.run_config import Training
from harness.core.contexts import LearningContext, Penalty, Step
from harness.core.counts import Counts
from harness.core.errors import TrainingError, explain
from harness.core.memory import out_of_memory
from harness.core.progress import Interrupted
from harness.core.seeds import derive, global_streams, seed_torch, set_global_streams, untouched_global_streams
from harness.models.halves import FrozenHalves
from harness.training.checkpoint import Checkpoint, restore, streams, tensors
from harness.training.dropout import dropping
from harness.training.job import Callbacks, Job, Stop
from harness.training.step import Meter, ProcessGroup, SingleProcess, StepTrainer, Work, pair_work, reward_work, token_mean, token_work
from harness.training.token_loss import TokenLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SECONDS_BETWEEN_CHECKPOINTS = 600.0
"""Of training: the most that a killed process loses."""

PATIENCE_SECONDS = 24 * 60 * 60
"""Timeout of processes that wait for each other, such as for rank 0 while it evaluates."""


class OutOfMemory(TrainingError):
    """Memory ran out in a forward or backward pass; smaller micro-batches may fit."""


def train(
    job: Job,
    model: PreTrainedModel,
    base: Mapping[str, torch.Tensor],
    callbacks: Callbacks,
    *,
    start: Checkpoint | None = None,
    group: ProcessGroup = SingleProcess(),  # noqa: B008 - it has no state
) -> None:
    """Train a model in place, one optimizer step per entry of ``job.steps``, in order.

    The loss of a step is the mean over all its targets, however it is split into micro-batches and
    among processes, plus the penalty once.

    Args:
        job: everything that is trained.
        model: prepared by ``job.tuned``, in float32, on its device, computing as the start model;
            left in evaluation mode.
        base: the start weights by plain name, on the CPU.
        callbacks: receivers of stops, checkpoints and progress.
        start: checkpoint to resume from, to the last bit; a stop at its step is still made. None
            starts.
        group: processes that train together. All call this with the same job; checkpoints go to
            rank 0 alone.

    Raises:
        TrainingError: for a stop beyond the last step; for a loss that is not a finite number, at
            the step where it appears, before the weights take it up; for dropout in a model that
            has none.
        OutOfMemory: where memory does not suffice; the model is then useless.
        Interrupted: as progress does.
    """
    steps, training = job.steps, job.training
    if outside := [step for step in job.stops if not 1 <= step <= len(steps)]:
        raise TrainingError(explain("stops", got=f"step {outside[0]}", allowed=f"1 to {len(steps)}, the steps of the job"))
    # Made before a checkpoint moves the weights.
    penalty, learning = job.penalty(model, base), job.learning(model, base)
    first = start.counts.step if start else 0
    optimizer = _optimizer(model, training, job.resolved.learning_rate)
    if start is not None:
        restore(model, optimizer, start)
    meter = Meter(start.counts if start else Counts(penalty=None if penalty is None else 0.0))
    loop = _Loop(job, callbacks, meter, group, streams(start, group.rank) if start else None)
    tidied = _tidied(job, model, optimizer)
    with tempfile.TemporaryDirectory() as folder, tidied, _memory(loop, training), dropping(model, training.dropout):
        if first in job.stops:
            loop.stop(model)
        if first == len(steps):
            return
        trainer = _trainer(job, model, folder, optimizer, meter=meter, group=group, first=first, penalty=penalty, learning=learning)
        trainer.remove_callback(PrinterCallback)  # it prints to standard output
        trainer.add_callback(loop)
        torch.set_num_threads(job.resolved.threads)  # accelerate has a number of its own for several processes
        seed = derive(job.seed, "training")
        seed_torch(seed if group.rank == 0 else derive(seed, "rank", str(group.rank)))  # after the Trainer, which seeds with a constant
        if job.bfloat16:
            loop.halves = FrozenHalves(model)
            loop.halves.halve()
        trainer.train()
        if loop.halves is not None:
            loop.halves.restore()


def rate_multiplier(step: int, steps: int, training: Training, restarts: Sequence[int] = ()) -> float:
    """Return the learning rate of a step as a share of its peak.

    min(1, rows seen / warmup_rows) · decay: the rows of the step itself are seen, and decay goes
    from 1 at the first step towards ``decay_floor`` after the last. ``step`` counts from 0; rows
    seen count from the last of ``restarts``.
    """
    done = step / steps
    decay = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[training.decay]
    decay = training.decay_floor + (1.0 - training.decay_floor) * decay
    seen = (step - max((start for start in restarts if start <= step), default=0) + 1) * training.batch_rows
    return decay * (min(1.0, seen / training.warmup_rows) if training.warmup_rows else 1.0)


def _trainer(
    job: Job,
    model: PreTrainedModel,
    folder: str,
    optimizer: torch.optim.Optimizer,
    *,
    meter: Meter,
    group: ProcessGroup,
    first: int,
    penalty: Penalty | None,
    learning: LearningContext | None,
) -> Any:
    """Return the objective's Trainer, with ``StepTrainer``, over the steps from ``first`` on."""
    objective, training, steps = job.objective, job.training, job.steps

    def multiplier(step: int) -> float:
        return rate_multiplier(first + step, len(steps), training, job.restarts)

    loss = TokenLoss(model, job.bfloat16) if objective.learns == "tokens" else None
    with group.announced():
        trainer = type("StepsTrainer", (StepTrainer, objective.trainer()), {})(
            penalty=penalty,
            half=job.bfloat16,
            meter=meter,
            group=group,
            first=first,
            rollout=_rollout(job, learning) if objective.learns == "rewards" else None,
            model=model,
            args=_arguments(job, folder, model, group),
            train_dataset=[Step(number, examples) for number, examples in enumerate(steps)][first:],
            data_collator=_collator(job, group),
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)),
            compute_loss_func=loss or token_mean,
            reading=loss and loss.reading,
        )
    if learning is not None:
        trainer.learning = learning
    return trainer


def _collator(job: Job, group: ProcessGroup) -> Callable[[Step], Work]:
    """Return the function that turns a step into this process's work."""
    objective, micro_rows = job.objective, job.training.micro_batch_rows

    def collate(step: Step) -> Work:
        if objective.learns == "rewards":
            return Work([], step)  # batches are collated one ahead, and rollouts need the weights of their step
        # Collated whole, then split: packing must not depend on the size of micro-batches.
        batch = objective.collate(step.examples, job.pad_id, job.resolved.max_length)
        return pair_work(batch, step, micro_rows, group) if objective.learns == "pairs" else token_work(batch, step, micro_rows, group)

    return collate


def _rollout(job: Job, learning: LearningContext | None) -> Callable[[Step], Work]:
    """Return the function that turns a step's prompts into rewarded rollouts."""
    objective: Any = job.objective
    micro_rows = job.training.micro_batch_rows

    def rollout(step: Step) -> Work:
        found = objective.answer(step, learning, job.pad_id)
        return reward_work(found, step, None if micro_rows is None else micro_rows * objective.samples)

    return rollout


class _Loop(TrainerCallback):
    """Stops at volumes and saves checkpoints, without a trace in the training."""

    def __init__(
        self,
        job: Job,
        callbacks: Callbacks,
        meter: Meter,
        group: ProcessGroup,
        own_streams: Mapping[str, torch.Tensor] | None,
    ) -> None:
        self.job, self.callbacks, self.meter, self.group, self.streams = job, callbacks, meter, group, own_streams
        self.restarts = frozenset(job.restarts)
        self.first = meter.counts.step
        self.saved_at = meter.counts.seconds
        self.stopping = self.updating = False
        self.halves: FrozenHalves | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.meter.start_clock()

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Restore random streams after the Trainer's own draws; drop moments where a stage ends."""
        if self.first + state.global_step in self.restarts:  # when resumed too: the checkpoint has them
            kwargs["optimizer"].state.clear()
        if self.streams is not None:
            set_global_streams(self.streams)
            self.streams = None

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Note that an update begins."""
        self.updating = True

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Note that an update has ended."""
        self.updating = False

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Save and stop where it is time. Raises Interrupted, with a checkpoint saved."""
        step, meter, interrupted = self.first + state.global_step, self.meter, self._advance()
        due = interrupted is not None or step in self.job.stops or meter.seconds() - self.saved_at >= SECONDS_BETWEEN_CHECKPOINTS
        # All processes do what is due on rank 0.
        nats, flops, due_at_rank_0 = self.group.total(meter.step_nats, meter.step_flops, float(due and self.group.rank == 0))
        meter.end_step(step, nats, flops)
        if not due_at_rank_0:
            return
        meter.stop_clock()
        self._save(kwargs["model"], kwargs["optimizer"])
        if interrupted is not None:
            raise interrupted
        if step in self.job.stops:
            self.stop(kwargs["model"])
        self.saved_at = meter.counts.seconds
        meter.start_clock()

    def stop(self, model: Any) -> None:
        """Call back at a volume; the other processes wait."""
        counts = self.meter.counts
        restored = contextlib.nullcontext() if self.halves is None else self.halves.whole()
        with untouched_global_streams(), restored:
            model.eval()
            self.stopping = True
            self.callbacks.on_stop(Stop(volume=self.job.stops[counts.step], counts=counts))
            self.stopping = False
            model.train()
        torch.set_num_threads(self.job.resolved.threads)
        self.meter.counts = counts.from_stop()
        self.group.total(0.0)

    def _advance(self) -> Interrupted | None:
        try:
            self.callbacks.progress.advance()
        except Interrupted as interrupted:
            return interrupted
        return None

    def _save(self, model: Any, optimizer: Any) -> None:
        if self.callbacks.on_checkpoint is None:
            return
        gathered = self.group.gathered(global_streams())
        if self.group.rank == 0:
            found = tensors(model, optimizer, gathered)
            self.callbacks.on_checkpoint(Checkpoint(self.meter.counts, found, self.job.training.micro_batch_rows))


@contextmanager
def _memory(loop: _Loop, training: Training) -> Iterator[None]:
    """Raise OutOfMemory where training, not a stop, runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if loop.stopping or not out_of_memory(error):
            raise
        if loop.updating:
            got, fix = "out of memory while the optimizer updates the weights, with any micro-batch", "a tuning with fewer weights"
            raise TrainingError(explain("training", got=got, fix=fix)) from error
        rows = training.micro_batch_rows or training.batch_rows
        fix = "a smaller training.micro_batch_rows or training.max_length, or training.gradient_checkpointing=true"
        raise OutOfMemory(explain("training", got=f"out of memory with micro-batches of {rows} rows", fix=fix)) from error


def _optimizer(model: PreTrainedModel, training: Training, learning_rate: float) -> torch.optim.Optimizer:
    """Return AdamW; vectors (norms, biases) have no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        fused=True,  # one pass over each tensor instead of about ten
    )


def _arguments(job: Job, folder: str, model: PreTrainedModel, group: ProcessGroup) -> TrainingArguments:
    """Return arguments under which a Trainer does nothing but train."""
    device = job.resolved.device
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        max_grad_norm=job.training.max_grad_norm,
        use_cpu=device == "cpu",
        activation_checkpointing=job.checkpoints_activations(model),
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_cache=bool(getattr(model.config, "use_cache", True)),  # the Trainer writes it into the live model's config
        disable_tqdm=True,
        report_to="none",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        average_tokens_across_devices=False,  # StepTrainer does
        ddp_backend="gloo" if group.size > 1 and device == "cpu" else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=PATIENCE_SECONDS,
    )
    # More than one visible GPU would otherwise wrap the model in DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextmanager
def _tidied(job: Job, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Train on the job's threads; afterwards restore the caller's settings and free memory."""
    before, plain = torch.get_num_threads(), cast(Any, model)
    torch.set_num_threads(job.resolved.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if job.checkpoints_activations(model):
            plain.activation_checkpointing_disable()
        plain.eval()
        # The schedule holds the optimizer in a reference cycle: gradients and moments, three times
        # the weights, would stay for long.
        optimizer.zero_grad()
        optimizer.state.clear()
        optimizer.param_groups.clear()
