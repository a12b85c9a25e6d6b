"""A small sweep on a cluster, and ways to disturb it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.records.store import Experiment
from harness.records.sweep_schema import Claim

SWEEP = [
    "experiment=smoke",
    "model=nursery-smoke-a",
    "tuning=full,lora",
    "seed=0,1",
    "data.volumes=[32,800]",
    "training.batch_rows=1",
    "training.threads=1",
    "training.dtype=float32",
    "evaluation.dtype=float32",
    "evaluation.token_budget=4096",
]
"""Four runs of two points, seconds each, and their volume 0. Steps of one row leave time to
interrupt training. Everything that scores may depend on is pinned."""

RUNS = 4

SLURM = [
    "launcher=slurm",
    "launcher.workers=2",
    "launcher.gpus=0",
    "launcher.cpus=1",
    "launcher.extra={mem: null}",
    "launcher.hours=1",
]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Cluster:
    """A Slurm whose state is in one folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment of commands for this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def script(self, command: str, *node: str) -> subprocess.CompletedProcess[str]:
        """Run a command of slurm.py."""
        script = Path(__file__).parent.parent / "cluster" / "slurm.py"
        return subprocess.run(
            [sys.executable, script, command, self.folder, *node], capture_output=True, text=True, timeout=300, check=False
        )

    def ask(self, *command: str) -> str:
        """Return the output of one of Slurm's own commands."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def job_on(self, node: str) -> str:
        """Return the running job of a node."""
        return self.ask("squeue", "--noheader", "--states=running", f"--nodelist={node}", "--format=%i")

    def restarts(self, job: str) -> int:
        """Return the number of times a job was queued again."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return int(next(word for word in words if word.startswith("Restarts=")).removeprefix("Restarts="))


@dataclass(frozen=True)
class Sweep:
    """The sweep, in its own folder."""

    cluster: Cluster
    results: Path

    @property
    def experiment(self) -> Experiment:
        """Its records."""
        return Experiment(self.results / "smoke")

    def harness(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run its command and wait for the end."""
        command = [sys.executable, "-m", "harness", "sweep", *SWEEP, f"results={self.results}", *more]
        return subprocess.run(command, env=self.cluster.environment, capture_output=True, text=True, timeout=400, check=False)

    def submit(self) -> list[str]:
        """Submit it; return the jobs."""
        done = self.harness(*SLURM)
        assert done.returncode == 0, done.stderr
        return self.cluster.ask("squeue", "--noheader", "--array", "--format=%i").split()

    def finish(self) -> None:
        """Run the same command again and wait until all is done."""
        done = self.harness(*SLURM, "--wait")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    def logs(self) -> str:
        """Return the output of the workers."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.results.glob("smoke/slurm/*/*.out")))

    def claims(self) -> list[Claim]:
        """Return every claim of every run, in order for each run."""
        units = [unit for unit in self.experiment.claims.units() if not unit.startswith("baseline")]
        return [claim for unit in units for claim in self.experiment.claims.of(unit)]

    def training_on(self, node: str) -> Claim | None:
        """Return the claim of a run on a node that trains after its first point."""
        held = [claim for claim in self.claims() if claim.node == node and not claim.ended]
        return next((claim for claim in held if self.experiment.volumes(claim.unit) == [32]), None)

    def files(self) -> dict[str, tuple[int, str]]:
        """Return time and content hash of every file that must not change once written."""
        kept = [
            path for part in ("runs/*/points/*/*", "measurements/*/*/*") for path in self.experiment.folder.glob(part) if path.is_file()
        ]
        return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in kept}

    def executions(self) -> list[int]:
        """Return, for each run, the number of claims that ended with it done."""
        done = [claim.unit for claim in self.claims() if claim.ended == "done"]
        return [done.count(unit) for unit in sorted(set(done))]


def until(seconds: float, what: str, ask: Callable[[], Found | None]) -> Found:
    """Call ``ask`` until it returns something, and return that.

    Raises AssertionError after ``seconds``.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
