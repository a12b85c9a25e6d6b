"""Progress on standard error: live bars on a terminal, else a line every 30 seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from harness.core.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 30.0

ENOUGH_SHARE = 0.03
"""Share of a sweep's cost that must be done before the time left is estimated from it."""


class Display(Progress, Protocol):
    """A Progress that also shows runs and workers; a context manager."""

    def runs(self, finished: int, total: int) -> None:
        """Show the number of finished runs."""
        ...

    def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
        """Show the work of each worker.

        Args:
            working: for each worker, label of its unit, stage, finished units of the stage, and
                their total.
            share: share of the sweep's cost that is done, in 0..1.
        """
        ...

    def __enter__(self) -> Display: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def display() -> Display:
    """Return the display for this process's standard error."""
    return _LiveDisplay() if sys.stderr.isatty() else _Lines()


class _Lines:
    """One line at the start of a run, and one every 30 seconds."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.name, self.finished, self.total = "", 0, 0
        self.runs_finished, self.runs_total = 0, 0
        self.share_at_start: float | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def runs(self, finished: int, total: int) -> None:
        self.runs_finished, self.runs_total = finished, total

    def stage(self, name: str, total: int) -> None:
        self.name, self.finished, self.total = name, 0, total
        self._say_if_due()

    def advance(self, units: int = 1) -> None:
        self.finished += units
        self._say_if_due()

    def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
        if time.monotonic() - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        doing = "; ".join(f"{label}: {stage} {finished}/{total}" for label, stage, finished, total in working) or "waiting"
        self.say(f"[{_clock(self.last - self.began)}] {self.runs_finished} of {self.runs_total} runs{self._left_of(share)}; {doing}")

    def _left_of(self, share: float) -> str:
        """Return the estimated time left, from the cost done since the first call."""
        if self.share_at_start is None:
            self.share_at_start = share
        gained = share - self.share_at_start
        return f", about {_clock((self.last - self.began) / gained * (1 - share))} left" if gained > ENOUGH_SHARE else ""

    def say(self, message: str) -> None:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()

    def _say_if_due(self) -> None:
        if time.monotonic() - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        share = f"{min(self.finished, self.total)}/{self.total}"
        self.say(f"[{_clock(self.last - self.began)}] {self._of_runs()}{self.name}: {share}{self._left()}")

    def _of_runs(self) -> str:
        return f"run {min(self.runs_finished + 1, self.runs_total)} of {self.runs_total}, " if self.runs_total > 1 else ""

    def _left(self) -> str:
        if not self.runs_finished or self.runs_finished >= self.runs_total:
            return ""
        each = (self.last - self.began) / self.runs_finished
        return f", about {_clock(each * (self.runs_total - self.runs_finished))} left"


class _LiveDisplay:
    """Rich bars for runs and the current stage, with time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
        self.bars: RichProgress = Bars(*columns, console=Console(stderr=True), transient=True)
        self.of_runs = self.bars.add_task("runs", total=None, visible=False)
        self.of_stage = self.bars.add_task("", total=None, visible=False)
        self.of_workers: list[TaskID] = []

    def __enter__(self) -> _LiveDisplay:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def runs(self, finished: int, total: int) -> None:
        self.bars.update(self.of_runs, completed=finished, total=total, visible=total > 1)

    def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
        while len(self.of_workers) < len(working):
            self.of_workers.append(self.bars.add_task("", total=None))
        for place, bar in enumerate(self.of_workers):
            label, stage, finished, total = working[place] if place < len(working) else ("", "", 0, 0)
            self.bars.update(bar, description=f"{label}  {stage}", completed=finished, total=total, visible=bool(label))

    def stage(self, name: str, total: int) -> None:
        self.bars.reset(self.of_stage, description=name, total=total, visible=True)

    def advance(self, units: int = 1) -> None:
        self.bars.advance(self.of_stage, units)

    def say(self, message: str) -> None:
        self.bars.console.print(message, highlight=False, markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def quiet_libraries() -> None:
    """Silence progress bars and messages of libraries, so that the harness's own can be seen.

    To be called before any of them is imported.
    """
    import logging
    import warnings

    quiet = {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        # It warns of leaks after workers of the pool were killed, although nothing is leaked.
        "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    for library in ("lm_eval", "datasets", "transformers", "huggingface_hub", "peft", "accelerate"):
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.getLogger("harness").setLevel(logging.INFO)
    warnings.simplefilter("ignore")
