"""Files that are never half there."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.core import files
from harness.core.progress import Interrupted


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_of_many_makes_an_exclusive_file(tmp_path: Path) -> None:
    """Each thread has its own text; the file holds the whole text of the one that was told so."""
    place, barrier, made = tmp_path / "place", threading.Barrier(8), []

    def make(text: str) -> None:
        barrier.wait()
        if files.exclusive(place, text):
            made.append(text)

    threads = [threading.Thread(target=make, args=(str(number) * 100,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [place.read_text()]
    assert names(tmp_path) == ["place"]


def test_exclusive_files_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that refuse links still give a file to one maker only."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert files.exclusive(tmp_path / "place", "first")
    assert not files.exclusive(tmp_path / "place", "second")
    assert (tmp_path / "place").read_text() == "first"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old text stands and nothing new lies beside it."""
    files.write_text(tmp_path / "place", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "place", "new")
    assert (tmp_path / "place").read_text() == "old\n"
    assert names(tmp_path) == ["place"]


def folder_of(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_a_folder_takes_the_place_of_another_or_leaves_it(tmp_path: Path) -> None:
    """Over: the new one stands alone. Not over: the first stays, whole."""
    place = folder_of(tmp_path / "place", "first")
    (place / "more").write_text("more")
    files.rename_folder(folder_of(tmp_path / "a", "second"), place, over=False)
    assert names(place) == ["file", "more"]
    files.rename_folder(folder_of(tmp_path / "b", "third"), place)
    assert names(place) == ["file"]
    assert (place / "file").read_text() == "third"


def test_one_thread_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    """The others wait, and their callback is called until they have the lock."""
    inside, most, waited = [], [], []

    def hold() -> None:
        with files.locked(tmp_path / "lock", lambda: waited.append(1)):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert waited


def test_a_wait_for_a_lock_can_be_interrupted(tmp_path: Path) -> None:
    """An error of the callback ends the wait; the lock stays with its holder."""

    def interrupt() -> None:
        raise Interrupted

    def wait() -> None:
        with pytest.raises(Interrupted), files.locked(tmp_path / "lock", interrupt):
            pytest.fail("the lock is held")

    with files.locked(tmp_path / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    """Also where it was killed inside the block."""
    script = f"""
from pathlib import Path
from harness.core.files import locked
with locked(Path({str(tmp_path / "lock")!r})):
    print("in", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in\n"
        child.kill()
    with files.locked(tmp_path / "lock", lambda: pytest.fail("nobody holds it")):
        pass


def test_a_file_system_without_locks_is_used_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But a file that cannot be written is an error."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.locked(tmp_path / "lock"):
        assert names(tmp_path) == ["lock"]
    with pytest.raises(OSError, match="No such file"), files.locked(tmp_path / "absent" / "lock"):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_weights_have_the_mode_of_new_files(tmp_path: Path, umask: int) -> None:
    """Their library makes them for the owner alone; another file keeps its mode."""
    before = os.umask(umask)
    try:
        folder = folder_of(tmp_path / "temporary", "text")
        (folder / "inside").mkdir()
        (folder / "inside" / "weights.safetensors").touch(mode=0o600)
        (folder / "private").touch(mode=0o600)
        files.rename_folder(folder, tmp_path / "place")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "place").rglob("*") if path.is_file()}
    assert found == {"file": 0o666 & ~umask, "weights.safetensors": 0o666 & ~umask, "private": 0o600}
