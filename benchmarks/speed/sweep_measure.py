"""What `bench-sweep` measures: the cost of a command, a sample of points, and the cost of all points from that of the sample."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLED_EVERY = 0.2
"""Seconds between two looks at a command's processes."""


@dataclass(frozen=True)
class Cost:
    """What a command took: wall time, processor time of all its processes, and the most memory they had together."""

    wall_seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of one after the other."""
        peak = max(self.peak_bytes, other.peak_bytes)
        return Cost(self.wall_seconds + other.wall_seconds, self.processor_seconds + other.processor_seconds, peak)


@dataclass(frozen=True, order=True)
class Point:
    """One point of a sweep: a model trained on so many rows."""

    model: str
    tuning: str
    volume: int
    seed: int
    run_id: str


@dataclass(frozen=True)
class Parts:
    """What one point cost the loop: evaluation, training, evaluation."""

    before: Cost
    train: Cost
    after: Cost


class CommandFailed(Exception):
    """A command ended with another exit code than 0; says which, and how its output ended."""


def measure(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Cost:
    """Run a command and return what it cost.

    Processor time is user and system time. The kernel adds up that of the command and of all
    descendants that were waited for; where looking at them has seen more (a process that nobody
    waited for), that counts. Memory is the sum of the resident sets of the command and its
    descendants, looked at five times a second: pages that several share are counted for each.

    Args:
        command: program and arguments.
        environment: set over our own.
        log: where its output goes.

    Raises:
        CommandFailed: if its exit code is not 0.
    """
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        watch = _Watch(process.pid)
        watch.start()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        watch.end()
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        raise CommandFailed("\n".join([f"exit code {process.returncode}: {' '.join(command)}", *last]))
    return Cost(seconds, max(used.ru_utime + used.ru_stime, watch.processor_seconds), max(watch.peak_bytes, used.ru_maxrss * 1024))


class _Watch(threading.Thread):
    """Looks at a process and its descendants until it is told to end."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.over, self.peak_bytes = pid, threading.Event(), 0
        self._seconds: dict[int, float] = {}

    @property
    def processor_seconds(self) -> float:
        """Sum over every process that was seen, as it was last seen."""
        return sum(self._seconds.values())

    def run(self) -> None:
        while not self.over.wait(SAMPLED_EVERY):
            resident = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(self.pid)
                for process in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        times = process.cpu_times()
                        self._seconds[process.pid] = times.user + times.system
                        resident += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, resident)

    def end(self) -> None:
        self.over.set()
        self.join()


def sample(points: Iterable[Point], number: int | None) -> list[Point]:
    """Choose points: every model and tuning in turn, its volumes and seeds in rotation.

    Args:
        points: all of them.
        number: how many; None is all.

    Raises:
        ValueError: if that is not enough for each model and tuning, or more than there are.
    """
    strata = {key: _rotated(part, turn) for turn, (key, part) in enumerate(sorted(_strata(points).items()))}
    together = sum(len(part) for part in strata.values())
    wanted = together if number is None else number
    if not len(strata) <= wanted <= together:
        raise ValueError(f"points: got {number}; allowed: {len(strata)} (one for each model and tuning) to {together}, or all")
    turns = [part[turn] for turn in range(max(map(len, strata.values()))) for part in strata.values() if turn < len(part)]
    return turns[:wanted]


def _strata(points: Iterable[Point]) -> dict[tuple[str, str], list[Point]]:
    strata: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        strata.setdefault((point.model, point.tuning), []).append(point)
    return strata


def _rotated(points: Sequence[Point], turn: int) -> list[Point]:
    """Order the points of a stratum so that neighbours differ in volume and seed.

    Each stratum begins elsewhere.
    """
    volumes = sorted({point.volume for point in points})
    seeds = sorted({point.seed for point in points})

    def rank(point: Point) -> tuple[int, int]:
        volume = (volumes.index(point.volume) - turn) % len(volumes)
        return (seeds.index(point.seed) - turn - volume) % len(seeds), volume

    return sorted(points, key=rank)


def scaled(costs: Mapping[Point, Cost], points: Iterable[Point]) -> Cost:
    """Return the cost of all points, one after another, from that of some: each model and tuning's mean times its number of points.

    Where a stratum's volumes were not drawn evenly, so much is this wrong; the peak is that of the
    points measured.
    """
    measured = _strata(costs)
    total = Cost(peak_bytes=max(cost.peak_bytes for cost in costs.values()))
    for key, part in _strata(points).items():
        own = [costs[point] for point in measured[key]]
        wall, processor = (statistics.mean(values) for values in zip(*[(c.wall_seconds, c.processor_seconds) for c in own], strict=True))
        total += Cost(wall * len(part), processor * len(part))
    return total


def plain_loop(parts: Mapping[Point, Parts], points: Iterable[Point]) -> Cost:
    """Return the cost of evaluating each point before and after."""
    return scaled({point: part.before + part.train + part.after for point, part in parts.items()}, points)


def clever_loop(parts: Mapping[Point, Parts], points: Iterable[Point]) -> Cost:
    """Return the cost where each model is evaluated before once only."""
    total = scaled({point: part.train + part.after for point, part in parts.items()}, points)
    for model in sorted({point.model for point in parts}):
        own = [part.before for point, part in parts.items() if point.model == model]
        wall, processor = (statistics.mean(values) for values in zip(*[(c.wall_seconds, c.processor_seconds) for c in own], strict=True))
        total += Cost(wall, processor, max(cost.peak_bytes for cost in own))
    return total
