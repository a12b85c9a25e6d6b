"""A run's training from its newest state of use through every volume: what is kept on the way, and what is done where memory runs out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.core import memory
from harness.core.progress import Progress
from harness.training import processes
from harness.training.checkpoint import Checkpoint, Counts
from harness.training.job import Job
from harness.training.loop import OutOfMemory, Stop

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Trajectory:
    """The training of one run.

    Attributes:
        model: the live one, another object after memory ran out.
    """

    def __init__(
        self,
        job: Job,
        model: PreTrainedModel,
        base: Mapping[str, torch.Tensor],
        *,
        reload: Callable[[], PreTrainedModel],
        stands: Callable[[int], bool],
        progress: Progress,
        name: str,
    ) -> None:
        """Take a start model.

        Args:
            job: what is trained.
            model: not tuned yet; whoever calls lets go of it.
            base: its weights, on the CPU.
            reload: loads it again.
            stands: whether the point of a volume is recorded, and nothing is missing of it.
            progress: told of steps.
            name: what is trained, for people.
        """
        self.job, self.model, self.base, self.reload, self.stands = job, model, base, reload, stands
        self.progress, self.name = progress, name

    @property
    def micro_batch_rows(self) -> int | None:
        """Rows of one forward pass as used last; None is a whole step."""
        return self.job.training.micro_batch_rows

    def run(self, on_stop: Callable[[Stop, PreTrainedModel], None]) -> None:
        """Train; where memory runs out, go on from the newest state with half the micro-batch.

        Raises:
            TrainingError: as ``harness.training.loop.train`` does; OutOfMemory where single rows
                are too much.
            Interrupted: with the state saved.
        """
        while True:
            start = self._newest_state()
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

    def _newest_state(self) -> Checkpoint | None:
        """Return the newest state that leaves out no point that is missing, and set the job to go on from there.

        Losses are means since the point before, so a state that counts from another one is of use
        only where its point stands.
        """
        stops = self.job.stops
        standing = {step for step, volume in stops.items() if self.stands(volume)}

        def usable(counts: Counts) -> bool:
            passed = {step for step in stops if step < counts.step}
            counted = counts.step in standing or counts.since == max(passed, default=0)
            return counts.step <= len(self.job.steps) and passed <= standing and counted

        start = self.job.states.newest(usable)
        self.job = dataclasses.replace(self.job, first=start.counts.step if start else 0)
        if start is not None and start.counts.micro_batch_rows is not None:
            self._limit(min(start.counts.micro_batch_rows, self.micro_batch_rows or self.job.training.batch_rows))
        return start

    def _train(self, start: Checkpoint | None, on_stop: Callable[[Stop, PreTrainedModel], None]) -> None:
        model = self.model

        def stopped(stop: Stop) -> None:
            on_stop(stop, model)
            self._stage(stop.step)

        self._stage(self.job.first)
        with processes.joined(self.job) as group:
            self.job.train(model, self.base, start=start, on_stop=stopped, on_state=self._save, progress=self.progress, group=group)

    def _stage(self, step: int) -> None:
        """Say that training goes on after a step."""
        self.progress.stage(f"train {self.name}", len(self.job.steps))
        if step:
            self.progress.advance(step)

    def _halve(self, lack: OutOfMemory) -> None:
        """Halve the micro-batch, the rows of a step stay as they are.

        Raises what it is given where that is not possible.
        """
        training = self.job.training
        rows = training.micro_batch_rows or math.ceil(training.batch_rows / self.job.resolved.processes)
        if rows == 1:
            raise lack
        self.progress.say(f"out of memory with micro-batches of {rows} rows: going on with {rows // 2}, and as many rows a step as before")
        self._limit(rows // 2)

    def _limit(self, rows: int) -> None:
        self.job = dataclasses.replace(self.job, training=dataclasses.replace(self.job.training, micro_batch_rows=rows))

    def _save(self, state: Checkpoint) -> None:
        """Keep a state; one that cannot be written costs time alone, so training goes on."""
        try:
            self.job.states.save(state)
        except OSError as error:
            self.progress.say(f"the state of training after step {state.counts.step} is not saved: {error}")
