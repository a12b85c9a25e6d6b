"""Generated rows in the cache: read back, added to, damaged, locked."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.contexts import GeneratedRow
from harness.core.errors import DataError
from harness.core.progress import Interrupted, Silent
from harness.core.rows import Row, Turn
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
with store.exclusive():
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
    with store.exclusive():
        store.add(KEPT)
    return store


def test_stored_rows_are_read_back() -> None:
    """Row, texts and numbers are equal; another recipe has no rows."""
    assert filled().read() == KEPT
    assert Store({"method": "x"}).read() == KEPT
    assert Store({"method": "y"}).read() == {}


def test_a_text_without_its_end_is_read_back_as_one() -> None:
    """Otherwise a run that resumes would learn an end that the first one did not."""
    store, cut = Store({"method": "x"}), Row((Turn("text", "cut"),), "text", (0, -1))
    with store.exclusive():
        store.add({"c": GeneratedRow(cut, accepted=True, how="text", generated_tokens=1)})
    assert [one.row for one in store.read().values()] == [cut]


def test_damaged_lines_are_left_out_and_the_others_kept() -> None:
    """A line that was cut, one that is not JSON, wrong types, missing and further fields, no end.

    Rows can be added behind them; the damaged lines are dropped, and that is said once.
    """
    store = filled()
    file = store.folder / "rows.jsonl"
    first, second = file.read_text().splitlines()
    broken = [
        "no json",
        second.replace('"none"', "5"),
        '{"id": "d"}',
        "[]",
        "[" * 100_000,
        second.replace("{", '{"x": 1, ', 1),
        second[:20],
    ]
    file.write_text("\n".join([first, *broken]))
    assert store.read() == {"a": KEPT["a"]}
    progress = Said()
    with store.exclusive(progress):
        store.add({"b": KEPT["b"]})
    assert store.read() == KEPT
    assert progress.said == [f"generated rows {file}: 7 damaged or cut off, to be generated again where they are needed"]
    with store.exclusive(progress):
        assert file.read_text().splitlines() == [first, second]
    assert len(progress.said) == 1


class Said(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(
    ("text", "other"), [("ü\\n", "u\\n"), ('"own"', '"0wn"'), (": 3,", ": 5,"), ("true", "false"), ('"a"', '"c"'), ("0.25", "0.75")]
)
def test_a_line_that_reads_well_but_was_changed_is_damaged(text: str, other: str) -> None:
    """One character of a text or number, as a bad disk or an editor changes it."""
    store = filled()
    file = store.folder / "rows.jsonl"
    assert text in file.read_text()
    file.write_text(file.read_text().replace(text, other, 1))
    assert store.read() == {"b": KEPT["b"]}


def test_lines_of_before_have_no_hash() -> None:
    """They are read as they are."""
    store = filled()
    file = store.folder / "rows.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({key: value for key, value in line.items() if key != "sha256"}) + "\n" for line in lines))
    assert store.read() == KEPT


def test_the_first_of_two_entries_counts() -> None:
    """A run reads the same rows again."""
    store = filled()
    with store.exclusive():
        store.add({"a": KEPT["b"]})
    assert store.read() == KEPT


def test_while_one_process_adds_rows_another_waits() -> None:
    """The lock is held until the other process is done; its rows follow."""
    store = filled()
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None  # noqa: PT018
        assert child.stdout.readline() == "in\n"
        with (store.folder / "lock").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.stdin.close()
        with store.exclusive():
            assert set(store.read()) == {"a", "b", "c"}
    assert child.returncode == 0


def test_waiting_is_a_stage_that_can_be_interrupted() -> None:
    """The wait ends when the lock is released; without a wait, no stage begins."""
    store, progress = filled(), Waits()
    with (store.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Interrupted), store.exclusive(progress):
            pytest.fail("the lock is held")
        assert progress.stages == ["wait for rows that another process generates"]
        progress.releases = lock.fileno()
        with store.exclusive(progress):
            assert (len(progress.stages), progress.asked) == (2, 4)
    with store.exclusive(progress):
        assert len(progress.stages) == 2


class Waits(Silent):
    """Raises Interrupted at the second try; at the fourth, releases a lock."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.asked, self.releases = 0, -1

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def advance(self, units: int = 1) -> None:
        assert units == 0
        self.asked += 1
        if self.asked == 2:
            raise Interrupted
        if self.asked == 4:
            fcntl.flock(self.releases, fcntl.LOCK_UN)


def test_a_cache_that_cannot_be_written_is_reported_with_the_fix(cache: Path) -> None:
    """The message names HARNESS_CACHE."""
    (cache / "written").write_text("")
    with pytest.raises(DataError, match="fix: set HARNESS_CACHE to a folder that can be written"), Store({}).exclusive():
        pass
