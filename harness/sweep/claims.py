"""Claims: leases that give a unit to one process at a time, across hosts.

A claim is a file ``claims/<unit id>/<n>.json``; together they log all tries. Only one process can
create the n-th (an exclusive link), and only once the one before has ended or its owner is dead: a
process of this host that no longer exists, or one whose lease expired without a heartbeat. So no
claim is ever taken away, only followed, and an owner that wakes up late sees that it was followed.
The age of a heartbeat is measured by the clock of the file system that all hosts share, at first
sight; from then on by a clock of this process that never jumps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from harness.core.space import is_lacking
from harness.records.claim_log import UNREADABLE
from harness.records.store import Experiment
from harness.records.sweep_schema import Claim

LEASE, BEAT = 120.0, 5.0
"""Seconds without a heartbeat after which a claim may be followed, and between heartbeats."""

DEATHS = 3
"""Deaths of workers at the same place after which a run is failed: a run that always exhausts
memory must not loop."""

LEFT = "its coordinator ended, and it with it"
"""Cause of death of a worker that was asked to stop. It says nothing about the unit and does not
count."""

SAME_PROCESS = 2.0
"""Seconds by which two readings of a process's start may differ."""

STAT = Path("/proc/self/stat")


@dataclass(frozen=True)
class Identity:
    """Identity of a process, such that other processes can check whether it lives."""

    host: str
    boot: str
    pid: int
    started: float
    node: str


def identity() -> Identity:
    """Return the identity of this process."""
    pid = os.getpid()
    host, boot = _machine()
    return Identity(host, boot, pid, started(pid), os.environ.get("SLURMD_NODENAME") or host)


@functools.cache
def _machine() -> tuple[str, str]:
    """Return the host name, and an id of its boot and process namespace.

    Containers on one host do not see each other's processes.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [boot.read_text().strip() if boot.exists() else ""]
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return socket.gethostname(), " ".join(parts)


class Claims:
    """The claims of an experiment.

    Attributes:
        lease, beat: seconds, see ``LEASE`` and ``BEAT``.
        sweep: id of the sweep that units are claimed for.
        gpus: number of GPUs that this process holds.
    """

    def __init__(self, experiment: Experiment, *, sweep: str = "", lease: float = LEASE, beat: float = BEAT, gpus: int = 0) -> None:
        self.experiment, self.sweep, self.lease, self.beat, self.gpus = experiment, sweep, lease, beat, gpus
        self._seen: dict[tuple[str, int], tuple[float, float]] = {}

    def history(self, unit: str) -> list[Claim]:
        """Return all claims of a unit, oldest first."""
        return self.experiment.claims.of(unit)

    def held(self, unit: str) -> bool:
        """Return whether a living process has a unit."""
        last = self.experiment.claims.last(unit)
        return last is not None and self.alive(last)

    def alive(self, claim: Claim) -> bool:
        """Return whether a claim is held: not ended, not expired, its owner not known dead."""
        if claim.ended or claim.died:
            return False
        if _is_here(claim) and not runs(claim.pid, claim.started):
            return False
        silence = self.silence(claim)
        return silence is not None and silence <= claim.lease

    def silence(self, claim: Claim) -> float | None:
        """Return the seconds since a claim's last heartbeat; None if its file is gone.

        A heartbeat first seen now has the age that the file system's clock gives it; one from the
        future, or of a process that runs here, has none, since a clock may have jumped.
        """
        beat, now = self.experiment.claims.beat(claim), time.monotonic()
        if beat is None:
            return None
        place = claim.unit, claim.generation
        if self._seen.get(place, (None,))[0] != beat:
            age = 0.0 if _is_here(claim) and not is_stopped(claim.pid) else self.experiment.claims.age(claim) or 0.0
            self._seen[place] = beat, now - age
        return now - self._seen[place][1]

    def forget(self) -> None:
        """Count silence anew: this process was paused, and perhaps all others with it."""
        self._seen.clear()

    def take(self, unit: str, found: str = "") -> Held | None:
        """Claim a unit; None if a living process has it or another was faster.

        Args:
            unit: its id.
            found: summary of its recorded work so far, by which later owners see whether this one
                made progress.
        """
        last = self.experiment.claims.last(unit)
        if last is not None and self.alive(last):
            return None
        after = "" if last is None or last.ended or last.died else self._loss(last)
        me = identity()
        claim = Claim(
            unit=unit,
            generation=last.generation + 1 if last else 1,
            sweep=self.sweep,
            **dataclasses.asdict(me),
            lease=self.lease,
            taken=datetime.now(UTC).isoformat(timespec="seconds"),
            found=found,
            gpus=self.gpus,
        )
        return Held(self, claim, after=after) if self.experiment.claims.add(claim) else None

    def _loss(self, claim: Claim) -> str:
        """Return why a claim that never ended can be followed."""
        if claim.node == UNREADABLE:
            return f"{self.experiment.folder}/claims/{claim.unit}/{claim.generation}.json cannot be read"
        if _is_here(claim) and not runs(claim.pid, claim.started):
            return f"process {claim.pid} of this machine is gone"
        return f"process {claim.pid} of {claim.node} gave no sign of life for {self.silence(claim) or 0.0:.0f} s"

    def deaths(self, unit: str) -> list[Claim]:
        """Return the latest deaths of a unit at one place, see the function ``deaths``."""
        return deaths(self.history(unit))

    def held_by(self, unit: str, pid: int) -> Claim | None:
        """Return the claim of a unit that a process of this host holds."""
        last = self.experiment.claims.last(unit)
        return last if last is not None and not last.ended and last.pid == pid and _is_here(last) else None

    def note_death(self, unit: str, pid: int, how: str) -> bool:
        """Record the death of a process of this host; nobody need wait for its lease.

        Returns:
            Whether it held the unit.
        """
        last = self.held_by(unit, pid)
        if last is not None:
            self.experiment.claims.write(dataclasses.replace(last, died=how))
        return last is not None


def deaths(history: Sequence[Claim]) -> list[Claim]:
    """Return the latest consecutive claims whose owners died at one place, newest first.

    The place is the same if the stage is, and nothing was recorded in between.
    """
    found: list[Claim] = []
    for claim in (claim for claim in reversed(history) if claim.died != LEFT):
        if claim.ended or (found and (claim.found, claim.stage) != (found[-1].found, found[-1].stage)):
            break
        found.append(claim)
    return found


def _is_here(claim: Claim) -> bool:
    """Return whether a claim is that of a process of this host, since its boot."""
    return (claim.host, claim.boot) == _machine()


def started(pid: int) -> float:
    """Return when a process started: on Linux in seconds since boot, which no clock changes."""
    if STAT.exists():
        try:
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (FileNotFoundError, ProcessLookupError) as error:
            raise psutil.NoSuchProcess(pid) from error
        return int(ticks) / os.sysconf("SC_CLK_TCK")
    return float(psutil.Process(pid).create_time())


def runs(pid: int, since: float) -> bool:
    """Return whether a process of this host runs; a zombie does not."""
    try:
        return abs(started(pid) - since) < SAME_PROCESS and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def is_stopped(pid: int) -> bool:
    """Return whether a process of this host is stopped, as SIGSTOP does."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


@dataclass
class Held:
    """A claim of this process, kept alive by a thread inside ``beating()``.

    Attributes:
        on_lost: called in that thread once another process follows the claim.
        progress: returns stage, units finished and their total, for a heartbeat.
        counts: whether its costs are counted; false inside another claim of this process.
        after: why the claim before, which never ended, could be followed; empty if there is none.
    """

    claims: Claims
    claim: Claim
    on_lost: Callable[[], None] = field(default=lambda: None)
    progress: Callable[[], tuple[str, int, int]] = field(default=lambda: ("", 0, 0))
    lost: bool = False
    counts: bool = True
    after: str = ""

    def __post_init__(self) -> None:
        """Start counting costs."""
        self._stop, self._wall, self._cpu = Event(), time.monotonic(), _cpu_seconds()
        self._thread: Thread | None = None

    @contextlib.contextmanager
    def beating(self) -> Iterator[Held]:
        """Write heartbeats while the block runs.

        The holder ends the claim by ``end``; a holder that dies leaves it open.
        """
        self._thread = Thread(target=self._beat, name=f"heartbeat {self.claim.unit}", daemon=True)
        self._thread.start()
        try:
            yield self
        finally:
            self._silence()

    def end(self, how: str, reason: str = "") -> None:
        """End the claim with the outcome of its work.

        If the disk is full, nothing is written, and the claim is followed like a dead one.
        """
        self._silence()
        with contextlib.suppress(OSError):
            self._write(ended=how, reason=reason)

    def die(self, how: str) -> None:
        """End the claim as a death, of a helper process or soon of this one."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._write(died=how)

    def followed(self) -> bool:
        """Return whether another process follows this claim; further results are then dropped."""
        if not self.lost and self.claims.experiment.claims.has(self.claim.unit, self.claim.generation + 1):
            self.lost = True
            self.on_lost()
        return self.lost

    def _silence(self) -> None:
        """Stop the heartbeats and wait for a running one: it must not overwrite the end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _beat(self) -> None:
        while not self._stop.wait(self.claims.beat):
            with contextlib.suppress(OSError):  # no server: the next beat may succeed, else the lease expires
                self.followed()
                try:
                    self._write()
                except OSError as error:
                    if not is_lacking(error):
                        raise
                    self.claims.experiment.claims.touch(self.claim)

    def _write(self, **ended: Any) -> None:
        stage, finished, total = self.progress()
        self.claim = dataclasses.replace(
            self.claim,
            stage=stage,
            finished=finished,
            total=total,
            wall_seconds=round(time.monotonic() - self._wall, 3) * self.counts,
            cpu_seconds=round(_cpu_seconds() - self._cpu, 3) * self.counts,
            memory_bytes=psutil.Process().memory_info().rss,
            **ended,
        )
        self.claims.experiment.claims.write(self.claim)


def _cpu_seconds() -> float:
    """Return the processor time of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
