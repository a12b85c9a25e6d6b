"""Generated rows in the cache: one folder per recipe, with one JSON line per row.

A recipe is everything that decides the rows. A larger volume adds lines. If two processes need the
same rows, one generates them and the other waits. Each line has a hash of its row; damaged lines
are dropped, and their rows generated again.
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
from harness.core import json_text
from harness.core.contexts import GeneratedRow
from harness.core.errors import DataError, explain
from harness.core.files import hidden_name, locked, write_text
from harness.core.progress import Progress
from harness.core.rows import Row, Turn

VERSION = 4
"""Part of every recipe; raised when templates, filters or the sampling of tokens change the
rows."""

DIGEST = "sha256"
"""Key of a line's hash of its other values."""

KEYS = {"id"} | {field.name for field in dataclasses.fields(GeneratedRow)}
"""Keys of a line, but its hash."""


@dataclass(frozen=True)
class Store:
    """The generated rows of one recipe.

    Attributes:
        recipe: plain values: models, tokenizers, method and settings, prompt format, length, dtype,
            and the seed if sampling is random.
    """

    recipe: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of the recipe."""
        canonical = json.dumps({"version": VERSION, **self.recipe}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return paths.cache() / "written" / hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def _file(self) -> Path:
        return self.folder / "rows.jsonl"

    def read(self) -> dict[str, GeneratedRow]:
        """Return key of a row → generated row; damaged lines are left out."""
        found: dict[str, GeneratedRow] = {}
        for _, (key, generated) in self._whole(self._lines()):
            found.setdefault(key, generated)
        return found

    def _lines(self) -> list[bytes]:
        return self._file.read_bytes().split(b"\n") if self._file.is_file() else []

    def _whole(self, lines: list[bytes]) -> Iterator[tuple[bytes, tuple[str, GeneratedRow]]]:
        """Yield the lines that are not damaged, each with its key and row."""
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                yield line, _parsed(json_text.loads(line))

    @contextlib.contextmanager
    def exclusive(self, progress: Progress | None = None) -> Iterator[None]:
        """Hold the lock that adding rows needs; other processes wait. Damaged lines are dropped.

        Args:
            progress: shows the wait as a stage, and may raise Interrupted during it; told of
                damaged lines.

        Raises:
            DataError: if the cache cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "set HARNESS_CACHE to a folder that can be written"
            raise DataError(explain(f"generated rows {self.folder}", got=f"{type(error).__name__}: {error}", fix=fix)) from error
        with locked(self.folder / "lock", None if progress is None else _Wait(progress)):
            if not (self.folder / "recipe.json").is_file():
                write_text(self.folder / "recipe.json", json.dumps(self.recipe, indent=1, ensure_ascii=False))
            if (damaged := self._drop_damaged()) and progress is not None:
                progress.say(f"generated rows {self._file}: {damaged} damaged or cut off, to be generated again where they are needed")
            yield

    def _drop_damaged(self) -> int:
        """Remove damaged lines; return their number."""
        lines = [line for line in self._lines() if line]
        whole = [line for line, _ in self._whole(lines)]
        if len(whole) < len(lines):
            temporary = hidden_name(self._file)
            temporary.write_bytes(b"".join(line + b"\n" for line in whole))
            temporary.replace(self._file)
        return len(lines) - len(whole)

    def add(self, found: Mapping[str, GeneratedRow]) -> None:
        """Add generated rows by key, inside ``exclusive``."""
        lines = "".join(f"{json.dumps(_plain(key, generated), ensure_ascii=False)}\n" for key, generated in found.items())
        with self._file.open("ab") as file:
            file.write(lines.encode())


class _Wait:
    """Shows a wait for the lock as a stage; without a wait, shows nothing."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.has_begun = progress, False

    def __call__(self) -> None:
        if not self.has_begun:
            self.progress.stage("wait for rows that another process generates", 1)
            self.has_begun = True
        self.progress.advance(0)


def _plain(key: str, generated: GeneratedRow) -> dict[str, Any]:
    row = generated.row
    values = {f.name: getattr(generated, f.name) for f in dataclasses.fields(generated)}
    turns = [[turn.role, turn.content] for turn in row.turns] if row else []
    plain = {"id": key, **values, "row": row and {"kind": row.kind, "turns": turns, "part": row.part}}
    return plain | {DIGEST: _digest(plain)}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _parsed(values: Any) -> tuple[str, GeneratedRow]:
    """Return the key and the generated row of a line.

    Raises ValueError, KeyError, TypeError or AttributeError for a damaged line.
    """
    digest = values.pop(DIGEST, None)
    if values.keys() != KEYS or digest not in (None, _digest(values)):  # lines of before have no digest
        raise ValueError("other values than were written")
    row, rate = values["row"], values["edit_rate"]
    turns = None if row is None else tuple(Turn(_text(role), _text(content)) for role, content in row["turns"])
    part = None if row is None or row["part"] is None else (int(row["part"][0]), int(row["part"][1]))
    generated = GeneratedRow(
        row=None if turns is None else Row(turns, row["kind"], part),
        accepted=bool(values["accepted"]),
        how=_text(values["how"]),
        generated_tokens=int(values["generated_tokens"]),
        edit_rate=None if rate is None else float(rate),
        tried=tuple(_text(text) for text in values["tried"]),
        read_tokens=int(values["read_tokens"]),
    )
    return _text(values["id"]), generated


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value
