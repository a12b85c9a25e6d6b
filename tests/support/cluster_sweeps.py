"""A small sweep on a cluster, and what can be done to it."""

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
"""Four runs of two points, seconds each, and their volume 0; steps of one row, so that there is time to interrupt training. All that
scores may depend on is pinned."""

RUNS = 4

SLURM = [
    "launcher=slurm",
    "launcher.workers=2",
    "launcher.gpus=0",
    "launcher.cpus=1",
    "launcher.memory_gb=null",
    "launcher.hours=1",
]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Cluster:
    """A Slurm whose state lies in a folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """In which commands find it."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def script(self, command: str, *node: str) -> subprocess.CompletedProcess[str]:
        """Run a command of slurm.py."""
        script = Path(__file__).parent.parent / "cluster" / "slurm.py"
        return subprocess.run(
            [sys.executable, script, command, self.folder, *node], capture_output=True, text=True, timeout=300, check=False
        )

    def ask(self, *command: str) -> str:
        """Return what one of Slurm's own commands says."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def job_on(self, node: str) -> str:
        """Return the job that runs on a node."""
        return self.ask("squeue", "--noheader", "--states=running", f"--nodelist={node}", "--format=%i")

    def restarts(self, job: str) -> int:
        """Return how often a job was put back in the queue."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return int(next(word for word in words if word.startswith("Restarts=")).removeprefix("Restarts="))


@dataclass(frozen=True)
class Sweep:
    """The sweep, in a folder of its own."""

    cluster: Cluster
    results: Path

    @property
    def experiment(self) -> Experiment:
        """Its records."""
        return Experiment(self.results / "smoke")

    def harness(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run its command to the end."""
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
        """Return what the workers have said."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.results.glob("smoke/slurm/*/*.out")))

    def claims(self) -> list[Claim]:
        """Return every claim of every run, those of a run in order."""
        units = [unit for unit in self.experiment.claims.units() if not unit.startswith("baseline")]
        return [claim for unit in units for claim in self.experiment.claims.of(unit)]

    def training_on(self, node: str) -> Claim | None:
        """Return the claim of a run that a node is in the middle of: the first point is measured, training goes on to the second."""
        held = [claim for claim in self.claims() if claim.node == node and not claim.ended]
        return next((claim for claim in held if self.experiment.volumes(claim.unit) == [32]), None)

    def files(self) -> dict[str, tuple[int, str]]:
        """Return time and content of every file that, once written, stays as it is."""
        kept = [path for part in ("runs/*/points/*/*", "baselines/*/*") for path in self.experiment.folder.glob(part) if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in kept}

    def executions(self) -> list[int]:
        """Return, for each run, how many claims of it ended with it done."""
        done = [claim.unit for claim in self.claims() if claim.ended == "done"]
        return [done.count(unit) for unit in sorted(set(done))]


def until(seconds: float, what: str, ask: Callable[[], Found | None]) -> Found:
    """Ask again and again until the answer is something, and return it.

    Raises AssertionError when it takes too long.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
