"""What was written is kept: read again as it was, added to, and found damaged where it is."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.contexts import GeneratedRow
from harness.core.errors import DataError
from harness.core.progress import Interrupted, Silent
from harness.run.generated.store import Store
from tests.support.scripted import row

KEPT = {
    "a": GeneratedRow(row("q ü\n", "1"), accepted=True, how="own", generated_tokens=3, edit_rate=0.25, tried=("1", "ü\n2")),
    "b": GeneratedRow(None, accepted=False, how="none", generated_tokens=7),
}

CHILD = """
import sys
from harness.core.contexts import GeneratedRow
from harness.run.generated.store import Store
store = Store({"method": "x"})
with store.writing():
    print("in", flush=True)
    sys.stdin.read()
    store.add({"c": GeneratedRow(None, accepted=False, how="none", generated_tokens=1)})
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    return tmp_path


def filled() -> Store:
    store = Store({"method": "x"})
    with store.writing():
        store.add(KEPT)
    return store


def test_what_is_kept_is_read_again() -> None:
    """Row, texts and numbers; another recipe has nothing of it."""
    assert filled().read() == KEPT
    assert Store({"method": "x"}).read() == KEPT
    assert Store({"method": "y"}).read() == {}


def test_a_damaged_line_is_work_to_do_and_the_others_stand() -> None:
    """A line cut by a killed process, one that is no JSON, wrong types, a missing field.

    More can be added behind them.
    """
    store = filled()
    file = store.folder / "rows.jsonl"
    first, second = file.read_text().splitlines()
    broken = [second[:20], "no json", second.replace('"none"', "5"), '{"id": "d"}', "[]"]
    file.write_text("\n".join([first, *broken]))
    assert store.read() == {"a": KEPT["a"]}
    with store.writing():
        store.add({"b": KEPT["b"]})
    assert store.read() == KEPT


def test_the_first_of_two_entries_counts() -> None:
    """So what a run has read once stays as it was."""
    store = filled()
    with store.writing():
        store.add({"a": KEPT["b"]})
    assert store.read() == KEPT


def test_while_one_process_writes_another_waits() -> None:
    """The lock is held by the other process until it is done; then what it wrote is there."""
    store = filled()
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None  # noqa: PT018
        assert child.stdout.readline() == "in\n"
        with (store.folder / "lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.stdin.close()
        with store.writing():
            assert set(store.read()) == {"a", "b", "c"}
    assert child.returncode == 0


def test_waiting_is_a_stage_that_can_be_interrupted() -> None:
    """While another has the lock.

    Once it is given back, the wait is over, and nothing is said where there is none.
    """
    store, told = filled(), Waits()
    with (store.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Interrupted), store.writing(told):
            pytest.fail("the lock is held")
        assert told.stages == ["wait for rows that another process writes"]
        told.gives_back = lock.fileno()
        with store.writing(told):
            assert (len(told.stages), told.asked) == (2, 4)
    with store.writing(told):
        assert len(told.stages) == 2


class Waits(Silent):
    """Raises Interrupted at the second try.

    Later gives the lock back there, where it is told which.
    """

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.asked, self.gives_back = 0, -1

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def advance(self, units: int = 1) -> None:
        assert units == 0
        self.asked += 1
        if self.asked == 2:
            raise Interrupted
        if self.asked == 4:
            fcntl.flock(self.gives_back, fcntl.LOCK_UN)


def test_a_cache_that_cannot_be_written_is_said_in_one_line(cache: Path) -> None:
    """With the way out."""
    (cache / "written").write_text("")
    with pytest.raises(DataError, match="fix: set HARNESS_CACHE to a folder that can be written"), Store({}).writing():
        pass
