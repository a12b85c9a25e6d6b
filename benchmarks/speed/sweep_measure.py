"""Measurement in `bench-sweep`: cost of a command, sample of points, cost of all points."""

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
"""Seconds between two samples of a command's processes."""


@dataclass(frozen=True)
class Cost:
    """Cost of a command: wall time, processor time and peak memory of all its processes."""

    wall_seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both in sequence."""
        peak = max(self.peak_bytes, other.peak_bytes)
        return Cost(self.wall_seconds + other.wall_seconds, self.processor_seconds + other.processor_seconds, peak)


@dataclass(frozen=True, order=True)
class Point:
    """One point of a sweep: a model trained on ``volume`` rows."""

    model: str
    tuning: str
    volume: int
    seed: int
    run_id: str


@dataclass(frozen=True)
class Parts:
    """Cost of one point in the loop: evaluation, training, evaluation."""

    before: Cost
    train: Cost
    after: Cost


class CommandFailed(Exception):
    """A command failed: its exit code, and the end of its output."""


def measure(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Cost:
    """Run a command and return its cost.

    Processor time is user and system time. The kernel sums that of the command and of all
    descendants that were waited for; if sampling them has seen more (a process that was not waited
    for), its sum is taken. Memory is the sum of the resident sets of the command and its
    descendants, sampled five times a second: shared pages count for each process.

    Args:
        command: program and arguments.
        environment: added to our own.
        log: file for its output.

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
    """Thread that samples a process and its descendants until ``end``."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.over, self.peak_bytes = pid, threading.Event(), 0
        self._seconds: dict[int, float] = {}

    @property
    def processor_seconds(self) -> float:
        """Sum over all sampled processes, at their last samples."""
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
        points: all points.
        number: of the sample; None is all.

    Raises:
        ValueError: if it is too small for each model and tuning, or larger than all points.
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

    Each stratum begins at another volume and seed.
    """
    volumes = sorted({point.volume for point in points})
    seeds = sorted({point.seed for point in points})

    def rank(point: Point) -> tuple[int, int]:
        volume = (volumes.index(point.volume) - turn) % len(volumes)
        return (seeds.index(point.seed) - turn - volume) % len(seeds), volume

    return sorted(points, key=rank)


def scaled(costs: Mapping[Point, Cost], points: Iterable[Point]) -> Cost:
    """Return the cost of all points in sequence, scaled up from the measured ones.

    It is the mean of each model and tuning times its number of points, biased if a stratum's
    volumes are not sampled evenly. The peak is that of the measured points.
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
    """Return the cost if each model is evaluated before training once only."""
    total = scaled({point: part.train + part.after for point, part in parts.items()}, points)
    for model in sorted({point.model for point in parts}):
        own = [part.before for point, part in parts.items() if point.model == model]
        wall, processor = (statistics.mean(values) for values in zip(*[(c.wall_seconds, c.processor_seconds) for c in own], strict=True))
        total += Cost(wall, processor, max(cost.peak_bytes for cost in own))
    return total
