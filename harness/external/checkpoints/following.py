"""A training that follows the file of ``harness watch``: nothing is measured in its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core import json_text
from harness.external.checkpoints.outcome import NOTHING, Outcome, outcome
from harness.external.checkpoints.stopping import Rule, of_numbers
from harness.external.checkpoints.summary_file import VERSION


class Following:
    """The file of a watch, read again each time it has changed since the training began.

    Checkpoints that are in the file already are of an earlier training, or an earlier try.

    Args:
        file: may not exist yet.
        rule: at most one checkpoint is tested each time the file is read.
    """

    def __init__(self, file: Path, rule: Rule) -> None:
        self.file, self.rule = file, rule
        self.seen = self._stamp()
        self.earlier = set(map(_key, self._entries()))
        self.newest = -1

    def measure(self, step: int, model: Any, optimizer: Any, **progress: Any) -> Outcome:
        """Return what the file says of the newest checkpoint up to a step, if that is news."""
        stamp = self._stamp()
        if stamp is None or stamp == self.seen:
            return NOTHING
        self.seen = stamp
        values = self._read()
        if values.get("version") != VERSION:
            return Outcome(values={}, line=f"{self.file}: got version {values.get('version')}; allowed: {VERSION}, of this harness watch")
        own: list[Any] = [one for one in values["checkpoints"] if _key(one) not in self.earlier]
        known = [one for one in own if self.newest < (one["step"] or 0) <= step]
        if not known:
            return NOTHING
        newest = max(known, key=lambda one: one["step"])
        self.newest = newest["step"]
        suites = newest["suites"]
        if unknown := [name for name in self.rule.limits if name not in suites]:
            return Outcome(values={}, line=f"{self.file}: got no {', '.join(unknown)}; allowed: {', '.join(suites)}; fix: stop_at")
        tested = [of_numbers(name, suites[name], limit, self.rule.alpha) for name, limit in self.rule.limits.items()]
        return outcome(f"{newest['checkpoint']}, read at step {step}", suites, tested, newest["seconds"])

    def _read(self) -> Any:
        return json_text.loads(self.file.read_text(encoding="utf-8"))

    def _entries(self) -> list[Any]:
        """Return the checkpoints in the file; none if it cannot be read."""
        try:
            values = self._read()
            return list(values["checkpoints"]) if values["version"] == VERSION else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def _key(entry: Any) -> tuple[str, tuple[str, ...]]:
    """Return what tells a measured checkpoint from another one of its name."""
    return entry["checkpoint"], tuple(entry.get("files", ()))
