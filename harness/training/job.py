"""One training: everything that it needs, the same for every process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.core.contexts import Penalty, PenaltyContext
from harness.core.counts import Counts
from harness.core.progress import Progress, Silent
from harness.core.seeds import derive
from harness.models import anatomy, whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.config.resolution import Resolved
    from harness.config.run_config import Training
    from harness.core.contexts import LearningContext
    from harness.core.methods import Mitigation, Objective
    from harness.core.rows import Example
    from harness.core.sources import ModelSource
    from harness.core.tuning import Tuning
    from harness.training.checkpoint import Checkpoint, Checkpoints


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A volume that training has reached.

    Attributes:
        volume: as asked for in ``Job.stops``.
        counts: running totals there.
    """

    volume: int
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Receivers of what happens in a training.

    Attributes:
        on_stop: called at each stop, the live model in evaluation mode; it may draw from and seed
            the global random streams.
        on_checkpoint: takes checkpoints worth saving, whose tensors are live and to be written at
            once; None saves none. Processes that train together all have one, or none has.
        progress: advanced by one a step. When it raises Interrupted, a checkpoint is saved at the
            end of the step.
    """

    on_stop: Callable[[Stop], None]
    on_checkpoint: Callable[[Checkpoint], None] | None = None
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The training of a run; picklable, so that other processes can train with it.

    Attributes:
        model: the start model.
        training: optimizer, schedule and micro-batches.
        resolved: learning rate, dtype, threads, processes, device and row length.
        seed: of the run; every random draw of training derives from it.
        steps: examples of each optimizer step, in order; none is empty.
        anchor: examples that a penalty may draw on.
        stops: step → volume.
        pad_id: token id to pad with.
        checkpoints: those of the run, on disk.
        first: step to resume from; 0 starts.
        restarts: steps, counted as in ``stops``, after which the optimizer forgets its moments and
            the rate warms up again: a stage ends there and the next one begins.
    """

    model: ModelSource
    tuning: Tuning
    objective: Objective
    mitigation: Mitigation
    training: Training
    resolved: Resolved
    seed: int
    steps: Sequence[Sequence[Example]]
    anchor: Sequence[Example]
    stops: Mapping[int, int]
    pad_id: int
    checkpoints: Checkpoints
    first: int = 0
    restarts: Sequence[int] = ()

    @property
    def bfloat16(self) -> bool:
        """Whether forward passes run under bfloat16 autocast."""
        return self.resolved.dtype == "bfloat16"

    def checkpoints_activations(self, model: PreTrainedModel) -> bool:
        """Return whether activations are computed again in the backward pass.

        By default not in a model that cannot do it; where it is asked for, that is an error.
        """
        if self.training.gradient_checkpointing is not None:
            return self.training.gradient_checkpointing
        return self.resolved.gradient_checkpointing and bool(anatomy.unwrapped(model).supports_gradient_checkpointing)

    def tuned(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a start model prepared by the tuning.

        Raises ModelError if that changes what the model computes.
        """
        loaded = whole.logits(model)
        tuned = self.tuning.prepare(model, derive(self.seed, "adapter"))
        whole.require_same("tuning", loaded, whole.logits(tuned), "once the tuning has prepared the model")
        return tuned

    def penalty(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Penalty | None:
        """Return the penalty of the mitigation.

        Args:
            model: prepared by ``tuned``, still computing as the start model.
            base: the start weights by plain name, on the CPU.
        """
        context = PenaltyContext(
            model=model,
            base=base,
            anchor=self.anchor,
            tuning=self.tuning,
            seed=derive(self.seed, "penalty"),
            pad_id=self.pad_id,
            half=self.bfloat16,
        )
        return self.mitigation.penalty(context)

    def learning(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> LearningContext | None:
        """Return the authors of an objective that learns pairs or rewards; None for tokens."""
        if self.objective.learns == "tokens":
            return None
        from harness.training.authors import context_of

        return context_of(
            model,
            base,
            tokenizer=self.model.tokenizer(),
            tuning=self.tuning,
            objective=self.objective,
            resolved=self.resolved,
            seed=derive(self.seed, "learning"),
        )
