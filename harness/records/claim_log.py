"""Read and write the files of claims, ``claims/<unit id>/<n>.json`` in an experiment's folder.

``harness.sweep.claims`` interprets them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from harness.core import files, json_text
from harness.records.sweep_schema import Claim

_FIELDS = {field.name for field in dataclasses.fields(Claim)}


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
        return sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []

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

    def age(self, claim: Claim) -> float | None:
        """Return the seconds since a claim's last heartbeat, by the clock of the file system.

        None if its file is gone.
        """
        try:
            beat = self._path(claim.unit, claim.generation).stat().st_mtime
        except OSError:
            return None
        return files.clock(self.folder) - beat

    def _path(self, unit: str, number: int) -> Path:
        return self.folder / "claims" / unit / f"{number}.json"

    def _numbers(self, unit: str) -> list[int]:
        try:
            return sorted(int(entry.name[:-5]) for entry in os.scandir(self.folder / "claims" / unit) if entry.name[0] != ".")
        except FileNotFoundError:
            return []

    def _read(self, unit: str, number: int) -> Claim:
        """Read a claim; an unreadable one counts as held, by the process that writes it."""
        try:
            values = json_text.loads(self._path(unit, number).read_bytes())
            return Claim(**{key: value for key, value in values.items() if key in _FIELDS})
        except (OSError, ValueError, TypeError):
            return Claim(unit=unit, generation=number, sweep="", host="", boot="", pid=0, started=0.0, node="?", lease=60.0, taken="")
