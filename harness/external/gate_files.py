"""Files of a gate for other programs: JUnit XML, and a Markdown summary."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import ConfigError, explain
from harness.external import junit, markdown
from harness.external.gate import Gate
from harness.external.judge import Comparison


@dataclass(frozen=True, kw_only=True)
class GateFiles:
    """The files that a command is to write.

    Attributes:
        junit: JUnit XML, replaced if it exists; None for none.
        summary: a Markdown summary, appended if it exists; None for none.
    """

    junit: Path | None = None
    summary: Path | None = None

    def check(self, command: str) -> None:
        """Reject files that cannot be written, before anything is measured.

        Args:
            command: the command that writes them.

        Raises:
            ConfigError: for a folder, and a file without write permission.
        """
        for option, file in {"--junit": self.junit, "--summary": self.summary}.items():
            if file is not None:
                _require_writable(f"{command}: {option} {file}", file)

    def write(self, comparison: Comparison, gate: Gate | None) -> None:
        """Write the files, whatever the gate has decided."""
        if self.junit is not None:
            junit.write(comparison, gate, self.junit)
        if self.summary is not None:
            markdown.append(comparison, gate, self.summary)


def _require_writable(where: str, file: Path) -> None:
    """Raise ConfigError for a file that cannot be written."""
    existing = next(place for place in (file.absolute(), *file.absolute().parents) if os.path.lexists(place))
    is_above = existing != file.absolute()
    got = ""
    if existing.is_dir() is not is_above:
        got = "a directory" if existing.is_dir() else f"{existing}, which is not a directory"
    elif not is_above and not existing.is_file():
        got = "a device, pipe or broken link"
    elif not os.access(existing, os.W_OK | (os.X_OK if is_above else 0)):
        got = f"{existing} without write permission"
    if got:
        raise ConfigError(explain(where, got=got, allowed="a file that can be written", fix="choose another name"))
