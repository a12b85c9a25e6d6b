"""A sweep carried by Ray through Hydra's launcher: `make test-ray`, in its own environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.records.store import Experiment

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs the extra `ray`: make test-ray")


ASKED = ["experiment=smoke", "model=nursery-smoke-a", "seed=0", "data.volumes=[32]"]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: a socket's has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_ray_carries_a_sweep(short: Path) -> None:
    """Hydra's multirun plans the sweep, Ray runs one job per unit, records are as usual."""
    ray = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"]
    command = [
        sys.executable,
        "-m",
        "harness.cli.hydra_app",
        "-m",
        *ray,
        "experiment=smoke",
        "model=nursery-smoke-a",
        "seed=0",
        "data.volumes=[32]",
    ]
    quiet = {"RAY_TMPDIR": str(short), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, cwd=short, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    experiment = Experiment(short / "results" / "smoke")
    records = [experiment.record(run_id) for run_id in experiment.run_ids()]
    assert [record.volumes for record in records if record] == [(32,), (32,)]
    assert "2 run(s) done, 0 already done, 0 failed" in done.stderr
