"""The one place that trains: steps of examples in, a moved model out, with stops at the volumes.

The loop is transformers.Trainer's (or the one of a class derived from it that the objective names). ``_Engine`` adds to it the
penalty, exact micro-batches and autocast; ``_Stops`` calls back at the volumes. Weights and optimizer are float32 always.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.trainer_callback import PrinterCallback

from harness.config import Training
from harness.errors import TrainingError, explain
from harness.interfaces import Example, Objective, Penalty, Progress
from harness.seeds import seed_torch, untouched_global_streams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.plan import Resolved

    _Base = Trainer
else:
    _Base = object

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where training stands at a volume.

    Attributes:
        step: optimizer steps done.
        volume: as asked for in ``stops``.
        train_loss: mean nats per supervised token since the stop before, without any penalty; None if there were no such tokens.
        flops: so far, as transformers estimates them: 6 · tokens (padding included) · parameters that are no embedding.
        wall_seconds: of training since the stop before; what happens in ``on_stop`` is not counted.
    """

    step: int
    volume: int
    train_loss: float | None
    flops: float
    wall_seconds: float


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
) -> None:
    """Train a model in place, one optimizer step an entry of ``steps``, in that order.

    The loss of a step is the mean over all its supervised tokens, however it is split into micro-batches, plus the penalty once.

    Args:
        model: prepared by the tuning, in float32, on its device; left in evaluation mode.
        steps: the examples of each step; none is empty.
        objective: makes batches, and names the Trainer.
        penalty: added to the loss of each step, in float32 even under autocast; None is nothing.
        training: optimizer, schedule and micro-batches.
        resolved: learning rate, dtype, threads, device and row length.
        stops: step → volume.
        on_stop: called after those steps with the live model in evaluation mode. It may draw from and seed the global streams.
        seed: of everything that is random in training (dropout).
        pad_id: to pad with.
        progress: advanced by one a step.

    Raises:
        TrainingError: for a loss that is no finite number, at the step where it appears, before the weights take it up.
    """
    if outside := [step for step in stops if not 1 <= step <= len(steps)]:
        raise TrainingError(explain("stops", got=f"step {outside[0]}", allowed=f"1 to {len(steps)}, the steps there are"))
    optimizer = _optimizer(model, training, resolved.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_multiplier(step, len(steps), training))
    trainer_class = type("EngineTrainer", (_Engine, objective.trainer()), {})
    meter = _Meter()

    def micro_batches(step: Sequence[Example]) -> list[Batch]:
        # Collated as a whole and then split, so that packing does not depend on the size of micro-batches.
        return split(objective.collate(step, pad_id, resolved.max_length), training.micro_batch_rows)

    with tempfile.TemporaryDirectory() as folder, _tidied(model, optimizer, training, resolved.threads):
        trainer = trainer_class(
            penalty=penalty,
            half=resolved.dtype == "bfloat16",
            meter=meter,
            model=model,
            args=_arguments(folder, model, training, resolved.device),
            train_dataset=steps,
            data_collator=micro_batches,
            optimizers=(optimizer, schedule),
            compute_loss_func=token_mean,
        )
        trainer.remove_callback(PrinterCallback)  # it prints to standard output
        trainer.add_callback(_Stops(meter, stops, on_stop, progress, resolved.threads))
        seed_torch(seed)  # after the Trainer was made, which seeds with a constant
        trainer.train()


def token_mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: int) -> torch.Tensor:
    """Return the cross-entropy of the next token in nats, summed over targets and divided by ``num_items_in_batch``.

    Args:
        outputs: with ``logits`` (S, T, V); logits at position t are compared with the label at t + 1.
        labels: (S, T), -100 for no target.
        num_items_in_batch: the targets of the whole optimizer step, of which this may be a micro-batch.
    """
    logits = outputs.logits
    return ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=cast(torch.Tensor, num_items_in_batch))


def rate_multiplier(step: int, steps: int, training: Training) -> float:
    """Return the learning rate of a step as a share of its peak.

    min(1, rows seen / warmup_rows) · decay: the rows of the step itself are seen, and decay goes from 1 at the first step towards 0
    after the last. ``step`` counts from 0.
    """
    done = step / steps
    decay = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[training.decay]
    seen = (step + 1) * training.batch_rows
    return decay * (min(1.0, seen / training.warmup_rows) if training.warmup_rows else 1.0)


@dataclass
class _Meter:
    """What is counted: ``nats`` and ``tokens`` since the last stop, ``flops`` from the start."""

    nats: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    began: float = 0.0

    def restart(self) -> None:
        """Begin anew after a stop."""
        self.nats, self.tokens, self.began = 0.0, 0, time.perf_counter()


def split(batch: Batch, micro_rows: int | None) -> list[Batch]:
    """Split the sequences of a batch, tensors (S, T) padded on the right, into micro-batches cut to their own longest sequence."""
    rows = batch["input_ids"].shape[0]
    if micro_rows is None or micro_rows >= rows:
        return [batch]
    parts = [{name: value[start : start + micro_rows] for name, value in batch.items()} for start in range(0, rows, micro_rows)]
    widths = [int(part["attention_mask"].sum(dim=1).max()) for part in parts]
    return [{name: value[:, :width] for name, value in part.items()} for part, width in zip(parts, widths, strict=True)]


class _Engine(_Base):
    """What the harness adds to a Trainer: the penalty, micro-batches, autocast, and an eye on the loss.

    Autocast is entered here rather than through TrainingArguments, which would wrap the live model's forward, and so change the
    evaluations at the stops.
    """

    def __init__(self, *, penalty: Penalty | None, half: bool, meter: _Meter, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.penalty, self.half, self.meter = penalty, half, meter
        self._penalty_due = False
        self._flops_per_token = float(super().floating_point_ops({"input_ids": torch.zeros(1)}))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the steps in order, one at a time; the Trainer's own loader would shuffle and batch them."""
        return DataLoader(cast(Any, self.train_dataset), batch_size=None, collate_fn=self.data_collator)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward for the micro-batches of one optimizer step; return the step's loss."""
        targets = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in inputs)
        self._penalty_due, self.meter.tokens = self.penalty is not None, self.meter.tokens + targets
        loss = torch.zeros((), device=self.args.device)
        for batch in inputs:
            # A step may have no target if all its rows were cut; its loss is then 0.
            loss += super().training_step(model, {**batch, "use_cache": False}, max(targets, 1))
        return loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a micro-batch; the first of a step carries the penalty."""
        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.half):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self.meter.nats += self._finite("loss", loss) * num_items_in_batch
        if self.penalty is not None and self._penalty_due:
            added = self.penalty(model)
            self._finite("penalty", added)
            self._penalty_due, loss = False, loss + added
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Estimate as the Trainer does, without its walk over all modules at every step."""
        flops = self._flops_per_token * sum(batch["input_ids"].numel() for batch in inputs)
        self.meter.flops += flops
        return int(flops)

    def _finite(self, name: str, value: torch.Tensor) -> float:
        number = float(value.detach())
        if not math.isfinite(number):
            got, fix = f"a {name} of {number} in step {self.state.global_step + 1}", "a lower training.learning_rate, or a longer warm-up"
            raise TrainingError(explain("training", got=got, allowed="a finite number", fix=fix))
        return number


class _Stops(TrainerCallback):
    """Calls back at the volumes, and sees to it that training goes on as if nothing had happened."""

    def __init__(self, meter: _Meter, stops: Mapping[int, int], on_stop: Callable[[Stop], None], progress: Progress, threads: int) -> None:
        self.meter, self.stops, self.on_stop, self.progress, self.threads = meter, stops, on_stop, progress, threads

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.meter.restart()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop if this step completes a volume."""
        self.progress.advance()
        if state.global_step not in self.stops:
            return
        meter, model = self.meter, kwargs["model"]
        stop = Stop(
            step=state.global_step,
            volume=self.stops[state.global_step],
            train_loss=meter.nats / meter.tokens if meter.tokens else None,
            flops=meter.flops,
            wall_seconds=time.perf_counter() - meter.began,
        )
        with untouched_global_streams():
            model.eval()
            self.on_stop(stop)
            model.train()
        torch.set_num_threads(self.threads)
        meter.restart()


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


def _arguments(folder: str, model: PreTrainedModel, training: Training, device: str) -> TrainingArguments:
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
    )
    # More than one visible GPU would otherwise wrap the model in DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextmanager
def _tidied(model: PreTrainedModel, optimizer: torch.optim.Optimizer, training: Training, threads: int) -> Iterator[None]:
    """Train on so many threads; afterwards put back what belongs to the caller, and let go of the memory."""
    before, plain = torch.get_num_threads(), cast(Any, model)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if training.gradient_checkpointing:
            plain.activation_checkpointing_disable()
        plain.eval()
        # The schedule ties the optimizer into a reference cycle: gradients and moments, three times the weights, would stay for long.
        optimizer.zero_grad()
        optimizer.state.clear()
        optimizer.param_groups.clear()
