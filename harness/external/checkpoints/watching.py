"""``harness watch BASE OUTPUT_DIR``: each checkpoint of a training is measured as it appears.

The training is not touched: nothing is written into its folder, no file of it stays open, and a
checkpoint is claimed by hard links before it is loaded, so that the trainer deletes it as usual.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import paths
from harness.config.identity import content_sha256
from harness.config.strict import check
from harness.core import memory
from harness.core.display import OUTPUT, display
from harness.core.errors import ConfigError, HarnessError, ModelError, explain
from harness.core.files import locked
from harness.core.progress import Interrupted, Progress
from harness.core.sources import ModelSource
from harness.external.checkpoints import command, finding, plan, summary_file, told
from harness.external.checkpoints.command import Asked
from harness.external.checkpoints.measuring import MeasuredRun
from harness.external.checkpoints.plan import Placed
from harness.external.checkpoints.polling import DELETED, Polled
from harness.external.checkpoints.summary_file import FILE, Measured, Status, Summary
from harness.external.judge import Comparison
from harness.models.loading import load
from harness.models.weights import numbered
from harness.run import baseline
from harness.run.preparation import Prepared
from harness.sweep.reporter import Reporter, pause, saved_on_interrupt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLAIMED, LOCK = ".claimed", ".watch"
NICE = 10
"""Added to this process's niceness: the training, if it is on this machine, comes first."""

UNTIL = "done, idle=SECONDS, or forever"


def watch_command(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Measure the checkpoints of a training until it ends.

    Args:
        arguments: base, output, name, suites, target, limit, rows_per_step, margin, every, until,
            overrides, as parsed.
        say: prints on standard output.

    Returns:
        The exit code: 0, or 1 if a checkpoint could not be measured or there was none.

    Raises:
        HarnessError: if the base cannot be measured.
        KeyboardInterrupt: once asked to stop; what was measured is written.
    """
    idle = idle_seconds(arguments.until)
    check("watch: --every", arguments.every, "a number of seconds greater than 0", lambda value: value > 0)
    output = paths.expanded(arguments.output)
    _require_place(output)
    asked = command.asked_for(arguments, arguments.base, arguments.overrides, output.resolve().name)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with display() as shown, saved_on_interrupt():
        base = command.prepared(asked, shown)
        with _alone(base):
            watch = Watch(asked, base, Polled(output, arguments.every), shown, idle=idle, rows_per_step=arguments.rows_per_step)
            try:
                with watch.polled.polling():  # while the base or a checkpoint is measured, others come and go
                    watch.begin()
                    watch.follow()
            except Interrupted:
                watch.end("interrupted")
                raise KeyboardInterrupt from None
            except Exception:
                with contextlib.suppress(OSError):  # the first error is told
                    watch.end("failed")
                raise
    return watch.tell(say)


def idle_seconds(text: str) -> float | None:
    """Return seconds without a change after which a watch ends: ``--until`` as typed.

    None is never; 0 is at the training's end alone. Raises ConfigError.
    """
    kind, _, number = text.partition("=")
    if text in {"done", "forever"}:
        return 0.0 if text == "done" else None
    with contextlib.suppress(ValueError):
        if kind == "idle" and 0 < float(number) < float("inf"):
            return float(number)
    raise ConfigError(explain("watch: --until", got=repr(text), allowed=UNTIL, fix="--until idle=600"))


@dataclass
class Watch:
    """The watch of one output folder.

    Attributes:
        asked: what is measured.
        base: the model before training, with the suites.
        polled: the output folder.
        shown: receives stages and lines.
        idle: see ``idle_seconds``.
        rows_per_step: rows of an optimizer step, as the user says; None takes what the trainer's
            files say.
        failed: name of a checkpoint → why it could not be measured.
        run: of the training, from its first checkpoint.
        written: the summary that is in the file.
    """

    asked: Asked
    base: Prepared
    polled: Polled
    shown: Progress
    idle: float | None = 0.0
    rows_per_step: int | None = None
    failed: dict[str, str] = field(default_factory=dict)
    run: MeasuredRun | None = None
    written: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        output = str(self.polled.output.resolve())
        self.summary = Summary(base=self.asked.base, output=output, evaluations=self.base.evaluation_ids)
        self.file = self.base.experiment.folder / FILE
        self.progress = Reporter(self.shown)

    def begin(self) -> None:
        """Take over what an earlier watch measured, and measure the base."""
        shutil.rmtree(self._claims, ignore_errors=True)  # of a watch that was killed
        self.summary.resume(self.file)
        for one in self.summary.checkpoints:
            self.polled.taken[one.checkpoint] = one.signature
        self._write("watching")
        if self.base.resolved.device == "cuda":
            self.progress.say("measuring on the GPU, maybe the training's: CUDA_VISIBLE_DEVICES chooses another, empty means CPU")
        suites = ", ".join(self.base.evaluation_ids)
        self.progress.say(f"watching {self.polled.output} on {suites}; first the base, {self.base.config.labels.model}, is measured")
        baseline.measure(self.base, self.progress)
        self.progress.say(f"watching {self.polled.output}; losses so far: {self.file}")

    def follow(self) -> None:
        """Measure checkpoints as they become complete, the newest first, until the end.

        Raises Interrupted once asked to stop.
        """
        while True:
            now = time.monotonic()
            self.polled.poll(now)
            if any(self._measure(folder, files) for folder, files in self.polled.ready().items()):
                continue
            self._write("watching")
            if self.idle is not None and self.polled.is_over():
                return self.end("done")
            if self.idle and now - self.polled.changed >= self.idle:
                return self.end("idle")
            pause(self.polled.pause)

    def end(self, status: Status) -> None:
        """Write the last summary."""
        self._write(status)
        shutil.rmtree(self._claims, ignore_errors=True)

    def tell(self, say: Callable[[str], None]) -> int:
        """Print every loss and what was skipped, and write the page; return the exit code."""
        for name, reason in self.summary.skipped.items():
            (OUTPUT.error if name in self.failed else OUTPUT.message)(f"not measured: {name}: {reason}")
        if not self.summary.checkpoints:
            reasons = "".join(f" ({name}: {reason})" for name, reason in list(self.summary.skipped.items())[:1])
            got = f"no complete checkpoint in {self.polled.output}{reasons}"
            OUTPUT.error(f"harness: {explain('watch', got=got, allowed='one or more')}")
            return 1
        say(
            told.table(
                [(one.checkpoint, f"{one.volume:,} {self.summary.axis}", _rows(one)) for one in self.summary.checkpoints], self.asked.margin
            )
        )
        told.finish(self.base.experiment, say)
        return int(bool(self.failed))

    @property
    def _claims(self) -> Path:
        return self.base.experiment.folder / CLAIMED

    def _measure(self, folder: Path, files: finding.Signature) -> bool:
        """Measure a checkpoint; return whether it was claimed. Raises Interrupted."""
        began, staging = time.perf_counter(), self._claims / f"{time.time_ns()}"
        try:
            claimed = finding.claim(folder, staging)
        except ModelError as error:
            self.polled.waiting[folder.name] = str(error) if folder.exists() else DELETED
            return False
        self.polled.take(folder, files)
        try:
            placed, comparison = self._compared(folder, claimed)
        except Exception as error:  # noqa: BLE001 - one checkpoint must not end the watch of a training that takes days
            kind = "" if isinstance(error, HarnessError) else f"{type(error).__name__}: "
            self.failed[folder.name] = kind + " ".join(str(error).split()).replace(str(claimed), str(folder))
            OUTPUT.log(traceback.format_exc())
            self.progress.say(f"{folder.name} could not be measured: {self.failed[folder.name]}")
        else:
            self.failed.pop(folder.name, None)
            rows, state = told.of_suites(comparison), placed.checkpoint.state
            one = Measured(
                checkpoint=folder.name,
                volume=placed.volume,
                step=state.step if state else placed.checkpoint.number,
                rows=placed.volume if placed.training.axis == "rows" else None,
                tokens=state.tokens if state else None,
                training_loss=state.loss if state else None,
                seconds=round(time.perf_counter() - began, 1),
                suites=summary_file.suites_of(comparison, rows),
                files=tuple(" ".join(map(str, file)) for file in files),
            )
            self.summary.add(one)
            for line in told.short(rows):
                self.progress.say(f"{folder.name}: {line}")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._free()
        self._write("watching")
        return True

    def _compared(self, folder: Path, claimed: Path) -> tuple[Placed, Comparison]:
        """Return a claimed checkpoint's place and its comparison with the base."""
        before = finding.signature(claimed)
        placed = plan.placed([finding.of_folder(claimed, self.polled.output)], self.rows_per_step)[0]
        placed, source = command.checked(self.asked, self.base, placed, self.progress)
        run, weights = self._run_of(placed), content_sha256(self.base.workspace.facts_of_model(source).content)

        def live() -> PreTrainedModel:
            return self._loaded(folder, claimed, source, before)

        return placed, run.measure(placed.volume, weights, live, source=str(folder), state=placed.checkpoint.state)

    def _loaded(self, folder: Path, claimed: Path, source: ModelSource, before: finding.Signature) -> PreTrainedModel:
        """Return the model, loaded from files that did not change meanwhile.

        Raises ModelError.
        """
        self.progress.stage(f"load {folder.name}", 1)
        model = load(source, self.base.resolved.device)
        if finding.signature(claimed) != before:  # a hard link is the same file, which may be rewritten in place
            raise ModelError(explain(str(folder), got="files that changed while they were loaded", fix="wait until it is saved"))
        return model

    def _run_of(self, placed: Placed) -> MeasuredRun:
        """Return the run of the training. Raises ConfigError if its axis is another one."""
        if self.run is None:
            self.run = MeasuredRun(self.base, placed.training, self.progress, self.asked.margin)
            self.run.start()
            self.summary.run_id, self.summary.axis = self.run.run_id, placed.training.axis
        if placed.training.axis != self.run.training.axis:
            got, allowed = f"a place in {placed.training.axis}", f"one in {self.run.training.axis}, as of the other checkpoints"
            raise ConfigError(explain(placed.checkpoint.source, got=got, allowed=allowed, fix="--rows-per-step N"))
        return self.run

    def _free(self) -> None:
        """Give the memory of a measured model back, which the training may need."""
        if self.base.resolved.device == "cuda":
            import torch

            memory.release(torch.device("cuda"))

    def _write(self, status: Status) -> None:
        """Write the summary if it changed, so that a reader is not told of old news."""
        self.summary.status, self.summary.skipped = status, self.polled.waiting | self.failed
        if (content := asdict(self.summary)) != self.written:
            self.summary.write(self.file)
            self.written = content


def _rows(one: Measured) -> list[dict[str, object]]:
    """Return the suites of a summary as ``told.of_suites`` returns them."""
    return [
        {"suite": name, **suite, **dict(zip(("low", "high"), suite["interval"] or (None, None), strict=True))}
        for name, suite in one.suites.items()
    ]


def _require_place(output: Path) -> None:
    """Reject a path that is not the output folder of a training. Raises ConfigError."""
    where, allowed = f"watch: {output}", "the output folder of a training, which may not exist yet"
    if not output.is_dir() and (output.exists() or not output.absolute().parent.is_dir()):
        got = "a file" if output.exists() else "a path that does not exist"
        raise ConfigError(explain(where, got=got, allowed=allowed, fix="check the path"))
    if finding.number_of(output) is not None:
        raise ConfigError(explain(where, got="a checkpoint", allowed=allowed, fix=f"name {output.parent}, or harness measure"))
    below = finding.runs_below(output) if output.is_dir() and not numbered(output) else []
    if below:
        fix = f"name the run's own folder, such as {below[-1]}"
        raise ConfigError(explain(where, got="a folder of trainings", allowed=allowed, fix=fix))


@contextlib.contextmanager
def _alone(base: Prepared) -> Iterator[None]:
    """Hold the results of a watch. Raises ConfigError while another watch writes there."""
    experiment = base.experiment
    experiment.require_writable()
    experiment.folder.mkdir(parents=True, exist_ok=True)

    def taken() -> None:
        got = f"{experiment.folder}, where another watch writes"
        raise ConfigError(explain("watch: --name", got=got, allowed="one watch at a time", fix="--name OTHER, or end the other watch"))

    with locked(experiment.folder / LOCK, taken):
        yield
