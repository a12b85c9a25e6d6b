"""A sweep in a storm: its processes are killed at random moments.

Its records are compared with those of an undisturbed sweep.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SWEEP = [
    "experiment=smoke",
    "model=nursery-smoke-a,nursery-smoke-b",
    "tuning=full,lora",
    "seed=range(6)",
    "data.volumes=[32,64]",
    "training.threads=1",
    "training.dtype=float32",
    "evaluation.dtype=float32",
    "evaluation.token_budget=4096",
]
"""Two models, full and LoRA, six seeds: 24 runs of two points. Everything that scores may depend
on is pinned."""

RUNS, POINTS, BASELINES = 24, 48, 4

LEAVE_SECONDS = 5.0
"""Most seconds that workers may outlive their coordinator."""

VARYING = {"sha256", "wall_seconds", "facts", "peak_memory_bytes", "provenance"}
"""Fields of points and measurements that are not scores: times, memory, provenance."""

FULL = Path(__file__).parent.parent / "chaos" / "full_disk"
"""At the start of PYTHONPATH, it makes the harness' own writes fail while the file
HARNESS_TEST_FULL exists."""


@dataclass
class Sweep:
    """A sweep's command, started repeatedly.

    Attributes:
        where: where points are measured; the records are the same.
    """

    results: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    where: str = "inline"
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the coordinator, in a process group of its own."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness", "sweep", *SWEEP, f"evaluation.where={self.where}", f"results={self.results}"],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        return self.process

    def finish(self, timeout: float = 600.0) -> int:
        """Wait for its end; start it first if it does not run."""
        process = self.process if self.process and self.process.poll() is None else self.start()
        return process.wait(timeout)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes that a coordinator has started, including the forkserver."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_coordinator(sweep: Sweep) -> float:
    """Kill a coordinator; return the seconds until its last process was gone.

    Raises AssertionError if one stays too long.
    """
    process = sweep.process
    assert process is not None
    left = family(process)
    process.kill()
    process.wait()
    for child in left:  # a stopped process leaves once it continues
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGCONT)
    began = time.monotonic()
    while alive := [child for child in left if _lives(child)]:
        assert time.monotonic() - began < LEAVE_SECONDS, f"still there {LEAVE_SECONDS} s after their coordinator: {alive}"
        time.sleep(0.02)
    return time.monotonic() - began


def _lives(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def server(process: subprocess.Popen[bytes]) -> psutil.Process | None:
    """Return the fork server of a coordinator."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return next((one for one in psutil.Process(process.pid).children() if "forkserver" in " ".join(one.cmdline())), None)
    return None


@dataclass
class Storm:
    """Kills at random moments.

    Attributes:
        strange: also stop workers, kill fork servers, damage checkpoints and claims, and let the
            clock jump.
        kills: of workers and of coordinators, and other faults, so far.
        slowest: longest time that workers outlived their coordinator, in seconds.
    """

    seed: int
    strange: bool = False
    kills: dict[str, int] = field(default_factory=lambda: {"worker": 0, "coordinator": 0})
    slowest: float = 0.0

    def __post_init__(self) -> None:
        """Seed the random choices."""
        self.dice = random.Random(self.seed)

    def rage(self, sweeps: list[Sweep], kills: int, deadline: float) -> None:
        """Kill ``kills`` processes at random moments, restarting ended or killed commands."""
        while sum(self.kills.values()) < kills:
            assert time.monotonic() < deadline, f"only {self.kills} in the time there was"
            for sweep in sweeps:
                if sweep.process is None or sweep.process.poll() is not None:
                    sweep.start()
            time.sleep(self.dice.uniform(0.3, 3.0))
            sweep = self.dice.choice(sweeps)
            if self.strange and self.dice.random() < 0.5:
                self._be_strange(sweep)
            else:
                self._strike(sweep)

    def _be_strange(self, sweep: Sweep) -> None:
        """Do one fault other than a kill."""
        if sweep.process is None or sweep.process.poll() is not None:
            return
        claims = list(sweep.results.glob("smoke/claims/*/*.json"))
        states = list(sweep.results.glob("smoke/runs/*/state/*/state.*"))
        caches = list(Path(sweep.environment.get("HARNESS_CACHE", "/nowhere")).rglob("model.safetensors"))
        fault = self.dice.choice(["stopped", "server", "clock", "damaged claim", "damaged state", "damaged cache"])
        workers = [process for process in family(sweep.process) if self._works(process)]
        found: Sequence[Any] = {"clock": claims, "damaged claim": claims, "damaged state": states, "damaged cache": caches}.get(
            fault, workers
        )
        target = server(sweep.process) if fault == "server" else self.dice.choice(found) if found else None
        if target is None:
            return
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            self._hurt(fault, target)
            self.kills[fault] = self.kills.get(fault, 0) + 1

    def _hurt(self, fault: str, target: Any) -> None:
        if fault == "stopped":
            target.send_signal(signal.SIGSTOP)
        elif fault == "server":
            target.kill()
        elif fault == "clock":
            when = time.time() + self.dice.choice([-7200, 7200])
            os.utime(target, (when, when))
        elif fault == "damaged claim":
            target.write_text(self.dice.choice(["", "nonsense", '{"lease": "abc"}']))
        else:
            data = bytearray(target.read_bytes())
            data[len(data) // 2] ^= 0xFF
            target.write_bytes(data)

    def _strike(self, sweep: Sweep) -> None:
        if sweep.process is None or sweep.process.poll() is not None:
            return
        workers = [process for process in family(sweep.process) if self._works(process)]
        if workers and self.dice.random() < 0.8:
            self.dice.choice(workers).send_signal(signal.SIGKILL)
            self.kills["worker"] += 1
        elif workers or self.dice.random() < 0.1:
            self.slowest = max(self.slowest, kill_coordinator(sweep))
            self.kills["coordinator"] += 1

    @staticmethod
    def _works(process: psutil.Process) -> bool:
        """Return whether a process is a worker, not the forkserver or its helper."""
        try:
            parent = process.parent()
            return parent is not None and "forkserver" in " ".join(parent.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return False


def contents(results: Path) -> dict[str, Any]:
    """Return the results of a sweep by file: everything except measured times and provenance."""
    found: dict[str, Any] = {}
    for path in sorted(results.glob("smoke/**/*")):
        name = path.relative_to(results).as_posix()
        if path.name in {"point.json", "measurement.json"}:
            values = json.loads(path.read_text())
            values.get("counts", {}).pop("seconds", None)
            found[name] = {key: value for key, value in values.items() if key not in VARYING}
        elif path.name == "samples.parquet":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "record.json":
            values = json.loads(path.read_text())
            found[name] = {
                key: values[key] for key in ("identity", "volumes", "evaluations", "before_sha256", "start_weights_sha256", "incomplete")
            }
    return found


def leftovers(results: Path) -> list[str]:
    """Return hidden files and unfinished work that no process will use again."""
    hidden = [path for folder in ("runs", "measurements") for path in (results / "smoke" / folder).rglob(".*")]
    partial = list(results.rglob("finished.json"))
    return sorted(path.relative_to(results).as_posix() for path in [*hidden, *partial])
