"""A Slurm of two nodes for these tests, or the reason for its absence."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import UNAVAILABLE
from tests.support.cluster_sweeps import Cluster, Sweep
from tests.support.storm import contents


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, node1 and node2, that run one job each."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has at most 107 characters
    here = Cluster(folder)
    try:
        started = here.script("up")
        if started.returncode == UNAVAILABLE:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield here
    finally:
        here.script("down")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sweep(cluster: Cluster, tmp_path: Path) -> Iterator[Sweep]:
    """The sweep before it starts, with an empty queue and both nodes up."""
    found = Sweep(cluster, tmp_path / "results")
    yield found
    cluster.ask("scancel", "--user=root")
    for node in ("node1", "node2"):
        if "down" in cluster.ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T"):
            assert cluster.script("revive-node", node).returncode == 0


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The results of the sweep on this machine, without Slurm."""
    found = Sweep(cluster, tmp_path_factory.mktemp("undisturbed") / "results")
    done = found.harness("launcher=local")
    assert done.returncode == 0, done.stderr
    return contents(found.results)
