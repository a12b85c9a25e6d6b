"""What models wrote, kept in the cache by everything that decides it: a folder a recipe, in it one JSON line a row.

A larger volume adds lines. Of two processes that want the same, one writes and the other waits. A
line that cannot be read is work to do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import paths
from harness.core.contexts import GeneratedRow
from harness.core.errors import DataError, explain
from harness.core.files import locked, write_text
from harness.core.progress import Progress
from harness.core.rows import Row, Turn

VERSION = 3
"""Part of every recipe; another one where templates, filters or the drawing of tokens change
what is written."""


@dataclass(frozen=True)
class Store:
    """What one recipe has given.

    Attributes:
        recipe: plain values: models, tokenizers, method and settings, prompt format, length, dtype,
            and the seed where there is chance.
    """

    recipe: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        canonical = json.dumps({"version": VERSION, **self.recipe}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return paths.cache() / "written" / hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def _file(self) -> Path:
        return self.folder / "rows.jsonl"

    def read(self) -> dict[str, GeneratedRow]:
        """Return what is there: key of a row → what became of it.

        Lines that cannot be read are left out.
        """
        if not self._file.is_file():
            return {}
        found: dict[str, GeneratedRow] = {}
        for line in self._file.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                key, written = _parsed(json.loads(line))
                found.setdefault(key, written)
        return found

    @contextlib.contextmanager
    def writing(self, progress: Progress | None = None) -> Iterator[None]:
        """Be the only process that adds to it.

        Others wait, and say so to ``progress``, which may raise Interrupted meanwhile.

        Raises:
            DataError: where the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "set HARNESS_CACHE to a folder that can be written"
            raise DataError(explain(f"written data {self.folder}", got=f"{type(error).__name__}: {error}", fix=fix)) from error
        with locked(self.folder / "lock", None if progress is None else _Wait(progress)):
            if not (self.folder / "recipe.json").is_file():
                write_text(self.folder / "recipe.json", json.dumps(self.recipe, indent=1, ensure_ascii=False))
            yield

    def add(self, found: Mapping[str, GeneratedRow]) -> None:
        """Add what became of rows, inside ``writing``."""
        lines = "".join(f"{json.dumps(_plain(key, written), ensure_ascii=False)}\n" for key, written in found.items())
        with self._file.open("ab+") as file:
            if file.tell() and not _ends_a_line(self._file):  # a process was killed within a line
                lines = f"\n{lines}"
            file.write(lines.encode())


class _Wait:
    """A stage that begins where there is something to wait for."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.has_begun = progress, False

    def __call__(self) -> None:
        if not self.has_begun:
            self.progress.stage("wait for rows that another process writes", 1)
            self.has_begun = True
        self.progress.advance(0)


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as there:
        there.seek(-1, 2)
        return there.read() == b"\n"


def _plain(key: str, written: GeneratedRow) -> dict[str, Any]:
    row = written.row
    values = {f.name: getattr(written, f.name) for f in dataclasses.fields(written)}
    return {"id": key, **values, "row": row and {"kind": row.kind, "turns": [[turn.role, turn.content] for turn in row.turns]}}


def _parsed(values: Any) -> tuple[str, GeneratedRow]:
    """Return a line's key and content.

    ValueError, KeyError or TypeError where it is none of ours.
    """
    row, rate = values["row"], values["edit_rate"]
    turns = None if row is None else tuple(Turn(_text(role), _text(content)) for role, content in row["turns"])
    written = GeneratedRow(
        row=None if turns is None else Row(turns, row["kind"]),
        accepted=bool(values["accepted"]),
        how=_text(values["how"]),
        generated_tokens=int(values["generated_tokens"]),
        edit_rate=None if rate is None else float(rate),
        tried=tuple(_text(text) for text in values["tried"]),
        read_tokens=int(values["read_tokens"]),
    )
    return _text(values["id"]), written


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
