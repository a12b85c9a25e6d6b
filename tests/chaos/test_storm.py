"""A sweep that is killed repeatedly ends with the records of an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.analysis import verify
from harness.config import paths
from harness.records.store import Experiment
from tests.support.storm import BASELINES, FULL, POINTS, RUNS, Storm, Sweep, contents, leftovers

KILLS = int(os.environ.get("HARNESS_TEST_KILLS", "30"))
SEED = int(os.environ.get("HARNESS_TEST_SEED", time.time_ns() % 1_000_000))
MINUTES = 12.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of the sweep if nothing disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = Sweep(folder / "results", folder / "log.txt")
    assert sweep.finish() == 0, (folder / "log.txt").read_text()[-3000:]
    found = contents(folder / "results")
    assert sum(name.endswith("record.json") for name in found) == RUNS
    assert sum(name.endswith("point.json") for name in found) == POINTS
    assert sum(name.endswith("measurement.json") for name in found) == 2 * POINTS + BASELINES
    return found


def check(results: Path, undisturbed: dict[str, Any]) -> None:
    """Compare results file by file, so that a failure names the difference."""
    found = contents(results)
    assert sorted(found) == sorted(undisturbed)
    assert [difference(name, found[name], undisturbed[name]) for name in found if found[name] != undisturbed[name]] == []
    assert leftovers(results) == []
    lines = [str(error) for error in verify.errors(Experiment(results / "smoke"))]
    assert [line for line in lines if "/state/" not in line] == []  # the last checkpoint of a finished run may be one that was damaged


def difference(name: str, ours: Any, theirs: Any) -> str:
    """Return the differences between two records."""
    if not isinstance(ours, dict):
        return f"{name}: {ours} and {theirs}"
    return "; ".join(f"{name}: {key}: {ours.get(key)} and {theirs.get(key)}" for key in theirs if ours.get(key) != theirs.get(key))


def told(storm: Storm, began: float, log: Path) -> None:
    """Print the kills of a storm (shown by -rA or -s)."""
    took = time.monotonic() - began
    sys.stdout.write(f"\nseed {storm.seed}: {storm.kills}, workers outlived a coordinator by at most {storm.slowest:.2f} s, {took:.0f} s\n")
    sys.stdout.write(log.read_text()[-600:])


def test_a_storm_of_kills(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Workers and the coordinator are killed at random moments; the same command then finishes.

    Points are measured from checkpoints, in the undisturbed sweep while training waits.
    """
    began, storm = time.monotonic(), Storm(SEED)
    sweep = Sweep(tmp_path / "results", tmp_path / "log.txt", where="separate")
    storm.rage([sweep], KILLS, began + 60 * MINUTES)
    assert finish(sweep) == 0, sweep.log.read_text()[-3000:]
    told(storm, began, sweep.log)
    assert storm.kills["coordinator"] >= 1
    check(sweep.results, undisturbed)


def test_no_space_for_a_while(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """The disk is full at times while workers are killed; nothing fails or is lost."""
    began, storm, flag = time.monotonic(), Storm(SEED + 1), tmp_path / "full"
    path = os.pathsep.join([str(FULL), *filter(None, [os.environ.get("PYTHONPATH")])])
    sweep = Sweep(tmp_path / "results", tmp_path / "log.txt", {"PYTHONPATH": path, "HARNESS_TEST_FULL": str(flag)}, where="separate")
    with filling(flag, sweep.results / "smoke"):
        storm.rage([sweep], max(KILLS // 3, 2), began + 60 * MINUTES)
    assert finish(sweep) == 0, sweep.log.read_text()[-3000:]
    told(storm, began, sweep.log)
    assert "waiting for space" in sweep.log.read_text()
    check(sweep.results, undisturbed)


def test_other_faults(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Stopped workers, killed fork servers, damaged files and clocks that jump cost time only."""
    began, storm = time.monotonic(), Storm(SEED + 3, strange=True)
    cache = tmp_path / "cache"
    shutil.copytree(paths.cache(), cache)
    sweep = Sweep(tmp_path / "results", tmp_path / "log.txt", {"HARNESS_CACHE": str(cache)})
    storm.rage([sweep], max(KILLS // 2, 6), began + 60 * MINUTES)
    assert finish(sweep) == 0, sweep.log.read_text()[-3000:]
    told(storm, began, sweep.log)
    assert "Traceback" not in sweep.log.read_text()
    check(sweep.results, undisturbed)


def test_two_coordinators_at_once(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Both are killed at times; each point is recorded once, and both commands succeed."""
    began, storm = time.monotonic(), Storm(SEED + 2)
    pair = [Sweep(tmp_path / "results", tmp_path / f"log{number}.txt") for number in (1, 2)]
    storm.rage(pair, max(KILLS // 3, 2), began + 60 * MINUTES)
    for sweep in pair:
        if sweep.process is None or sweep.process.poll() is not None:
            sweep.start()
    assert [finish(sweep) for sweep in pair] == [0, 0], "".join(sweep.log.read_text()[-2000:] for sweep in pair)
    told(storm, began, pair[0].log)
    check(pair[0].results, undisturbed)


def finish(sweep: Sweep) -> int:
    """Wait for a sweep to end.

    A run that by chance died three times at one place is failed; the same command tries it again.
    """
    for _ in range(3):
        if (code := sweep.finish()) == 0:
            return code
        failures = [json.loads(path.read_text())["reason"] for path in sweep.results.glob("smoke/runs/*/failure.json")]
        assert all(reason.startswith("died 3 times") for reason in failures), failures
    return code


class filling:
    """A context that fills the disk for two seconds at a time."""

    def __init__(self, flag: Path, something: Path) -> None:
        self.flag, self.something, self.stop = flag, something, threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self._fill)
        self.thread.start()

    def _fill(self) -> None:
        while not self.stop.wait(1.5):
            if self.something.exists():
                self.flag.touch()
                self.stop.wait(2.0)
                self.flag.unlink()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
