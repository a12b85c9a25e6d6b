"""Output of a command: results, messages, errors and progress, to the terminal and a log file.

``OUTPUT`` is where a process writes; libraries' log messages arrive there too. Progress is shown by
live bars on a terminal and in a notebook, elsewhere by a line every 30 seconds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from harness.core import streams
from harness.core.errors import ConfigError, explain
from harness.core.masking import masked
from harness.core.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 30.0

ENOUGH_SHARE = 0.05
"""Share of a sweep's cost that must be done before the time left is estimated from it."""

WIDEST = 36
"""Columns of a bar's name, so that bar, count and time fit into 80."""

MOST_OF_STAGE = 12
"""Columns of the stage in a bar's name."""


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


class Output:
    """The terminal and the log file of a process.

    Attributes:
        quiet: whether the terminal shows results and errors alone.
        log_file: file that everything is appended to, with times; None without one.
        show: writes a message or error to the terminal; live bars and worker processes replace it.
        failed: whether an error of the harness was written since ``set``.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.log_file: Path | None = None
        self.show: Callable[[str], None] = _to_stderr
        self.failed = False

    def result(self, text: str) -> None:
        """Write data for the user to standard output."""
        sys.stdout.write(f"{streams.visible(text)}\n")
        sys.stdout.flush()
        self.log(text)

    def message(self, text: str) -> None:
        """Write a message."""
        if not self.quiet:
            self.show(_printed(text))
        self.log(text)

    def error(self, text: str) -> None:
        """Write an error, even if quiet; the command then does not exit with 0."""
        self.failed = True
        self.always(text)

    def always(self, text: str) -> None:
        """Write a message, even if quiet."""
        self.show(_printed(text))
        self.log(text)

    def log(self, text: str) -> None:
        """Append plain lines to the log file; a full disk does not stop the work."""
        if self.log_file is None:
            return
        now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"
        lines = [f"{now}  {line}".rstrip() for line in _printed(text).splitlines() if line.strip()]
        with contextlib.suppress(OSError), self.log_file.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    @contextlib.contextmanager
    def set(self, *, quiet: bool = False, log_file: Path | None = None) -> Iterator[None]:
        """Change what is shown and logged, until the block ends.

        Raises ConfigError if the log file cannot be written.
        """
        before = self.quiet, self.log_file, self.failed
        if log_file is not None:
            _require_writable(log_file)
        self.quiet, self.log_file, self.failed = quiet, None if log_file is None else log_file.absolute(), False
        try:
            yield
        except Exception:
            self.log(traceback.format_exc())
            raise
        finally:
            self.quiet, self.log_file, self.failed = before


def _printed(text: str) -> str:
    """Return a text without control characters and secrets."""
    return streams.visible(masked(text))


def _to_stderr(text: str) -> None:
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except BrokenPipeError:  # nobody reads messages any more, which does not end the work
        streams.drop(sys.stderr)


def _require_writable(path: Path) -> None:
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConfigError(explain("--log-file", got=f"'{path}' ({error.strerror})", allowed="a file that can be written")) from error


OUTPUT = Output()


def display() -> Display:
    """Return the display of progress for this process's terminal and log file."""
    parts: list[_Lines | _Bars] = []
    if not OUTPUT.quiet:
        parts.append(_Bars() if sys.stderr.isatty() or _in_notebook() else _Lines(_to_stderr))
    if OUTPUT.log_file is not None:
        parts.append(_Lines(OUTPUT.log))
    return _Parts(parts)


def _in_notebook() -> bool:
    """Return whether this is a notebook that can draw live bars, which needs ipywidgets."""
    if "IPython" not in sys.modules or importlib.util.find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console(stderr=True).is_jupyter


class _Parts:
    """A display that passes everything on to others."""

    def __init__(self, parts: Sequence[_Lines | _Bars]) -> None:
        self.parts = parts
        self.bars = next((part for part in parts if isinstance(part, _Bars)), None)

    def __enter__(self) -> _Parts:
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bars is not None:
            self.bars.stop()

    def runs(self, finished: int, total: int) -> None:
        for part in self.parts:
            part.runs(finished, total)

    def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
        for part in self.parts:
            part.workers(working, share)

    def stage(self, name: str, total: int) -> None:
        for part in self.parts:
            part.stage(name, total)

    def advance(self, units: int = 1) -> None:
        for part in self.parts:
            part.advance(units)

    def say(self, message: str) -> None:
        OUTPUT.message(message)


class _Lines:
    """A line every 30 seconds: time so far, work done, and the estimated time left."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.began = self.last = self.stage_began = time.monotonic()
        self.name, self.finished, self.total = "", 0, 0
        self.runs_finished, self.runs_total = 0, 0
        self.share_at_start: float | None = None
        self.work_began = self.began

    def runs(self, finished: int, total: int) -> None:
        self.runs_finished, self.runs_total = finished, total

    def stage(self, name: str, total: int) -> None:
        self.name, self.finished, self.total, self.stage_began = name, 0, total, time.monotonic()
        self._write_if_due(self._stage_line)

    def advance(self, units: int = 1) -> None:
        self.finished += units
        self._write_if_due(self._stage_line)

    def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
        if self.share_at_start is None:
            self.share_at_start, self.work_began = share, time.monotonic()
        self._write_if_due(lambda: self._workers_line(working, share))

    def _write_if_due(self, line: Callable[[], str]) -> None:
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self.write(f"[{_clock(self.last - self.began)}] {line()}")

    def _workers_line(self, working: Sequence[tuple[str, str, int, int]], share: float) -> str:
        gained = share - (self.share_at_start or 0.0)
        left = _left((self.last - self.work_began) / gained * (1 - share)) if gained > ENOUGH_SHARE else ""
        doing = "; ".join(_doing(*one) for one in working) or "waiting"
        return f"{self.runs_finished} of {self.runs_total} runs{left}; {doing}"

    def _stage_line(self) -> str:
        run = f"run {min(self.runs_finished + 1, self.runs_total)} of {self.runs_total}, " if self.runs_total > 1 else ""
        return f"{run}{self.name}: {min(self.finished, self.total)}/{self.total}{self._time_left()}"

    def _time_left(self) -> str:
        """Return the time left of all runs, from finished ones; of one run, its stage's."""
        if 0 < self.runs_finished < self.runs_total:
            return _left((self.last - self.began) / self.runs_finished * (self.runs_total - self.runs_finished))
        if self.runs_total <= 1 and 0 < self.finished < self.total:
            return _left((self.last - self.stage_began) / self.finished * (self.total - self.finished))
        return ""


def _doing(label: str, stage: str, finished: int, total: int) -> str:
    return f"{label}: {stage} {finished}/{total}" if stage else label


def _left(seconds: float) -> str:
    return f", about {_clock(seconds)} left"


def _short(label: str, stage: str) -> str:
    """Return a unit's label and stage in WIDEST columns.

    Of a long label the end is kept, which names arm and seed: the beginning is common to all.
    """
    stage = f"{stage[: MOST_OF_STAGE - 1]}…" if len(stage) > MOST_OF_STAGE else stage
    room = WIDEST - (len(stage) + 2 if stage else 0)
    label = f"…{label[1 - room :]}" if len(label) > room else label
    return f"{label}  {stage}" if stage else label


class _Bars:
    """Rich bars for runs and the current stage, with time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        what = TextColumn("{task.description}", markup=False, table_column=Column(max_width=WIDEST, no_wrap=True, overflow="ellipsis"))
        columns = [what, BarColumn(bar_width=12), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
        self.bars: RichProgress = Bars(*columns, console=Console(file=streams.raw(sys.stderr)), transient=True)
        self.of_runs = self.bars.add_task("runs", total=None, visible=False)
        self.of_stage = self.bars.add_task("", total=None, visible=False)
        self.of_workers: list[TaskID] = []

    def start(self) -> None:
        self.bars.start()
        self.show_before, OUTPUT.show = OUTPUT.show, self._show

    def stop(self) -> None:
        OUTPUT.show = self.show_before
        self.bars.stop()

    def _show(self, text: str) -> None:
        self.bars.console.print(text, highlight=False, markup=False)

    def runs(self, finished: int, total: int) -> None:
        self.bars.update(self.of_runs, completed=finished, total=total, visible=total > 1)

    def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
        while len(self.of_workers) < len(working):
            self.of_workers.append(self.bars.add_task("", total=None))
        for place, bar in enumerate(self.of_workers):
            label, stage, finished, total = working[place] if place < len(working) else ("", "", 0, 0)
            self.bars.update(bar, description=_short(streams.visible(label), streams.visible(stage)), completed=finished, total=total)
            self.bars.update(bar, visible=bool(label))

    def stage(self, name: str, total: int) -> None:
        self.bars.reset(self.of_stage, description=streams.visible(name), total=total, visible=True)

    def advance(self, units: int = 1) -> None:
        self.bars.advance(self.of_stage, units)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _ToOutput(logging.Handler):
    """Passes log messages of libraries to OUTPUT."""

    def emit(self, record: logging.LogRecord) -> None:
        record.package = str(record.name).partition(".")[0]
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            OUTPUT.always(text)
        else:
            OUTPUT.message(text)


QUIET = {
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
"""Environment variables that libraries read when they are imported."""

LIBRARIES = ("lm_eval", "datasets", "transformers", "huggingface_hub", "peft", "accelerate")


def quiet_libraries() -> None:
    """Silence progress bars and messages of libraries, so that the harness's own can be seen.

    To be called before any of them is imported.
    """
    import warnings

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(handlers=[_ToOutput()], level=logging.WARNING, format="%(package)s: %(message)s")
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.getLogger("harness").setLevel(logging.INFO)
    warnings.simplefilter("ignore")


@contextlib.contextmanager
def quieted() -> Iterator[None]:
    """Silence libraries during a call from a user's own program, and restore its settings.

    Bars of tqdm stay off if the call is the first to import it, since tqdm reads its variable once.
    """
    import warnings

    environment, root = {name: os.environ.get(name) for name in QUIET}, logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in (None, "harness", *LIBRARIES)}
    with warnings.catch_warnings():
        quiet_libraries()
        try:
            yield
        finally:
            root.handlers[:] = handlers
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            for variable, value in environment.items():
                os.environ.pop(variable, None) if value is None else os.environ.__setitem__(variable, value)
