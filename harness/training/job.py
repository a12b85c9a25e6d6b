"""Everything that one training needs, the same for every process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.contexts import PenaltyContext
from harness.core.seeds import derive

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.config.resolution import Resolved
    from harness.config.run_config import Training
    from harness.core.contexts import LearningContext
    from harness.core.methods import Mitigation, Objective
    from harness.core.progress import Progress
    from harness.core.rows import Example
    from harness.core.sources import ModelSource
    from harness.core.tuning import Tuning
    from harness.training.checkpoint import Checkpoint, Checkpoints
    from harness.training.loop import OnState, Stop
    from harness.training.step import ProcessGroup


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained: the same for every process.

    Attributes:
        steps, anchor: the examples of each optimizer step, and those that a penalty may draw on.
        stops: step → volume.
        states: where states of training lie; ``first``: the step to go on from, 0 for the
            beginning.
        restarts: steps after which a stage begins, see ``harness.training.loop.train``.
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
    states: Checkpoints
    first: int = 0
    restarts: Sequence[int] = ()

    def tuned(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a start model made ready to be trained."""
        return self.tuning.prepare(model, derive(self.seed, "adapter"))

    def train(
        self,
        model: PreTrainedModel,
        base: Mapping[str, torch.Tensor],
        *,
        start: Checkpoint | None,
        on_stop: Callable[[Stop], None],
        on_state: OnState,
        progress: Progress,
        group: ProcessGroup,
    ) -> None:
        """Train in place, see ``harness.training.loop.train``.

        ``base`` holds the start weights on the CPU.
        """
        from harness.training.loop import train

        train(
            model,
            steps=self.steps,
            objective=self.objective,
            penalty=self.mitigation.penalty(self._penalty_context(model, base)),
            training=self.training,
            resolved=self.resolved,
            stops=self.stops,
            on_stop=on_stop,
            seed=derive(self.seed, "training"),
            pad_id=self.pad_id,
            progress=progress,
            start=start,
            on_state=on_state,
            group=group,
            restarts=self.restarts,
            learning=self._learning(model, base) if self.objective.learns != "tokens" else None,
        )

    def _learning(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> LearningContext:
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

    def _penalty_context(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> PenaltyContext:
        return PenaltyContext(
            model=model,
            base=base,
            anchor=self.anchor,
            tuning=self.tuning,
            seed=derive(self.seed, "penalty"),
            pad_id=self.pad_id,
            half=self.resolved.dtype == "bfloat16",
        )
