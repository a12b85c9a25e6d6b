"""Files and folders written whole or not at all, also on shared storage.

Each is written under a hidden name next to its place and renamed into it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import importlib.util
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from harness.core.space import held

WAIT = 0.25
"""Seconds between two tries to get a lock."""

RENAMES = 5
"""Attempts to rename a folder into place while others rename theirs there."""


def clock(folder: Path) -> float:
    """Return the time of a folder's file system, in seconds since the epoch.

    By it, hosts agree on the age of files. Its offset from this machine's clock is measured once a
    minute; where it cannot be measured, the machine's clock is used.
    """
    return time.time() + _offset(folder, int(time.monotonic() // 60))


def size_text(size: float) -> str:
    """Return a number of bytes in words, such as 469 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@held
def write_text(path: Path, text: str) -> None:
    """Write a text and a final newline to a file, flushed before the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden_name(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@functools.lru_cache(maxsize=8)
def _offset(folder: Path, minute: int) -> float:  # noqa: ARG001 - part of the cache's key: a measurement per minute
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as probe:
            probe.write(b"x")
            probe.flush()
            return os.fstat(probe.fileno()).st_mtime - time.time()
    except OSError:
        return 0.0


@held
def exclusive(path: Path, text: str) -> bool:
    """Create a file with its whole text unless it exists; return whether it was created.

    One caller wins, also between hosts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden_name(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        return temporary.stat().st_nlink == 2  # a network file system may report this call's own file when it retries
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        return _exclusive_without_links(path, text)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _exclusive_without_links(path: Path, text: str) -> bool:
    """Do the same without hard links: the text comes just after the file."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def rename_folder(temporary: Path, folder: Path, *, over: bool = True) -> None:
    """Rename a folder into place, its safetensors files with the mode of new files.

    A folder that is there is moved away first if ``over``, else it stays and the new one is
    dropped.
    """
    _follow_umask(temporary)
    for _ in range(RENAMES):
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            if not over:
                return
            old = hidden_name(folder)
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        else:
            return


def _follow_umask(folder: Path) -> None:
    """Give safetensors files the mode of a new file: their library makes them the owner's alone."""
    found = [path for path in folder.rglob("*.safetensors") if path.is_file()]
    probe = hidden_name(folder / "mode")
    with contextlib.suppress(OSError):  # of a file system without modes, or a full one
        if found:
            probe.touch(exist_ok=False)
        for path in found:
            path.chmod(stat.S_IMODE(probe.stat().st_mode))
    probe.unlink(missing_ok=True)


def hidden_name(path: Path) -> Path:
    """Return a hidden path in the same folder, unique across processes and hosts."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def clear_hidden(folder: Path, of: str = "", older_than: float = 0.0) -> None:
    """Remove half-written files and folders that killed processes left in a folder.

    Args:
        folder: may be absent.
        of: restricts it to those that were to get this name.
        older_than: restricts it to those unchanged for this many seconds.
    """
    for path in folder.glob(f".{of}*") if folder.is_dir() else []:
        with contextlib.suppress(OSError):
            if clock(folder) - path.stat().st_mtime < older_than:
                continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


_BUSY: dict[Path, TextIO] = {}
"""Folder → the file by which this process says that it writes there, until it ends."""


def say_busy(folder: Path) -> None:
    """Say that this process writes into a folder until it ends; nothing where locks fail."""
    folder = folder.resolve()
    if folder in _BUSY:
        return
    file = folder / f".busy-{os.getpid()}-{secrets.token_hex(3)}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _BUSY[folder] = file.open("w")
        atexit.register(_end, file, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _end(file: Path, handle: TextIO) -> None:
    file.unlink(missing_ok=True)
    handle.close()


def busy(folder: Path) -> list[int]:
    """Return the other processes that write into a folder; files of dead ones are removed."""
    found = []
    for file in sorted(folder.glob(".busy-*-*")):
        pid = int(file.name.split("-")[1])
        with contextlib.suppress(FileNotFoundError), file.open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                found += [pid] if pid != os.getpid() else []
                continue
            file.unlink(missing_ok=True)
    return found


@contextlib.contextmanager
def locked(file: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock that the system releases when its process ends.

    A file system without locks is used without one.

    Args:
        file: that the lock is on.
        waiting: called each time the lock is found taken; an error that it raises ends the wait.

    Raises:
        OSError: where the file cannot be written.
    """

    def cancelled() -> bool:
        if waiting is not None:
            waiting()
        return False

    if importlib.util.find_spec("filelock") is None:  # an installation that only reads
        yield
        return
    from filelock import FileLock

    file.touch()  # it fails in a folder that cannot be written; from here on, an OSError means that there are no locks
    lock = FileLock(file, poll_interval=WAIT, fallback_to_soft=False)
    with contextlib.suppress(OSError):
        lock.acquire(cancel_check=cancelled)
    try:
        yield
    finally:
        lock.release()
