"""Seals: a digest at the end of each JSON record, so that a later change of it is noticed.

The last key of a sealed file is ``sha256``, the hash of every byte before it. That finds accident
and carelessness: an edit by hand, a damaged disk, a half-copied file. It does not stop anybody who
computes the hash anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core import json_text
from harness.core.errors import DamagedError, RecordError, explain

SEAL = "sha256"
"""Key of the digest."""

FOLDER_SEAL = "sha256.json"
"""Name of the file with the hashes of the other files in its folder."""

REMAKE = "remove {}, then rerun its sweep or run, which makes what is missing"
"""Advice on a damaged file; rerunning a command that only reads makes nothing."""

_END = re.compile(rb',\s*"sha256": ?"([0-9a-f]{64})"\s*\}\s*\Z')
_LENGTH = 128
"""Bytes at the end of a file in which its seal is."""


def sealed(values: Mapping[str, Any], *, compact: bool = False) -> str:
    """Return a JSON object as text with its seal. Raises ValueError for NaN and infinity."""
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    head = json.dumps(values, ensure_ascii=False, allow_nan=False, **form).removesuffix("}").rstrip()
    before, space = (",", "") if compact else (",\n  ", " ")
    return f'{head}{before}"sha256":{space}"{hashlib.sha256(head.encode()).hexdigest()}"' + ("}" if compact else "\n}")


def opened(path: Path, content: bytes) -> dict[str, Any]:
    """Return the values of a sealed JSON object.

    Args:
        path: of the file, for messages.
        content: its bytes.

    Raises:
        DamagedError: if it is no JSON object, or was changed after it was written.
    """
    return checked(path, content, parsed(path, content))


def checked(path: Path, content: bytes, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a file without its seal, which is checked. Raises DamagedError."""
    end = _END.search(content, max(0, len(content) - _LENGTH))
    if end is None or SEAL not in values:
        fix = f"read these results with the version that wrote them; {REMAKE.format(path)} if it was edited"
        raise damaged(path, "a record without its digest, as earlier versions wrote it", fix=fix)
    if hashlib.sha256(content[: end.start()]).hexdigest() != end[1].decode():
        raise damaged(path, "a file that was changed after it was written")
    return {name: value for name, value in values.items() if name != SEAL}


def parsed(path: Path, content: bytes) -> dict[str, Any]:
    """Return a JSON object, its seal unchecked. Raises DamagedError."""
    try:
        values = json_text.loads(content)
    except ValueError as error:
        raise damaged(path, f"a file that cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise damaged(path, type(values).__name__, "a JSON object")
    return values


def damaged(path: Path, got: str, allowed: str = "", fix: str = "") -> DamagedError:
    """Return the error of a damaged or altered file, whose advice names this file alone."""
    return DamagedError(explain(str(path), got=got, allowed=allowed, fix=fix or REMAKE.format(path)))


def seal_folder(folder: Path, place: str) -> None:
    """Write the hashes of all files in a folder into it.

    Args:
        folder: with its files, perhaps under a temporary name.
        place: where the folder belongs in its experiment.
    """
    hashes = {str(path.relative_to(folder)): hash_of(path) for path in _files(folder)}
    (folder / FOLDER_SEAL).write_text(sealed({"folder": place, "files": hashes}) + "\n", encoding="utf-8")


def folder_errors(folder: Path, place: str, fix: str = "") -> Iterator[RecordError]:
    """Yield an error for each file that is missing, foreign or changed in a sealed folder.

    Args:
        folder: to look at.
        place: where it belongs in its experiment.
        fix: advice in place of removing the folder.
    """
    path, fix = folder / FOLDER_SEAL, fix or REMAKE.format(folder)
    try:
        values = opened(path, path.read_bytes())
        known = values.get("files")
        if values.get("folder") != place or not isinstance(known, dict):
            raise damaged(path, f"a copy of the hashes of {values.get('folder', 'another file')}", fix=fix)
    except OSError as error:
        yield damaged(path, f"no such file ({error.strerror})", fix=fix)
        return
    except DamagedError as error:
        yield error
        return
    found = {str(path.relative_to(folder)): path for path in _files(folder)}
    for name in sorted({*known, *found}):
        if name not in found:
            yield damaged(folder / name, "no such file", "every file that was written", fix)
        elif name not in known:
            yield damaged(folder / name, "a file that the harness did not write", fix=f"move {folder / name} away")
        elif _hash_or_none(found[name]) != known[name]:
            yield damaged(folder / name, "a file that was changed after it was written", fix=fix)


def _hash_or_none(path: Path) -> str | None:
    try:
        return hash_of(path)
    except OSError:
        return None


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder, without hidden ones, which belong to systems and editors."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != FOLDER_SEAL)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
