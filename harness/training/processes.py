"""Processes of one machine that train one run together.

Each trains on its share of every step's rows, on its own GPU where there are GPUs. Rank 0 is the
process that executes the run. For the time of the training it starts the others (``python -m
harness.training.processes``), which load the same model and train with it; at a stop they wait.
Their job comes through standard input, which stays open: it ends when rank 0 ends, in whatever way,
and then they end too. So that this holds while they import what they need, this module imports
nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from harness.config import outside
from harness.core.errors import HarnessError, ProcessDied, TrainingError, explain
from harness.training.job import Callbacks, Job

if TYPE_CHECKING:
    from harness.training.step import ProcessGroup, Streams

HERE = "127.0.0.1"
WITHOUT_MEMORY = 17
"""Exit status of a process that ran out of memory."""

LENGTH_BYTES = 8
"""Size of the number that gives the length of a job."""

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals to stop. A cluster sends them to every process of a job; only rank 0 acts on them."""

LEAVE_SECONDS = 20.0
"""Time for a process to end by itself after training."""


@dataclass(frozen=True)
class DistributedProcess:
    """A member of a group of processes that has been joined."""

    rank: int
    size: int
    threads: int
    port: int

    def announced(self) -> contextlib.AbstractContextManager[None]:
        from harness.training.step import environment

        where = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": self.size, "LOCAL_WORLD_SIZE": self.size}
        # Without a number of threads, accelerate sets one of its own and warns.
        settings = {**where, "MASTER_ADDR": HERE, "MASTER_PORT": self.port, "OMP_NUM_THREADS": self.threads}
        return environment({name: str(value) for name, value in settings.items()})

    def total(self, *values: float) -> list[float]:
        import torch
        import torch.distributed as dist

        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return [float(value) for value in summed]

    def gathered(self, streams: Streams) -> list[Streams]:
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(dict(streams), found)
        return found or []


@contextmanager
def joined(job: Job) -> Iterator[ProcessGroup]:
    """Start the other processes of a training, as rank 0, and end them afterwards.

    Yields:
        The group; of a run with one process, that process alone.

    Raises:
        TrainingError: in one line, if one of them ends early; OutOfMemory if it ran out of memory.
    """
    from harness.training.step import SingleProcess

    size = job.resolved.processes
    if size > 1 and job.objective.learns == "rewards":  # each would do all of a step's work, and gradients would add up
        got, allowed = f"{size} processes for an objective that learns rewards", "one"
        raise TrainingError(explain("training.processes", got=got, allowed=allowed, fix="training.processes=1"))
    if size == 1 or job.first == len(job.steps):
        yield SingleProcess()
        return
    import torch.distributed as dist

    store = dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    helpers = [_Helper(job, rank, store.port) for rank in range(1, size)]
    try:
        while not store.check([f"ready {helper.rank}" for helper in helpers]):
            _require_alive(helpers)
            time.sleep(0.05)
        group = _meet(job, 0, store)
        if job.resolved.device == "cuda":
            threading.Thread(target=_abort_without, args=(helpers,), daemon=True).start()
        yield group
        for helper in helpers:
            helper.leave()
    except RuntimeError:  # of a connection: the process at its other end may have ended
        _require_alive(helpers, patience=5.0)
        raise
    finally:
        for helper in helpers:
            helper.kill()
        _part()


def _abort_without(helpers: Sequence[_Helper]) -> None:
    """Abort the wait for a process that has ended early, which nccl never notices."""
    from torch.distributed import distributed_c10d

    while all(helper.process.poll() is None for helper in helpers):
        time.sleep(1.0)
    if any(helper.error() for helper in helpers if not helper.output.closed):
        time.sleep(5.0)
        distributed_c10d._abort_process_group()


def _meet(job: Job, rank: int, store: Any) -> DistributedProcess:
    """Join the process group: gloo between processors, and nccl between GPUs."""
    import torch.distributed as dist

    from harness.training.loop import PATIENCE_SECONDS
    from harness.training.step import environment

    size = job.resolved.processes
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    addresses = {} if loopback is None or "GLOO_SOCKET_IFNAME" in os.environ else {"GLOO_SOCKET_IFNAME": loopback}
    with environment(addresses):  # the host's name may have no address, or one behind a firewall
        backend = "cpu:gloo,cuda:nccl" if job.resolved.device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=PATIENCE_SECONDS))
    return DistributedProcess(rank, size, job.resolved.threads, store.port)


def _part() -> None:
    """Leave the process group, also for accelerate: this process may train alone next."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState

    if dist.is_initialized():
        dist.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Block signals to stop: a process started meanwhile inherits that, then ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Helper:
    """Another process of the group, as rank 0 sees it."""

    def __init__(self, job: Job, rank: int, port: int) -> None:
        self.rank = rank
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in kill
        package = str(Path(__file__).resolve().parent.parent.parent)
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = str(job.resolved.threads)
        with _held_back():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness.training.processes", str(rank), str(port)],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self.output,
                start_new_session=True,  # Ctrl-C is for rank 0, which saves first
            )
        self.sent = threading.Event()
        threading.Thread(target=self._send, args=(pickle.dumps(job),), daemon=True).start()

    def _send(self, job: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, which its exit status shows
            cast(IO[bytes], self.process.stdin).write(len(job).to_bytes(LENGTH_BYTES, "big") + job)
            cast(IO[bytes], self.process.stdin).flush()
        self.sent.set()

    def error(self) -> TrainingError | None:
        """Return the reason it ended early; None while it runs or if it ended well."""
        from harness.training.loop import OutOfMemory

        status = self.process.poll()
        if not status:
            return None
        if status == WITHOUT_MEMORY:
            return OutOfMemory(self._last_line())
        kind, how = (ProcessDied, f"killed by signal {-status}") if status < 0 else (TrainingError, self._last_line())
        message = f"training process {self.rank}, which ended early: {how}"
        return kind(explain("training", got=message, fix="run again; it resumes from the last checkpoint"))

    def _last_line(self) -> str:
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}"

    def leave(self) -> None:
        """Wait up to ``LEAVE_SECONDS`` for it to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LEAVE_SECONDS)

    def kill(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            cast(IO[bytes], self.process.stdin).close()
        self.output.close()


def _require_alive(helpers: Sequence[_Helper], patience: float = 0.0) -> None:
    """Raise the error of a process that has ended.

    Looks again for ``patience`` seconds: connections close a moment before a process is gone.
    """
    until = time.monotonic() + patience
    while True:
        for helper in helpers:
            if (error := helper.error()) is not None:
                raise error
        if time.monotonic() >= until:
            return
        time.sleep(0.1)


def _help(job: Job, rank: int, port: int) -> None:
    """Train as one of the other processes."""
    import torch
    import torch.distributed as dist

    from harness.models.loading import StartWeights, load
    from harness.training.loop import train

    torch.set_num_threads(job.resolved.threads)
    if job.resolved.device == "cuda":
        torch.cuda.set_device(rank)
    model = load(job.model, job.resolved.device)
    base = StartWeights(job.model)
    model = job.tuned(model)
    start = job.checkpoints.newest(lambda counts: counts.step == job.first) if job.first else None
    if job.first and start is None:
        raise TrainingError(explain("checkpoint", got=f"none of step {job.first}", fix="run again"))
    store = dist.TCPStore(HERE, port, is_master=False)  # type: ignore[attr-defined]
    store.set(f"ready {rank}", "")
    group = _meet(job, rank, store)
    train(job, model, base, Callbacks(on_stop=lambda _: None, on_checkpoint=lambda _: None), start=start, group=group)


def _end_with_rank_0() -> None:
    """End this process as soon as rank 0 has ended."""
    sys.stdin.buffer.read(1)
    os._exit(1)


def main() -> None:
    """Run one of the other processes; the job comes through standard input."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)  # rank 0 decides when to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
    length = int.from_bytes(sys.stdin.buffer.read(LENGTH_BYTES), "big")
    job = sys.stdin.buffer.read(length)
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    status = 0
    try:
        outside.make_importable()  # a method may be a class of the user's own
        _help(cast(Job, pickle.loads(job)), int(sys.argv[1]), int(sys.argv[2]))
    except HarnessError as error:
        from harness.training.loop import OutOfMemory

        sys.stderr.write(f"{error}\n")
        status = WITHOUT_MEMORY if isinstance(error, OutOfMemory) else 2
    except BaseException:  # noqa: BLE001 - reported to rank 0, which raises it
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # without waiting for connections


if __name__ == "__main__":
    main()
