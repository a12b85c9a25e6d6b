"""Log files of inspect_ai, ``.json`` and ``.eval``, as plain values.

Read without inspect_ai itself, which is heavy. An ``.eval`` file is a zip archive; the newer ones
are compressed with Zstandard, which ``zipfile`` reads from Python 3.14, before that with the extra
``inspect``.

Source: inspect_ai 0.3.285, ``log/_recorders/eval.py`` and ``json.py``; logs of version 2.
"""

from __future__ import annotations

import re
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import extras, json_text
from harness.core.errors import RecordError, explain

VERSION = 2

A_LOG = "a log of inspect_ai"
AGAIN = "run inspect_ai again"

JSON_START = re.compile(rb'\s*\{\s*"version"\s*:\s*\d+\s*,\s*"status"\s*:')
"""Beginning of a ``.json`` log."""

HEADER, SAMPLES, UNFINISHED = "header.json", "samples/", "_journal/start.json"
"""Members of an ``.eval`` file."""

ZSTANDARD = 93
"""Method of compression, as in the zip file."""

DAMAGED = (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OverflowError, struct.error)


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """A log file.

    Attributes:
        file: its path.
        header: everything but the samples; ``eval`` is a mapping.
        samples: its samples, each a mapping with ``id`` and ``epoch``.
    """

    file: Path
    header: Mapping[str, Any]
    samples: tuple[Mapping[str, Any], ...]

    @property
    def status(self) -> str:
        """``success``, ``error``, ``cancelled`` or ``started``."""
        return str(self.header.get("status"))


def is_log(file: Path) -> bool:
    """Return whether a file is a log of inspect_ai, by its name and its first bytes."""
    if file.suffix == ".eval":
        return True
    if file.suffix != ".json":
        return False
    with file.open("rb") as start:
        return JSON_START.match(start.read(200)) is not None


def find(source: Path) -> Iterator[Path]:
    """Yield the log files of a folder and its subfolders, or the file itself if it is one."""
    if source.is_file():
        yield from [source] if is_log(source) else []
        return
    for pattern in ("*.eval", "*.json"):
        yield from (file for file in sorted(source.rglob(pattern)) if file.is_file() and is_log(file))


def read(file: Path) -> LogFile:
    """Read a log file.

    Raises:
        RecordError: for a file that is damaged, unfinished or of another version.
        InstallError: for an ``.eval`` file whose compression needs the extra ``inspect``.
    """
    try:
        header, samples = _from_zip(file) if file.suffix == ".eval" else _from_json(file)
    except DAMAGED as error:
        raise RecordError(explain(str(file), got=f"a damaged file ({error})", allowed=A_LOG, fix=AGAIN)) from error
    if not isinstance(header, Mapping) or not isinstance(header.get("eval"), Mapping):
        raise RecordError(explain(str(file), got="a file without eval", allowed=A_LOG, fix=AGAIN))
    if header.get("version") != VERSION:
        fix = "convert it with a newer inspect_ai: inspect log convert"
        raise RecordError(explain(f"{file}: version", got=header.get("version"), allowed=str(VERSION), fix=fix))
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, Mapping) or "id" not in sample or not isinstance(sample.get("epoch"), int):
            raise RecordError(explain(f"{file}: sample {number}", got="no id and epoch", allowed=A_LOG, fix=AGAIN))
    return LogFile(file=file, header=header, samples=tuple(samples))


def _from_json(file: Path) -> tuple[Any, list[Any]]:
    values = json_text.loads(file.read_bytes())
    samples = values.pop("samples", None) if isinstance(values, dict) else None
    return values, samples if isinstance(samples, list) else []


def _from_zip(file: Path) -> tuple[Any, list[Any]]:
    with zipfile.ZipFile(file) as archive:
        if sys.version_info < (3, 14) and any(member.compress_type == ZSTANDARD for member in archive.infolist()):
            extras.require(f"reading {file}", "inspect")
            import zipfile_zstd  # noqa: F401 - it teaches zipfile this compression
        names = archive.namelist()
        if HEADER not in names:
            started = _member(archive, UNFINISHED) if UNFINISHED in names else {}
            return {**started, "status": "started"} if isinstance(started, Mapping) else {}, []
        members = sorted(name for name in names if name.startswith(SAMPLES) and name.endswith(".json"))
        return _member(archive, HEADER), [_member(archive, name) for name in members]


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """Return the values of a member. Raises ValueError if it is damaged."""
    try:
        return json_text.loads(archive.read(name))
    except MemoryError:
        raise
    except Exception as error:  # its class is that of the library that decompresses
        raise ValueError(f"{name}: {error}") from error
