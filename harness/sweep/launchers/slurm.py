"""Sweeps on Slurm: a job array of identical workers that pull units from disk, submitted over submitit.

Nothing is waited for and nothing is collected: what is done lies on disk. A worker that is asked to
stop (its time is nearly up, or somebody needs its place) saves what it has, puts itself back in the
queue and goes on from there.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from harness.config.resolution import Machine
from harness.config.strict import check
from harness.core.display import Display, display, quiet_libraries
from harness.core.errors import ConfigError, explain
from harness.core.progress import Interrupted, Progress
from harness.records.store import Experiment
from harness.sweep.launchers.choose import Launcher, Work
from harness.sweep.tally import Tally
from harness.sweep.watch import watch

FOLDER = "slurm"
"""Within the folder of an experiment: what submitit keeps, and the log of each worker, by sweep."""


@dataclass(frozen=True, kw_only=True)
class Slurm(Launcher):
    """How workers are submitted; null leaves a choice to the cluster.

    Attributes:
        workers: most workers at a time; never more than there are units to do.
        partition, account, qos: as sbatch takes them.
        gpus: of one worker, all on one node.
        cpus: processor cores of one worker.
        memory_gb: of one worker.
        hours: time limit of one worker; what is not done by then goes on after it has queued again.
        grace_minutes: so long before the time limit a worker is told to stop. It has to save its
            training state in this time.
        requeues: how often a worker that was told to stop or lost its node starts again; 0 is
            never.
        setup: lines of shell before the worker starts, such as ``module load cuda``.
        python: the interpreter as the shell of a node calls it; null is the one that submits.
        extra: more options of sbatch by name, such as ``constraint: a100``; they win over all
            others.
    """

    workers: int = 8
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: int = 1
    cpus: int = 4
    memory_gb: float | None = 32
    hours: float = 12
    grace_minutes: float = 5
    requeues: int = 100
    setup: tuple[str, ...] = ()
    python: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ["workers", "cpus", "memory_gb", "hours", "grace_minutes"]:
            check(f"launcher.{name}", getattr(self, name), "greater than 0", lambda value: value is None or value > 0)
        for name in ["gpus", "requeues"]:
            check(f"launcher.{name}", getattr(self, name), "0 or greater", lambda value: value >= 0)
        most = min(self.hours * 60 / 2, 1000)  # sbatch takes up to 65,535 seconds
        check("launcher.grace_minutes", self.grace_minutes, f"at most {most:g}, half the time limit", lambda value: value <= most)

    @property
    def machine(self) -> Machine:
        """What one worker has."""
        return Machine(cores=self.cpus, gpus=self.gpus)

    def check(self) -> None:
        """Raise ConfigError where no jobs can be submitted from."""
        if not shutil.which("sbatch"):
            fix = "submit on a login node of the cluster, or launcher=local"
            raise ConfigError(explain("launcher=slurm", got="no sbatch on this machine", allowed="a machine that can submit jobs", fix=fix))
        if in_queue() is None:
            fix = "try again later, submit on a login node of the cluster, or launcher=local"
            raise ConfigError(explain("launcher=slurm", got="no answer from its controller", allowed="a cluster that is up", fix=fix))

    def carry(self, work: Work, display: Display, *, wait: bool) -> Tally | None:
        """Submit the workers that are missing; with ``wait`` watch them until all is done."""
        jobs = self.submit(work.experiment.folder, work.experiment.name, work.sweep.id, units=len(work.units))
        work.announce()
        display.say(f"{len(jobs)} worker(s) in the queue: {', '.join(jobs)}")
        return watch(work, display, functools.partial(waiting, jobs)) if wait else None

    def submit(self, folder: Path, name: str, sweep_id: str, *, units: int) -> list[str]:
        """Submit the workers that are missing, and return at once.

        Args:
            folder: of the experiment, on storage that every node sees.
            name: of the jobs.
            sweep_id: which of its sweeps.
            units: how many of its units are not done. Its workers that wait in the queue or run
                already count towards them.

        Returns:
            The ids of the jobs that carry this sweep now, those submitted before included.

        Raises:
            ConfigError: there is no Slurm here, or it refuses the jobs; nothing was submitted.
        """
        self.check()
        before = queued(folder, sweep_id)
        missing = min(self.workers, units) - len(before)
        if missing <= 0:
            return before
        try:
            import submitit
        except ImportError as error:
            fix = "pip install submitit, or 'forgetting-harness[slurm]'"
            raise ConfigError(explain("launcher=slurm", got="no submitit", allowed="the extra slurm", fix=fix)) from error
        folder = folder.resolve()
        executor = submitit.SlurmExecutor(folder / FOLDER / sweep_id, python=self.python)
        executor.update_parameters(**self.parameters(name))
        try:
            jobs = executor.map_array(carry, [folder] * missing, [sweep_id] * missing, [self.requeues] * missing)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            said = str(error).strip().splitlines() or ["nothing"]
            raise ConfigError(
                explain(
                    "sbatch",
                    got=said[-1].removeprefix("sbatch: "),
                    allowed="jobs that the cluster takes",
                    fix="partition, account, time and other options of launcher.*",
                )
            ) from error
        return [*before, *(job.job_id for job in jobs)]

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the options of one worker, as submitit calls them."""
        wanted = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": None if self.memory_gb is None else f"{round(self.memory_gb * 1024)}M",
            "time": max(1, round(self.hours * 60)),
            "signal_delay_s": max(1, round(self.grace_minutes * 60)),
            "array_parallelism": self.workers,
            "setup": list(self.setup),
            "stderr_to_stdout": True,
            "srun_args": [f"--cpus-per-task={self.cpus}"],  # since 22.05 a step does not take it over from its job
        }
        options = {key.replace("-", "_"): value for key, value in self.extra.items() if value is not None}
        requeue = {"requeue": True} if self.requeues else {"no_requeue": True}
        # Null takes submitit's own label out: some clusters refuse unknown ones.
        return {key: value for key, value in wanted.items() if value is not None} | {
            "wckey": None,
            "additional_parameters": requeue | options,
        }


SHORT_SECONDS, MOST_SHORT = 60.0, 10
"""So many processes in a row that do not even live so long are enough."""

INTERRUPTED, SICK = 75, 76
"""How the process that works ends where it was told to stop, and where it cannot use its GPU any
more."""


def carry(folder: Path, sweep_id: str, requeues: int) -> None:
    """Do what a job does: have a process of its own work until nothing is left.

    Start another if it is killed; queue again if told to stop.

    The one that works may be killed for the memory it takes: that ends neither the job nor, since
    the unit's third death at one place is its failure, goes on for ever. The handlers replace
    submitit's, which would leave in the middle of a step.

    Args:
        folder: of the experiment.
        sweep_id: which of its sweeps.
        requeues: how often this job may start again.
    """
    logging.getLogger("submitit").propagate = False  # it has a handler of its own
    told: list[int] = []
    working: list[subprocess.Popen[bytes]] = []

    def stop(number: int, _: FrameType | None) -> None:
        told.append(number)
        for process in working:
            process.send_signal(number)

    signal.signal(signal.SIGCONT, signal.SIG_IGN)  # Slurm wakes a job before it ends it
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR2, stop)
    short = 0
    with display() as progress:
        while not told and short < MOST_SHORT:
            began = time.monotonic()
            command = [sys.executable, "-m", "harness.sweep.launchers.slurm", str(folder), sweep_id]
            with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
                working[:] = [process]
                status = process.wait()
            if status == 0:
                return
            if status > 0 and status not in {INTERRUPTED, SICK}:
                raise SystemExit(status)  # its log says why
            short = short + 1 if time.monotonic() - began < SHORT_SECONDS else 0
            if not told:
                how = "had an error on its GPU" if status == SICK else f"was killed by signal {-status}"
                progress.say(f"the process that worked {how}; another one goes on")
        if told and may_go_on(told):
            requeue(requeues, progress)
        raise SystemExit(1)  # not done; submitit writes no result


def main() -> None:
    """Work in a process of a job: ``python -m harness.sweep.launchers.slurm FOLDER SWEEP``."""
    told = threading.Event()
    signal.signal(signal.SIGCONT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: told.set())  # until there is something to stop
    threading.Thread(target=_leave_with_job, daemon=True).start()
    quiet_libraries()
    from harness.sweep import worker

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: worker.stop_soon())
    if told.is_set():
        worker.stop_soon()
    with display() as progress:
        try:
            worker.work(Path(sys.argv[1]), sys.argv[2], progress)
        except Interrupted:
            raise SystemExit(INTERRUPTED) from None
        except worker.SickWorker:
            raise SystemExit(SICK) from None


def _leave_with_job() -> None:
    """End this process, whatever it does, when the one that started it is gone."""
    while os.read(0, 1):  # not through sys.stdin, whose lock this thread would hold while the interpreter ends
        pass
    os._exit(1)


def may_go_on(told: Collection[int]) -> bool:
    """Say whether this job, told to stop by these signals, is to queue again.

    SIGUSR2 says that the time limit is near. SIGTERM comes where a job is cancelled, and has to
    stay so, and where it is preempted: then it still counts as running for the partition's time of
    grace, and would count as completed if it left without queueing again.
    """
    state = ask("squeue", "--noheader", f"--jobs={job_id()}", "--format=%T")
    return state.strip() == "RUNNING" if state is not None else signal.SIGUSR2 in told


def requeue(requeues: int, progress: Progress) -> None:
    """Put the job of this process back in the queue, unless it has started again so often.

    Slurm ends it thereupon.
    """
    starts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if starts >= requeues:
        progress.say(f"stopped, and not queued again: it has started again {starts} times (launcher.requeues={requeues})")
        return
    for _ in range(6):  # a controller may be away for a while
        if ask("scontrol", "requeue", job_id()) is not None:
            progress.say("stopped; queued again")
            return
        time.sleep(10)
    progress.say("stopped, and not queued again: the controller does not answer")


def job_id() -> str:
    """Return the id of the job that this process is in, as Slurm's commands take it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def ask(*command: str) -> str | None:
    """Return what a command of Slurm says.

    None where it fails or does not answer within a minute.
    """
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if found.returncode else found.stdout


def queued(folder: Path, sweep_id: str) -> list[str]:
    """Return the ids of the workers that wait or run and will do all of a sweep.

    None where Slurm does not answer.

    Those of an earlier sweep count where it has every unit of this one: the same command twice does
    not submit twice.
    """
    jobs, found = in_queue() or set(), []
    for place in (folder / FOLDER).glob("*/"):
        own = {path.name.split("_")[0] for path in place.glob("*_submission.sh")}
        of_it = [job for job in jobs if job.split("_")[0] in own]
        if of_it and (place.name == sweep_id or units_of(folder, sweep_id) <= units_of(folder, place.name)):
            found += of_it
    return sorted(found)


@functools.cache
def units_of(folder: Path, sweep_id: str) -> frozenset[str]:
    """Return the names of a sweep's units."""
    sweep = Experiment(folder).sweep(sweep_id)
    return frozenset(unit.id for unit in sweep.units) if sweep else frozenset()


def waiting(jobs: Collection[str]) -> bool:
    """Say whether any of these jobs waits or runs still.

    Where Slurm does not answer, suppose so.
    """
    known = in_queue()
    return known is None or not known.isdisjoint(jobs)


def in_queue() -> set[str] | None:
    """Return the ids of all jobs of this user that wait or run, each task of an array by its own.

    None where Slurm does not answer.
    """
    said = ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i")
    return None if said is None else set(said.split())


if __name__ == "__main__":
    main()
