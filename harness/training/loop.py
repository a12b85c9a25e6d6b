"""The one place that trains: steps of examples in, a moved model out, with stops at the volumes.

The loop is transformers.Trainer's (or the one of a class derived from it that the objective names),
accelerate's DistributedDataParallel around it where several processes train. ``StepTrainer``
(harness.training.step) adds the penalty, exact micro-batches and autocast; ``_Stops`` calls back at
the volumes, and saves the state of training there, every now and then, and when the work is
interrupted. Weights and optimizer are float32 always.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from harness.config.run_config import Training
from harness.core.contexts import Penalty, Step
from harness.core.errors import TrainingError, explain
from harness.core.memory import out_of_memory
from harness.core.methods import Objective
from harness.core.progress import Interrupted, Progress
from harness.core.rows import Example
from harness.core.seeds import derive, global_streams, seed_torch, set_global_streams, untouched_global_streams
from harness.training.checkpoint import Checkpoint, Counts, restore, streams, tensors
from harness.training.dropout import dropping
from harness.training.step import Meter, ProcessGroup, SingleProcess, StepTrainer, Work, pair_work, reward_work, token_mean, work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.config.resolution import Resolved
    from harness.core.contexts import LearningContext

SECONDS_BETWEEN_STATES = 600.0
"""Of training: what is lost at most when a process is killed without a word."""

PATIENCE_SECONDS = 24 * 60 * 60
"""How long processes that train together wait for each other, such as for rank 0 while it
evaluates."""

OnState = Callable[[Checkpoint], None]


class OutOfMemory(TrainingError):
    """Memory ran out in a forward or backward pass: smaller micro-batches may do."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where training stands at a volume.

    Attributes:
        step: optimizer steps done.
        volume: as asked for in ``stops``.
        train_loss: since the stop before, without any penalty; None if there was nothing to learn.
            Of an objective that learns tokens: mean nats per supervised token. Pairs: the mean of
            the loss of a pair, in nats. Rewards: minus the mean reward of an answer, for the loss
            itself says nothing, its gradient alone does.
        flops: so far, as transformers estimates them: 6 · tokens (padding included) · parameters
            that are no embedding.
        wall_seconds: of training so far; what happens in ``on_stop`` is not counted.
        penalty: mean of what the penalty added to the loss of a step since the stop before; None
            without a penalty.
        generated_tokens: that the model wrote in training so far.
        read_tokens: of forward passes beside training's own and beside writing so far: of a
            reference, of a judge.
        trained_tokens, supervised_tokens: of rewarded answers so far, prompts included, and those
            with a loss; 0 where rows are learned.
    """

    step: int
    volume: int
    train_loss: float | None
    flops: float
    wall_seconds: float
    penalty: float | None = None
    generated_tokens: int = 0
    read_tokens: int = 0
    trained_tokens: int = 0
    supervised_tokens: int = 0


def train(
    model: PreTrainedModel,
    *,
    steps: Sequence[Sequence[Example]],
    objective: Objective,
    penalty: Penalty | None,
    training: Training,
    resolved: Resolved,
    stops: Mapping[int, int],
    on_stop: Callable[[Stop], None],
    seed: int,
    pad_id: int,
    progress: Progress,
    start: Checkpoint | None = None,
    on_state: OnState | None = None,
    group: ProcessGroup = SingleProcess(),  # noqa: B008 - it has no state
    restarts: Sequence[int] = (),
    learning: LearningContext | None = None,
) -> None:
    """Train a model in place, one optimizer step an entry of ``steps``, in that order.

    The loss of a step is the mean over all its supervised tokens, however it is split into
    micro-batches and among processes, plus the penalty once.

    Args:
        model: prepared by the tuning, in float32, on its device; left in evaluation mode.
        steps: the examples of each step; none is empty.
        objective: makes batches, and names the Trainer.
        penalty: added to the loss of each step, in float32 even under autocast; None is nothing.
        training: optimizer, schedule and micro-batches.
        resolved: learning rate, dtype, threads, device and row length.
        stops: step → volume.
        on_stop: called after those steps with the live model in evaluation mode. It may draw from
            and seed the global streams.
        seed: of everything that is random in training (dropout).
        pad_id: to pad with.
        progress: advanced by one a step, and by as many as were done before. Interrupted, the state
            is saved at the end of the step.
        start: a state to go on from, to the last bit; a stop at its step is still to be made. None
            begins.
        on_state: takes each state that is worth saving; its tensors are live, to be written at
            once.
        group: of processes that train together; all call this with the same arguments, but rank 0
            alone is told of states.
        restarts: steps, counted as in ``stops``, after which the optimizer forgets its moments and
            the rate warms up again: where a stage ends and the next begins.
        learning: what objectives that learn pairs or rewards need; they train in one process.

    Raises:
        TrainingError: for a loss that is no finite number, at the step where it appears, before the
            weights take it up; for dropout in a model that has none.
        OutOfMemory: where memory does not suffice; the model is then of no more use.
        Interrupted: as progress does.
    """
    if outside := [step for step in stops if not 1 <= step <= len(steps)]:
        raise TrainingError(explain("stops", got=f"step {outside[0]}", allowed=f"1 to {len(steps)}, the steps there are"))
    first = start.counts.step if start else 0
    optimizer = _optimizer(model, training, resolved.learning_rate)
    if start is not None:
        restore(model, optimizer, start)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_multiplier(first + step, len(steps), training, restarts))
    trainer_class = type("EngineTrainer", (StepTrainer, objective.trainer()), {})
    loop = _Stops(
        start,
        stops,
        on_stop,
        on_state,
        progress,
        resolved.threads,
        group,
        training.micro_batch_rows,
        restarts,
        has_penalty=penalty is not None,
    )

    def collate(step: Step) -> Work:
        if objective.learns == "rewards":
            return Work([], 0, step)  # written when the step is taken, by the model as it then stands; batches are collated one ahead
        if objective.learns == "pairs":
            return pair_work(objective.collate(step.examples, pad_id, resolved.max_length), step, training.micro_batch_rows)
        # Collated as a whole and then split, so that packing does not depend on the size of
        # micro-batches.
        return work(objective.collate(step.examples, pad_id, resolved.max_length), step, training.micro_batch_rows, group)

    tidied = _tidied(model, optimizer, training, resolved.threads)
    with tempfile.TemporaryDirectory() as folder, tidied, _memory(loop, training), dropping(model, training.dropout):
        if first in stops:
            loop.stop(first, model)
        if first == len(steps):
            return
        with group.announced():
            trainer = trainer_class(
                penalty=penalty,
                half=resolved.dtype == "bfloat16",
                meter=loop.meter,
                group=group,
                first=first,
                rolled_out=_rolling_out(objective, learning, pad_id, training.micro_batch_rows) if objective.learns == "rewards" else None,
                model=model,
                args=_arguments(folder, model, training, resolved.device, group),
                train_dataset=[Step(number, examples) for number, examples in enumerate(steps)][first:],
                data_collator=collate,
                optimizers=(optimizer, schedule),
                compute_loss_func=token_mean,
            )
        if objective.learns != "tokens":
            trainer.learning = learning
        trainer.remove_callback(PrinterCallback)  # it prints to standard output
        trainer.add_callback(loop)
        torch.set_num_threads(resolved.threads)  # accelerate has a number of its own for several processes
        seed_torch(seed if group.rank == 0 else derive(seed, "rank", str(group.rank)))  # after the Trainer, which seeds with a constant
        trainer.train()


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


def _rolling_out(objective: Any, learning: LearningContext | None, pad_id: int, micro_rows: int | None) -> Callable[[Step], Work]:
    """Return what makes the work of a step whose rows are prompts, once it is taken: the model answers, and is told what that is worth."""

    def rolled_out(step: Step) -> Work:
        return reward_work(objective.answer(step, learning, pad_id), step, None if micro_rows is None else micro_rows * objective.samples)

    return rolled_out


class _Stops(TrainerCallback):
    """Calls back at the volumes, saves states, and sees to it that training goes on as if nothing had happened."""

    def __init__(
        self,
        start: Checkpoint | None,
        stops: Mapping[int, int],
        on_stop: Callable[[Stop], None],
        on_state: OnState | None,
        progress: Progress,
        threads: int,
        group: ProcessGroup,
        micro_batch_rows: int | None,
        restarts: Sequence[int],
        *,
        has_penalty: bool,
    ) -> None:
        self.restarts, self.has_penalty = frozenset(restarts), has_penalty
        self.stops, self.on_stop, self.on_state = stops, on_stop, on_state
        self.progress, self.threads, self.group, self.micro_batch_rows = progress, threads, group, micro_batch_rows
        counts = start.counts if start else Counts()
        self.first = counts.step
        self.meter = Meter(counts.since, counts.nats, counts.tokens, counts.flops, counts.seconds)
        self.meter.penalty, self.meter.generated = counts.penalty, counts.generated
        self.meter.read, self.meter.trained, self.meter.supervised = counts.read, counts.trained, counts.supervised
        self.saved_at = counts.seconds
        self.streams = streams(start, group.rank) if start else None
        self.stopping = False

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.meter.go()

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Put the random streams where they were, after all that a Trainer draws before its first step; drop moments where a stage ends."""
        if self.first + state.global_step in self.restarts:  # also after a resumption: the state saved there has them still
            kwargs["optimizer"].state.clear()
        if self.streams is not None:
            set_global_streams(self.streams)
            self.streams = None

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Save and stop where it is time. Raises Interrupted, with the state saved."""
        step, meter, interrupted = self.first + state.global_step, self.meter, self._advance()
        due = interrupted is not None or step in self.stops or meter.now() - self.saved_at >= SECONDS_BETWEEN_STATES
        # What rank 0 says is done by all.
        nats, flops, due_at_rank_0 = self.group.total(meter.step_nats, meter.step_flops, float(due and self.group.rank == 0))
        meter.take(nats, flops)
        if not due_at_rank_0:
            return
        meter.rest()
        self._save(step, kwargs["model"], kwargs["optimizer"])
        if interrupted is not None:
            raise interrupted
        if step in self.stops:
            self.stop(step, kwargs["model"])
        self.saved_at = meter.seconds
        meter.go()

    def stop(self, step: int, model: Any) -> None:
        """Call back at a volume; the other processes wait."""
        meter = self.meter
        stop = Stop(
            step=step,
            volume=self.stops[step],
            train_loss=meter.nats / meter.tokens if meter.tokens else None,
            flops=meter.flops,
            wall_seconds=meter.seconds,
            penalty=meter.penalty / (step - meter.since) if self.has_penalty else None,
            generated_tokens=meter.generated,
            read_tokens=meter.read,
            trained_tokens=meter.trained,
            supervised_tokens=meter.supervised,
        )
        with untouched_global_streams():
            model.eval()
            self.stopping = True
            self.on_stop(stop)
            self.stopping = False
            model.train()
        torch.set_num_threads(self.threads)
        meter.restart(step)
        self.group.total(0.0)

    def _advance(self) -> Interrupted | None:
        try:
            self.progress.advance()
        except Interrupted as interrupted:
            return interrupted
        return None

    def _save(self, step: int, model: Any, optimizer: Any) -> None:
        if self.on_state is None:
            return
        everybodys = self.group.gathered(global_streams())
        if self.group.rank == 0:
            meter = self.meter
            counts = Counts(
                step=step,
                since=meter.since,
                nats=meter.nats,
                tokens=meter.tokens,
                flops=meter.flops,
                seconds=meter.seconds,
                micro_batch_rows=self.micro_batch_rows,
                penalty=meter.penalty,
                generated=meter.generated,
                read=meter.read,
                trained=meter.trained,
                supervised=meter.supervised,
            )
            self.on_state(Checkpoint(counts, tensors(model, optimizer, everybodys)))


@contextmanager
def _memory(loop: _Stops, training: Training) -> Iterator[None]:
    """Tell memory that ran out in training from other errors, and from what happens at the stops."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if loop.stopping or not out_of_memory(error):
            raise
        rows = training.micro_batch_rows or training.batch_rows
        fix = "a smaller training.micro_batch_rows or training.max_length, or training.gradient_checkpointing=true"
        raise OutOfMemory(explain("training", got=f"out of memory with micro-batches of {rows} rows", fix=fix)) from error


def _optimizer(model: PreTrainedModel, training: Training, learning_rate: float) -> torch.optim.Optimizer:
    """Return AdamW; what is a vector (norms, biases) has no weight decay."""
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


def _arguments(folder: str, model: PreTrainedModel, training: Training, device: str, group: ProcessGroup) -> TrainingArguments:
    """Return arguments that turn off whatever a Trainer does besides training."""
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        max_grad_norm=training.max_grad_norm,
        use_cpu=device == "cpu",
        activation_checkpointing=training.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_cache=bool(getattr(model.config, "use_cache", True)),  # the Trainer writes it into the live model's config
        disable_tqdm=True,
        report_to="none",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        average_tokens_across_devices=False,  # the engine does
        ddp_backend="gloo" if group.size > 1 and device == "cpu" else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=PATIENCE_SECONDS,
    )
    # More than one visible GPU would otherwise wrap the model in DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextmanager
def _tidied(model: PreTrainedModel, optimizer: torch.optim.Optimizer, training: Training, threads: int) -> Iterator[None]:
    """Train on so many threads.

    Afterwards put back what belongs to the caller, and let go of the memory.
    """
    before, plain = torch.get_num_threads(), cast(Any, model)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if training.gradient_checkpointing:
            plain.activation_checkpointing_disable()
        plain.eval()
        # The schedule ties the optimizer into a reference cycle: gradients and moments, three times
        # the weights, would stay for long.
        optimizer.zero_grad()
        optimizer.state.clear()
        optimizer.param_groups.clear()
