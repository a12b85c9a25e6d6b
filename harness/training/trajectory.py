"""A run's training from its newest usable checkpoint through every volume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.core import memory
from harness.core.counts import Counts
from harness.core.errors import TrainingError, explain
from harness.core.progress import Progress
from harness.training import processes
from harness.training.checkpoint import Checkpoint
from harness.training.job import Callbacks, Job, Stop
from harness.training.loop import OutOfMemory, train

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Trajectory:
    """The training of one run: resumes, saves checkpoints, halves micro-batches that do not fit.

    Attributes:
        model: the live model, another object after memory ran out.
    """

    def __init__(
        self,
        job: Job,
        model: PreTrainedModel,
        base: Mapping[str, torch.Tensor],
        *,
        reload: Callable[[], PreTrainedModel],
        is_complete: Callable[[int], bool],
        progress: Progress,
        name: str,
    ) -> None:
        """Take a start model.

        Args:
            job: the training.
            model: not yet tuned; the caller keeps no reference to it.
            base: its weights, on the CPU.
            reload: loads it again.
            is_complete: returns whether the point of a volume is complete.
            progress: told of steps.
            name: of the training, for people.
        """
        self.job, self.model, self.base, self.reload, self.is_complete = job, model, base, reload, is_complete
        self.progress, self.name = progress, name

    @property
    def micro_batch_rows(self) -> int | None:
        """Rows of one forward pass as used last; None is a whole step."""
        return self.job.training.micro_batch_rows

    def run(self, on_stop: Callable[[Stop, PreTrainedModel], None]) -> None:
        """Train; where memory runs out, resume with half the micro-batch.

        Raises:
            TrainingError: as ``harness.training.loop.train`` does; OutOfMemory where single rows
                are too much.
            Interrupted: with a checkpoint saved.
        """
        while True:
            start = self._newest_checkpoint()
            self.model = self.job.tuned(self.model)
            try:
                self._train(start, on_stop)
            except OutOfMemory as lack:
                self._halve(lack)
            else:
                return
            device = self.model.device
            del self.model, start
            memory.release(device)
            self.model = self.reload()

    def _newest_checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint that skips no missing point, and let the job start there.

        Losses are means since the previous stop, so a checkpoint that counts from another stop is
        usable only where that stop's point is complete.
        """
        stops = self.job.stops
        complete = {step for step, volume in stops.items() if self.is_complete(volume)}

        def usable(counts: Counts) -> bool:
            passed = {step for step in stops if step < counts.step}
            counted = counts.step in complete or counts.since == max(passed, default=0)
            return counts.step <= len(self.job.steps) and passed <= complete and counted

        start = self.job.checkpoints.newest(usable, self.progress.say)
        self.job = dataclasses.replace(self.job, first=start.counts.step if start else 0)
        if start is not None and start.micro_batch_rows is not None:
            self._limit(min(start.micro_batch_rows, self.micro_batch_rows or self.job.training.batch_rows))
        return start

    def _train(self, start: Checkpoint | None, on_stop: Callable[[Stop, PreTrainedModel], None]) -> None:
        model = self.model

        def stopped(stop: Stop) -> None:
            on_stop(stop, model)
            self._begin_stage(stop.counts.step)

        self._begin_stage(self.job.first)
        callbacks = Callbacks(on_stop=stopped, on_checkpoint=self._save, progress=self.progress)
        with processes.joined(self.job) as group:
            train(self.job, model, self.base, callbacks, start=start, group=group)

    def _begin_stage(self, step: int) -> None:
        """Show that training continues after a step."""
        self.progress.stage(f"train {self.name}", len(self.job.steps))
        if step:
            self.progress.advance(step)

    def _halve(self, lack: OutOfMemory) -> None:
        """Halve the micro-batch.

        Raises ``lack`` for single rows, and TrainingError where something drops: other
        micro-batches draw other masks, so they would be another run.
        """
        training = self.job.training
        rows = training.micro_batch_rows or math.ceil(training.batch_rows / self.job.resolved.processes)
        if rows == 1:
            raise lack
        if self.job.resolved.drops:
            fix = f"training.micro_batch_rows={rows // 2}, which is another run: with dropout, micro-batches change the weights"
            raise TrainingError(explain("training", got=f"out of memory with micro-batches of {rows} rows", fix=fix))
        self.progress.say(f"out of memory with micro-batches of {rows} rows: continuing with {rows // 2}; the rows of a step stay the same")
        self._limit(rows // 2)

    def _limit(self, rows: int) -> None:
        self.job = dataclasses.replace(self.job, training=dataclasses.replace(self.job.training, micro_batch_rows=rows))

    def _save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint; if it cannot be written, training continues: that costs only time."""
        try:
            self.job.checkpoints.save(checkpoint)
        except OSError as error:
            self.progress.say(f"the checkpoint after step {checkpoint.counts.step} is not saved: {error}")
