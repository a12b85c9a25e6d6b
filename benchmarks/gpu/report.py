"""Results of a section, on disk after each check."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RUNNING, PASSED, FAILED, NO_CUDA = "running", "passed", "failed", "skipped: no CUDA"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a section works with.

    Attributes:
        work: folder for its files, deleted afterwards.
        tiny: whether sizes are those for a CPU in seconds.
        device: ``cuda`` or ``cpu``.
    """

    work: Path
    tiny: bool
    device: str

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"


class Report:
    """Checks and measurements of a section; every one is written at once."""

    def __init__(self, file: Path, section: str) -> None:
        """Begin a section."""
        self.file, self.began = file, time.perf_counter()
        self.content: dict[str, Any] = {"section": section, "status": RUNNING, "seconds": 0.0, "facts": {}, "checks": [], "measured": []}
        self._write()

    def at_most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """Record a number that has to be at most a limit; nan fails."""
        self._check(name, value <= limit, value=value, limit=limit, unit=unit, rule="at most")

    def at_least(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """Record a number that has to be at least a limit; nan fails."""
        self._check(name, value >= limit, value=value, limit=limit, unit=unit, rule="at least")

    def holds(self, name: str, passed: bool, got: str = "") -> None:
        """Record a condition, and what was found."""
        self._check(name, passed, got=got)

    def skip(self, name: str, why: str = "no CUDA") -> None:
        """Record a check that cannot be made here."""
        self.content["checks"].append({"name": name, "passed": None, "got": f"skipped: {why}"})
        self._write()

    def measured(self, name: str, **numbers: float | str) -> None:
        """Record numbers without a condition."""
        self.content["measured"].append({"name": name, **numbers})
        self._write()

    def facts(self, **facts: Any) -> None:
        """Record the circumstances."""
        self.content["facts"] |= facts
        self._write()

    def end(self, status: str = "") -> None:
        """Record how the section ended; by default its checks decide.

        A section without a single check that was made is not passed.
        """
        made = [check["passed"] for check in self.content["checks"] if check["passed"] is not None]
        by_checks = FAILED if not all(made) else PASSED if made else NO_CUDA if self.content["checks"] else "failed: no check was made"
        self.content["status"] = status or by_checks
        self._write()

    def _check(self, name: str, passed: bool, **found: Any) -> None:
        self.content["checks"].append({"name": name, "passed": bool(passed), **found})
        self._write()

    def _write(self) -> None:
        self.content["seconds"] = round(time.perf_counter() - self.began, 1)
        write(self.file, self.content)


def write(file: Path, content: dict[str, Any]) -> None:
    """Write a section's results, so that a reader sees the old ones or the new ones."""
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(_finite(content), indent=1) + "\n", encoding="utf-8")
    beside.replace(file)


def read(file: Path) -> dict[str, Any] | None:
    """Return a section's results; None without any."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return what results depend on: sizes and device."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(plan).items() if name != "work"}


def _finite(value: Any) -> Any:
    """Return a value with nan and infinity as text, which JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
