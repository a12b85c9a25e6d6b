"""The Slurm launcher: a job array of workers that pull units from disk, over submitit.

Submitting returns at once, since all results are on disk. A worker that is asked to stop (near its
time limit, or preempted) saves its state, queues again and resumes from there.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from harness.config.resolution import Machine
from harness.config.strict import check
from harness.core import masking
from harness.core.display import Display, display, quiet_libraries
from harness.core.errors import ConfigError, explain
from harness.core.extras import INSTALL
from harness.core.progress import Interrupted, Progress
from harness.records.store import Experiment
from harness.sweep.launchers.choose import Launcher, Work, worker_bytes
from harness.sweep.tally import Tally
from harness.sweep.watch import watch

FOLDER = "slurm"
"""Folder in an experiment's: files of submitit and the log of each worker, by sweep."""

LEAST_GB = 32.0
"""Least memory of a worker that is asked for by default."""


@dataclass(frozen=True, kw_only=True)
class Slurm(Launcher):
    """Jobs on a Slurm cluster; null leaves a value to the cluster.

    Attributes:
        workers: most workers at a time; never more than there are units to do.
        partition, account, qos: options of sbatch.
        gpus: of each worker, all on one node.
        cpus: processor cores of each worker.
        memory_gb: of each worker; null is 20 bytes a parameter of the largest model, at least 32.
        gpu_memory_gb: of one GPU, to reject what cannot fit; null leaves that to the worker.
        hours: time limit of a worker; unfinished work resumes after the worker has queued again.
        grace_minutes: time between the request to stop and the time limit, to save a checkpoint.
        requeues: most restarts of a worker that was asked to stop or lost its node.
        setup: lines of shell before the worker starts, such as ``module load cuda``.
        python: command of the interpreter on a node; null is the one that submits.
        extra: options of sbatch by name, which override others; ``mem: null`` asks for no memory.
        price_per_hour: of one GPU, or of a worker without GPUs; for `harness plan`.
    """

    workers: int = 8
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: int = 1
    cpus: int = 4
    memory_gb: float | None = None
    gpu_memory_gb: float | None = None
    hours: float = 12
    grace_minutes: float = 5
    requeues: int = 100
    setup: tuple[str, ...] = ()
    python: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ["workers", "cpus", "memory_gb", "gpu_memory_gb", "hours", "grace_minutes", "price_per_hour"]:
            check(f"launcher.{name}", getattr(self, name), "greater than 0", lambda value: value is None or value > 0)
        for name in ["gpus", "requeues"]:
            check(f"launcher.{name}", getattr(self, name), "0 or greater", lambda value: value >= 0)
        most = min(self.hours * 60 / 2, 1000)  # sbatch takes up to 65,535 seconds
        check("launcher.grace_minutes", self.grace_minutes, f"at most {most:g}, half the time limit", lambda value: value <= most)

    @property
    def machine(self) -> Machine:
        """Cores and GPUs of one worker."""
        return Machine(cores=self.cpus, gpus=self.gpus, gpu_bytes=None if self.gpu_memory_gb is None else round(self.gpu_memory_gb * 2**30))

    def check(self) -> None:
        """Raise ConfigError if no jobs can be submitted from this machine."""
        self._lines_of_shell()
        if not shutil.which("sbatch"):
            fix = "submit on a login node of the cluster, or launcher=local"
            raise ConfigError(explain("launcher=slurm", got="no sbatch on this machine", allowed="a machine that can submit jobs", fix=fix))
        if in_queue() is None:
            fix = "try again later, submit on a login node of the cluster, or launcher=local"
            raise ConfigError(explain("launcher=slurm", got="no answer from its controller", allowed="a running cluster", fix=fix))

    def carry(self, work: Work, display: Display, *, wait: bool) -> Tally | None:
        """Submit the workers that are missing; with ``wait`` watch them until all is done."""
        jobs = self.submit(
            work.experiment.folder,
            work.experiment.name,
            work.sweep.id,
            units=sum(unit.kind != "measurement" for unit in work.units) or len(work.units),
            needed=max(map(worker_bytes, work.units), default=0),
        )
        work.announce()
        display.say(f"{len(jobs)} worker(s) in the queue: {', '.join(jobs)}")
        return watch(work, display, functools.partial(waiting, jobs)) if wait else None

    def submit(self, folder: Path, name: str, sweep_id: str, *, units: int, needed: float = 0) -> list[str]:
        """Submit the workers that are missing, and return at once.

        Args:
            folder: of the experiment, on storage that every node sees.
            name: of the jobs.
            sweep_id: of the sweep.
            units: number of units to do, which limits the workers, those in the queue included.
            needed: bytes of the largest unit.

        Returns:
            The ids of all jobs that carry this sweep now.

        Raises:
            ConfigError: no Slurm here, or it rejects the jobs; nothing was submitted.
        """
        self.check()
        before = queued(folder, sweep_id)
        missing = min(self.workers, units) - len(before)
        if missing <= 0:
            return before
        try:
            import submitit
        except ImportError as error:
            fix = f"pip install submitit, or {INSTALL.format(extra='slurm')}"
            raise ConfigError(explain("launcher=slurm", got="no submitit", allowed="the package submitit", fix=fix)) from error
        folder = folder.resolve()
        executor = submitit.SlurmExecutor(folder / FOLDER / sweep_id, python=self.python)
        lines, variables = self._lines_of_shell()
        os.environ.update(variables)
        executor.update_parameters(**self.parameters(name, needed) | {"setup": lines})
        try:
            jobs = executor.map_array(carry, [folder] * missing, [sweep_id] * missing, [self.requeues] * missing)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            lines = str(error).strip().splitlines() or ["no message"]
            raise ConfigError(
                explain(
                    "sbatch",
                    got=lines[-1].removeprefix("sbatch: "),
                    allowed="jobs that the cluster accepts",
                    fix="partition, account, time and other options of launcher.*",
                )
            ) from error
        return [*before, *(job.job_id for job in jobs)]

    def parameters(self, name: str, needed: float = 0) -> dict[str, Any]:
        """Return the options of one worker, whose largest unit needs some bytes, for submitit."""
        gigabytes = max(LEAST_GB, needed / 2**30) if self.memory_gb is None else self.memory_gb
        wanted = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": None if "mem" in self.extra else f"{round(gigabytes * 1024)}M",
            "time": max(1, round(self.hours * 60)),
            "signal_delay_s": max(1, round(self.grace_minutes * 60)),
            "array_parallelism": self.workers,
            "setup": list(self.setup),
            "stderr_to_stdout": True,
            "srun_args": [f"--cpus-per-task={self.cpus}"],  # since 22.05 a step does not inherit it from its job
        }
        options = {key.replace("-", "_"): value for key, value in self.extra.items() if value is not None}
        requeue = {"requeue": True} if self.requeues else {"no_requeue": True}
        # Null removes submitit's own wckey: some clusters reject unknown ones.
        return {key: value for key, value in wanted.items() if value is not None} | {
            "wckey": None,
            "additional_parameters": requeue | options,
        }

    def _lines_of_shell(self) -> tuple[list[str], dict[str, str]]:
        """Return ``setup`` without secrets, and the variables that sbatch passes on for it."""
        lines, variables = _without_secrets(self.setup)
        fix = "export it where the jobs run, such as in a file that launcher.setup sources"
        if variables and "export" in self.extra:
            got = f"{', '.join(variables)} together with launcher.extra.export"
            raise ConfigError(explain("launcher.setup", got=got, allowed="no secrets, which sbatch would have to pass on", fix=fix))
        texts = [("extra", f"{key}={value}") for key, value in self.extra.items()] + [("python", self.python or "")]
        for option, text in texts:
            if (shown := masking.masked(text)) != text:
                raise ConfigError(explain(f"launcher.{option}", got=f"a secret ({shown})", allowed="no secrets", fix=fix))
        return lines, variables


def _without_secrets(lines: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return lines of shell without secrets, and variables that they now read them from.

    sbatch passes the variables of the submitting process on, so that no script has a secret.

    Raises:
        ConfigError: a secret that is no variable's value.
    """
    kept, found = [], dict[str, str]()
    for line in lines:
        rest, last = "", 0
        for secret in masking.secrets(line):
            if (value := _value(line, secret)) is not None and found.get(name := str(secret.variable), value) == value:
                found[name] = value
                rest += f'{line[last : secret.start]}"${name}"'
                last = secret.end
        kept.append(rest + line[last:])
        if (shown := masking.masked(kept[-1])) != kept[-1]:
            fix = "a line `export NAME_TOKEN=VALUE`, or the variable exported before the command"
            raise ConfigError(explain("launcher.setup", got=f"a secret ({shown})", allowed="secrets as values of variables", fix=fix))
    return kept, found


def _value(line: str, secret: masking.Secret) -> str | None:
    """Return the value that a line of shell gives a variable; None if only a shell knows it."""
    word = line[secret.start : secret.end]
    is_known = line[: secret.start].endswith(f"{secret.variable}=") and not secret.is_quoted
    if not is_known or re.search(r"[$`]", re.sub(r"(?<!\$)'[^']*'", "", word)):
        return None
    try:
        return "".join(shlex.split(word))
    except ValueError:  # a quote without its end
        return None


SHORT_SECONDS, MOST_SHORT = 60.0, 10
"""Processes in a row that live shorter than this, after which the job ends."""

INTERRUPTED, SICK = 75, 76
"""Exit codes of the working process: asked to stop; unable to use its GPU."""


def carry(folder: Path, sweep_id: str, requeues: int) -> None:
    """Run a job: a child process works until nothing is left.

    A killed child is replaced: exhausted memory must not end the job, and does not loop, since a
    unit is failed after its third death at one place. Asked to stop, the job queues again. The
    handlers replace submitit's, which would exit in the middle of a step.

    Args:
        folder: of the experiment.
        sweep_id: of the sweep.
        requeues: most restarts of this job.
    """
    logging.getLogger("submitit").propagate = False  # it has a handler of its own
    signals: list[int] = []
    working: list[subprocess.Popen[bytes]] = []

    def stop(number: int, _: FrameType | None) -> None:
        signals.append(number)
        for process in working:
            process.send_signal(number)

    signal.signal(signal.SIGCONT, signal.SIG_IGN)  # Slurm wakes a job before it ends it
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR2, stop)
    short = 0
    with display() as progress:
        while not signals and short < MOST_SHORT:
            began = time.monotonic()
            command = [sys.executable, "-m", "harness.sweep.launchers.slurm", str(folder), sweep_id]
            with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
                working[:] = [process]
                for number in signals:  # signals that came while it started
                    process.send_signal(number)
                status = process.wait()
            if status == 0:
                return
            if status > 0 and status not in {INTERRUPTED, SICK}:
                raise SystemExit(status)  # its log says why
            short = short + 1 if time.monotonic() - began < SHORT_SECONDS else 0
            if not signals:
                how = "had an error on its GPU" if status == SICK else f"was killed by signal {-status}"
                progress.say(f"the working process {how}; another one continues")
        if signals and may_go_on(signals):
            requeue(requeues, progress)
        raise SystemExit(1)  # not done; submitit writes no result


def main() -> None:
    """Work in a job's child process: ``python -m harness.sweep.launchers.slurm FOLDER SWEEP``."""
    signals: list[int] = []
    signal.signal(signal.SIGCONT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: signals.append(number))  # until there is something to stop
    threading.Thread(target=_leave_with_job, daemon=True).start()
    quiet_libraries()
    from harness.sweep import reporter, worker

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: reporter.stop_soon())
    if signals:
        reporter.stop_soon()
    with display() as progress:
        try:
            worker.work(Path(sys.argv[1]), sys.argv[2], progress)
        except Interrupted:
            raise SystemExit(INTERRUPTED) from None
        except worker.SickWorker:
            raise SystemExit(SICK) from None


def _leave_with_job() -> None:
    """End this process at once when its parent is gone."""
    while os.read(0, 1):  # not through sys.stdin, whose lock this thread would hold while the interpreter ends
        pass
    os._exit(1)


def may_go_on(signals: Collection[int]) -> bool:
    """Return whether this job must queue again after these signals.

    SIGUSR2 means that the time limit is near. SIGTERM means that the job is cancelled, which is
    final, or preempted: then its state is RUNNING for the partition's grace time, and it would
    count as completed if it ended without queueing again.
    """
    state = ask("squeue", "--noheader", f"--jobs={job_id()}", "--format=%T")
    return state.strip() == "RUNNING" if state is not None else signal.SIGUSR2 in signals


def requeue(requeues: int, progress: Progress) -> None:
    """Queue this process's job again, up to ``requeues`` times; Slurm then ends the process."""
    starts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if starts >= requeues:
        progress.say(f"stopped, and not queued again: it has started again {starts} times (launcher.requeues={requeues})")
        return
    for _ in range(6):  # the controller may be down for a while
        if ask("scontrol", "requeue", job_id()) is not None:
            progress.say("stopped; queued again")
            return
        time.sleep(10)
    progress.say("stopped, and not queued again: the controller does not answer")


def job_id() -> str:
    """Return the id of this process's job, in the form of Slurm's commands."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def ask(*command: str) -> str | None:
    """Return a Slurm command's output; None if it fails or takes over a minute."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if found.returncode else found.stdout


def queued(folder: Path, sweep_id: str) -> list[str]:
    """Return the ids of the live jobs that will do all units of a sweep.

    Live means queued or running. Jobs of an earlier sweep count if it has every unit of this one,
    so that the same command twice does not submit twice. None are known if Slurm is silent.
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
    """Return the ids of a sweep's units."""
    sweep = Experiment(folder).sweep(sweep_id)
    return frozenset(unit.id for unit in sweep.units) if sweep else frozenset()


def waiting(jobs: Collection[str]) -> bool:
    """Return whether any of these jobs is queued or running; True if Slurm is silent."""
    known = in_queue()
    return known is None or not known.isdisjoint(jobs)


def in_queue() -> set[str] | None:
    """Return the ids of this user's queued and running jobs, one per array task.

    None if Slurm does not answer.
    """
    said = ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i")
    return None if said is None else set(said.split())


if __name__ == "__main__":
    main()
