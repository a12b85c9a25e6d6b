"""Run jobs one after another: what fails is recorded and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.interfaces import Progress


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        label: what it is, for people.
        execute: does what is missing of it and returns ``done``, ``already done``, or how far it came.
        fail: records why it did not finish.
    """

    label: str
    execute: Callable[[Progress], str]
    fail: Callable[[Exception], None]


@dataclass
class Tally:
    """How the jobs of a sweep ended; ``failed`` holds (label, reason)."""

    done: int = 0
    already_done: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def run_all(jobs: Sequence[Job], progress: Progress, on_job: Callable[[int], None]) -> Tally:
    """Run every job, in order; an exception is recorded by the job's ``fail`` and does not stop the others.

    Args:
        jobs: the runs.
        progress: told what each is doing.
        on_job: called with the number of jobs finished, before each and at the end.
    """
    tally = Tally()
    for number, job in enumerate(jobs):
        on_job(number)
        try:
            outcome = job.execute(progress)
        except Exception as error:  # noqa: BLE001 - the job boundary: whatever it was is recorded with its traceback
            tally.failed.append((job.label, f"{type(error).__name__}: {' '.join(str(error).split())}"))
            progress.say(f"failed: {job.label}: {tally.failed[-1][1]}")
            try:
                job.fail(error)
            except OSError as second:  # a full disk fails twice; the other runs still have their turn
                progress.say(f"not recorded: {job.label}: {second}")
            continue
        tally.already_done += outcome == "already done"
        tally.done += outcome == "done"
        if outcome not in {"done", "already done"}:
            tally.failed.append((job.label, f"{outcome}: rows with status failed in the table say why"))
    on_job(len(jobs))
    return tally
