"""One real smoke sweep through the command line, shared by the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Cli:
    """Runs the harness command in a folder of its own."""

    folder: Path

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run one command and assert its exit code."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "harness", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, f"{arguments} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


SWEEP = ("sweep", "experiment=smoke", "model=nursery-smoke-a,nursery-smoke-b", "seed=0", "data.volumes=[64]")
"""A part of the experiment, on the models that tests pretrain."""


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command in an empty folder."""
    return Cli(tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="session")
def swept(cli: Cli) -> subprocess.CompletedProcess[str]:
    """The sweep, run once."""
    return cli(*SWEEP)
