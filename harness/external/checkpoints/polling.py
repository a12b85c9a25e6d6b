"""A trainer's output folder over time: complete checkpoints, reasons of others, and the end.

It is polled, since no notification arrives from another host. Nothing is written into the folder,
and no file of it stays open.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.errors import explain
from harness.external.checkpoints import finding, states
from harness.external.checkpoints.finding import Signature
from harness.external.checkpoints.states import STATE
from harness.models.weights import numbered

LONGER = 6
"""Pauses without a change before a checkpoint without trainer_state.json counts as complete."""

DELETED = "deleted before it was measured"


def unsettled(folder: Path) -> str | None:
    """Return why a checkpoint may still be written, as a line for users; None if it is complete.

    Beyond what ``finding.lacks`` says: its trainer_state.json, which is written last, must be of
    its step and not older than its weights. An older one is of an earlier training, whose
    checkpoint is overwritten in place.
    """
    if reason := finding.lacks(folder):
        return reason
    found, allowed = states.read(folder), "the state of this checkpoint, written after its weights"
    try:
        written = (folder / STATE).stat().st_mtime_ns
        weights = max(path.stat().st_mtime_ns for path in folder.glob("*.safetensors"))
    except (OSError, ValueError):
        return finding.lacks(folder)
    number = finding.number_of(folder)
    if found is None or found.step == number:
        if written >= weights:
            return None
        got = "a file that is older than the weights next to it"
    else:
        got = f"the state of step {found.step}"
    return explain(str(folder / STATE), got=got, allowed=allowed, fix=f"wait until it is saved; a copy: harness measure BASE {folder}")


@dataclass
class Polled:
    """Record of the polls of an output folder.

    Attributes:
        output: the folder, which may not exist yet.
        pause: seconds that a checkpoint must be unchanged to be complete.
        taken: name of a checkpoint → signature that was measured, or failed.
        waiting: name → why a checkpoint is not measured yet, or never was.
        changed: time of the last change that was seen, also of logs.
        polled: time of the last poll.
    """

    output: Path
    pause: float
    taken: dict[str, Signature] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    changed: float = 0.0
    polled: float = -math.inf
    _seen: dict[str, tuple[Signature, float]] = field(default_factory=dict)
    _logs: tuple[object, ...] = ()
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextlib.contextmanager
    def polling(self) -> Iterator[None]:
        """Poll every pause, in a thread, until the block ends."""
        end = threading.Event()

        def poll() -> None:
            while not end.wait(self.pause):
                self.poll(time.monotonic())

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def poll(self, now: float) -> None:
        """Look at every checkpoint. ``now`` is in seconds, on any clock that only grows."""
        with self._lock:
            if (logs := tuple(_logs(self.output))) != self._logs or self.polled < 0:
                self._logs, self.changed = logs, now
            self.polled, found = now, {}
            for folder in self._folders():
                try:
                    found[folder.name] = finding.signature(folder)
                except OSError:  # deleted meanwhile
                    continue
            for name, signature in found.items():
                if self._seen.get(name, (None,))[0] != signature:
                    self._seen[name], self.changed = (signature, now), now
            for name in [name for name in self._seen if name not in found]:
                if not self._is_taken(name, self._seen.pop(name)[0]):
                    self.waiting[name] = DELETED

    def ready(self) -> dict[Path, Signature]:
        """Return the complete checkpoints that are not taken, the newest first."""
        with self._lock:
            newest = sorted(self._seen, key=self._time, reverse=True)
            return {self.output / name: self._seen[name][0] for name in newest if self._is_ready(name)}

    def take(self, folder: Path, signature: Signature) -> None:
        """Mark a checkpoint as measured, or failed, with its signature from ``ready``."""
        with self._lock:
            self.waiting.pop(folder.name, None)
            self.taken[folder.name] = signature

    def is_over(self) -> bool:
        """Return whether the newest checkpoint says that the training ended, and none is awaited.

        A checkpoint that stays incomplete is awaited for as long as one without a state.
        """
        with self._lock:
            folders = self._folders()
            last = max(folders, key=lambda folder: (self._time(folder.name), finding.number_of(folder)), default=None)
            state = states.read(last) if last is not None else None
            return state is not None and state.is_finished and all(self._is_settled(folder.name) for folder in folders)

    def _time(self, name: str) -> int:
        """Return when the newest file of a checkpoint changed, in ns; 0 if it was never seen."""
        return max((one[2] for one in self._seen.get(name, ((), 0))[0]), default=0)

    def _folders(self) -> list[Path]:
        try:
            return numbered(self.output)
        except OSError:  # not there yet, or not now
            return []

    def _is_ready(self, name: str) -> bool:
        signature, since = self._seen[name]
        if self._is_taken(name, signature):
            return False
        if reason := unsettled(self.output / name):
            self.waiting[name] = reason
            return False
        has_state = any(one[0] == STATE for one in signature)
        self.waiting[name] = "not measured yet"
        return self._age(since) >= self.pause * (1 if has_state else LONGER)

    def _is_settled(self, name: str) -> bool:
        if name not in self._seen:
            return False
        signature, since = self._seen[name]
        return self._is_taken(name, signature) or (self._age(since) >= self.pause * LONGER and unsettled(self.output / name) is not None)

    def _is_taken(self, name: str, signature: Signature) -> bool:
        """Return whether a checkpoint is taken; one that is being deleted has fewer files."""
        return name in self.taken and set(signature) <= set(self.taken[name])

    def _age(self, since: float) -> float:
        return self.polled - since


def _logs(output: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of change of the files that a training appends to."""
    for pattern in ("*", "runs/*", "runs/*/*"):
        try:
            found = [(str(path), path.stat()) for path in sorted(output.glob(pattern)) if path.is_file()]
        except OSError:  # deleted meanwhile
            continue
        yield from ((name, one.st_size, one.st_mtime_ns) for name, one in found)
