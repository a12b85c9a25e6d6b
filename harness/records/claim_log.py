"""Read and write the files of claims, ``claims/<unit id>/<n>.json`` in an experiment's folder.

``harness.sweep.claims`` interprets them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from harness.config.strict import build
from harness.core import files, json_text
from harness.core.errors import ConfigError
from harness.records.sweep_schema import Claim

_FIELDS = {field.name for field in dataclasses.fields(Claim)}

_NAME = re.compile(r"[1-9][0-9]{0,8}\.json")
"""Names of claims; other files in a unit's folder are ignored."""

LONGEST_LEASE = 3600.0
"""Seconds; a claim with a longer lease is damaged."""

UNREADABLE = "?"
"""Node of a claim that cannot be read."""

DAMAGED_LEASE = 60.0
"""Seconds that a claim which cannot be read is held: its file may be being written."""


@dataclass(frozen=True)
class ClaimLog:
    """The claims of an experiment's units, one file each.

    Attributes:
        folder: the experiment's folder.
    """

    folder: Path

    def last(self, unit: str) -> Claim | None:
        """Return the latest claim of a unit, or None if nobody ever held it."""
        numbers = self._numbers(unit)
        return self._read(unit, numbers[-1]) if numbers else None

    def of(self, unit: str) -> list[Claim]:
        """Return every claim of a unit, oldest first."""
        return [self._read(unit, number) for number in self._numbers(unit)]

    def units(self) -> list[str]:
        """Return the units with a claim, held or ended."""
        folder = self.folder / "claims"
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []

    def has(self, unit: str, number: int) -> bool:
        """Return whether a unit has a claim of this number."""
        return self._path(unit, number).exists()

    def add(self, claim: Claim) -> bool:
        """Write a new claim unless its number exists; return whether this call wrote it.

        Among callers on any hosts, exactly one gets True.
        """
        return files.exclusive(self._path(claim.unit, claim.generation), json.dumps(dataclasses.asdict(claim)))

    def write(self, claim: Claim) -> None:
        """Overwrite a claim: a heartbeat, or its end. Only its owner may call it."""
        path = self._path(claim.unit, claim.generation)
        temporary = files.hidden_name(path)
        try:
            temporary.write_text(json.dumps(dataclasses.asdict(claim)), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def touch(self, claim: Claim) -> None:
        """Renew a claim without writing it: a heartbeat on a full disk, by its owner."""
        os.utime(self._path(claim.unit, claim.generation))

    def beat(self, claim: Claim) -> float | None:
        """Return the time of a claim's last heartbeat, by the clock of the file system.

        None if its file is gone.
        """
        try:
            return self._path(claim.unit, claim.generation).stat().st_mtime
        except OSError:
            return None

    def age(self, claim: Claim) -> float | None:
        """Return the seconds since a claim's last heartbeat; 0 if that is in the future.

        None if its file is gone.
        """
        beat = self.beat(claim)
        return None if beat is None else max(0.0, files.clock(self.folder) - beat)

    def _path(self, unit: str, number: int) -> Path:
        return self.folder / "claims" / unit / f"{number}.json"

    def _numbers(self, unit: str) -> list[int]:
        try:
            return sorted(int(entry.name[:-5]) for entry in os.scandir(self.folder / "claims" / unit) if _NAME.fullmatch(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _read(self, unit: str, number: int) -> Claim:
        """Read a claim; an unreadable one counts as held, by the process that writes it."""
        try:
            values = json_text.loads(self._path(unit, number).read_bytes())
            found: Claim = build(
                Claim, {key: value for key, value in values.items() if key in _FIELDS} | {"unit": unit, "generation": number}, ""
            )
            if _is_valid(found):
                return found
        except (OSError, ValueError, AttributeError, OverflowError, ConfigError):
            pass
        return Claim(
            unit=unit, generation=number, sweep="", host="", boot="", pid=0, started=0.0, node=UNREADABLE, lease=DAMAGED_LEASE, taken=""
        )


def _is_valid(claim: Claim) -> bool:
    """Return whether the numbers of a claim are possible."""
    numbers = claim.lease, claim.started, claim.cpu_seconds, claim.wall_seconds, claim.memory_bytes, claim.gpus, claim.finished, claim.total
    return claim.lease <= LONGEST_LEASE and 0 <= claim.pid < 2**31 and all(0 <= number < math.inf for number in numbers)
