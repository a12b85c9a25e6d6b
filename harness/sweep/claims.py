"""Claims: by which one process at a time, on whatever host, has a unit.

And which are the log of who tried it.

A claim is a file ``claims/<unit id>/<n>.json``. The n-th can be made by one process only (an
exclusive link), and only once the one before has ended or its owner is dead: a process of this host
that is gone, or one that has let its lease expire without a heartbeat. So nothing is ever taken
away, only followed, and an owner that wakes up late sees that it has been followed. Ages are told
by the clock of the file system that all hosts share.
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

from harness.records.store import Experiment
from harness.records.sweep_schema import Claim

LEASE, BEAT = 120.0, 5.0
"""Seconds: a claim without a heartbeat for so long may be followed; time between heartbeats."""

DEATHS = 3
"""Deaths of its worker at the same place that make a run failed: one that always runs out of
memory must not loop."""

LEFT = "its coordinator ended, and it with it"
"""How a worker died that was told to: that says nothing about its unit, and does not count."""

SAME_PROCESS = 2.0
"""Seconds by which two readings of when a process started may differ."""


@dataclass(frozen=True)
class Identity:
    """Which process this is, as others can check it."""

    host: str
    boot: str
    pid: int
    started: float
    node: str


def identity() -> Identity:
    """Return the identity of this process."""
    pid = os.getpid()
    host, boot = _machine()
    return Identity(host, boot, pid, psutil.Process(pid).create_time(), os.environ.get("SLURMD_NODENAME") or host)


@functools.cache
def _machine() -> tuple[str, str]:
    """Return host name and what tells apart its boots, and containers on it that do not see each other's processes."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [boot.read_text().strip() if boot.exists() else ""]
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return socket.gethostname(), " ".join(parts)


class Claims:
    """The claims of an experiment.

    Attributes:
        lease, beat: seconds, see ``LEASE`` and ``BEAT``.
        sweep: id of the sweep that units are taken for.
        gpus: that this process holds.
    """

    def __init__(self, experiment: Experiment, *, sweep: str = "", lease: float = LEASE, beat: float = BEAT, gpus: int = 0) -> None:
        self.experiment, self.sweep, self.lease, self.beat, self.gpus = experiment, sweep, lease, beat, gpus

    def history(self, unit: str) -> list[Claim]:
        """Return every claim of a unit, oldest first."""
        return self.experiment.claims.of(unit)

    def held(self, unit: str) -> bool:
        """Say whether a living process has a unit."""
        last = self.experiment.claims.last(unit)
        return last is not None and self.alive(last)

    def alive(self, claim: Claim) -> bool:
        """Say whether a claim is held: not ended, its owner not known to be dead, its lease not expired."""
        if claim.ended or claim.died:
            return False
        if (claim.host, claim.boot) == _machine() and not _runs(claim.pid, claim.started):
            return False
        age = self.experiment.claims.age(claim)
        return age is not None and age <= claim.lease

    def take(self, unit: str, found: str = "") -> Held | None:
        """Take a unit; None where a living process has it, or another was faster.

        Args:
            unit: its id.
            found: what is recorded of it so far; a later owner tells by it whether this one came
                any further.
        """
        last = self.experiment.claims.last(unit)
        if last is not None and self.alive(last):
            return None
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
        return Held(self, claim) if self.experiment.claims.add(claim) else None

    def deaths(self, unit: str) -> list[Claim]:
        """Return the latest claims whose owners died one after another at the same place: same stage, nothing recorded in between."""
        return deaths(self.history(unit))

    def note_death(self, unit: str, pid: int, how: str) -> None:
        """Write how a process of this host died that had a unit, so that others need not wait for its lease, and people know."""
        last = self.experiment.claims.last(unit)
        if last is not None and not last.ended and (last.pid, last.host, last.boot) == (pid, *_machine()):
            self.experiment.claims.write(dataclasses.replace(last, died=how))


def deaths(history: Sequence[Claim]) -> list[Claim]:
    """Return the claims at the end of a history whose owners died one after another at the same place, the last one first."""
    found: list[Claim] = []
    for claim in (claim for claim in reversed(history) if claim.died != LEFT):
        if claim.ended or (found and (claim.found, claim.stage) != (found[-1].found, found[-1].stage)):
            break
        found.append(claim)
    return found


def _runs(pid: int, started: float) -> bool:
    """Say whether a process of this host runs; one that ended and was not waited for does not."""
    try:
        process = psutil.Process(pid)
        same: bool = abs(process.create_time() - started) < SAME_PROCESS and process.status() != psutil.STATUS_ZOMBIE
        return same
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


@dataclass
class Held:
    """A claim of this process, kept alive by a thread while it is a context.

    Attributes:
        on_lost: called, in that thread, once somebody else follows it.
        progress: gives stage, units finished and their total for a heartbeat.
        counts: whether what it costs is counted here; false inside another claim of the same
            process.
    """

    claims: Claims
    claim: Claim
    on_lost: Callable[[], None] = field(default=lambda: None)
    progress: Callable[[], tuple[str, int, int]] = field(default=lambda: ("", 0, 0))
    lost: bool = False
    counts: bool = True

    def __post_init__(self) -> None:
        """Begin to count what the unit costs."""
        self._stop, self._wall, self._cpu = Event(), time.monotonic(), _cpu_seconds()
        self._thread: Thread | None = None

    @contextlib.contextmanager
    def beating(self) -> Iterator[Held]:
        """Write heartbeats while the block runs.

        Whoever holds the claim ends it by ``end``; a block left by death does not.
        """
        self._thread = Thread(target=self._beat, name=f"heartbeat {self.claim.unit}", daemon=True)
        self._thread.start()
        try:
            yield self
        finally:
            self._silence()

    def end(self, how: str, reason: str = "") -> None:
        """Give the unit back, saying how its work ended.

        A full disk does not stop it: the claim is then followed as a dead one is.
        """
        self._silence()
        with contextlib.suppress(OSError):
            self._write(ended=how, reason=reason)

    def die(self, how: str) -> None:
        """Give the unit back as if this process had died, which part of its work did, or which it is about to do."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._write(died=how)

    def followed(self) -> bool:
        """Say whether somebody else follows this claim: then what this process still does is dropped."""
        if not self.lost and self.claims.experiment.claims.has(self.claim.unit, self.claim.generation + 1):
            self.lost = True
            self.on_lost()
        return self.lost

    def _silence(self) -> None:
        """Stop the heartbeats, and wait for one under way: it must not be written over what comes last."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _beat(self) -> None:
        while not self._stop.wait(self.claims.beat):
            with contextlib.suppress(OSError):  # no space, or a server away: the next beat may do, else the lease expires
                self.followed()
                self._write()

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
    """Return the processor time of this process and of the children it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
