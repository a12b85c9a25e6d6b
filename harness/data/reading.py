"""Local files to records, strictly: JSON lines, JSON, CSV, parquet and plain text.

A reader yields (number, record): the line where a record begins, or its position from 0.
"""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config.overrides import FILE_ENDINGS
from harness.config.paths import expanded
from harness.core import json_text
from harness.core.errors import ConfigError, DataError, explain
from harness.data.templates import Spelled

SampleBy = Literal["line", "paragraph", "document"]
"""One row of a plain text file, as in the text loader of ``datasets``."""

WHOLE = {
    ".jsonl": ("JSON lines in UTF-8: an object a line", "correct the line"),
    ".json": ("JSON in UTF-8: a list of objects", "save the list alone, or name the file .jsonl if it has an object a line"),
    ".csv": ("csv in UTF-8, with a header", "correct the line"),
    ".parquet": ("a whole parquet file", "write or download it again"),
    ".txt": ("text in UTF-8", "save it as UTF-8"),
}
"""Ending → what its file holds, and advice where it does not."""

_PANDAS = "python -c \"import pandas as p; p.read_{read}('{{path}}'{more}).to_csv('{{path}}.csv', index=False)\""
CONVERTED = {
    ".tsv": _PANDAS.format(read="csv", more=", sep='\\t', dtype=str"),
    ".xlsx": _PANDAS.format(read="excel", more=", dtype=str"),
}
"""Ending that is not read → command that makes a file that is."""

Numbered = Iterator[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Record:
    """The values of one row of a file, and its place."""

    values: Mapping[str, Any]
    path: Path
    number: int

    @property
    def place(self) -> str:
        """The file, and the line or row."""
        return f"{self.path}, {'line' if self.path.suffix in ('.jsonl', '.csv', '.txt') else 'row'} {self.number}"


def paths(split: str, pattern: str) -> list[Path]:
    """Return the files of a path or pattern, in the order of their names.

    Raises DataError or ConfigError.
    """
    place, allowed = expanded(pattern), ", ".join(FILE_ENDINGS)
    found = [place] if place.is_file() else sorted(Path(name) for name in glob.glob(str(place)))  # noqa: PTH207 - may be absolute
    files = [path for path in found if path.is_file()]
    if not files:
        fix = "check the path; a relative one starts from the current directory"
        raise DataError(explain(f"data.{split}", got=f"'{pattern}', not a file", allowed=allowed, fix=fix))
    for path in files:
        if path.suffix not in FILE_ENDINGS:
            fix = CONVERTED.get(path.suffix, "save the rows in one of these formats")
            raise ConfigError(
                explain(f"data.{split}", got=f"'{path}'", allowed=f"a name that ends in {allowed}", fix=fix.format(path=path))
            )
    return files


def read(path: Path, sample_by: SampleBy) -> Iterator[Record]:
    """Yield the records of a file.

    Raises DataError with the file and the line.
    """
    try:
        for number, values in _text(path, sample_by) if path.suffix == ".txt" else READERS[path.suffix](path):
            yield Record(values, path, number)
    except (OSError, ValueError, csv.Error) as error:  # errors of decoders are ValueErrors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        allowed, fix = WHOLE[path.suffix]
        raise DataError(explain(str(path), got=f"a file that cannot be read ({reason})", allowed=allowed, fix=fix)) from error


def _json_lines(path: Path) -> Numbered:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    record = _object(_loads(line))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
                yield number, record


def _json(path: Path) -> Numbered:
    values = _loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(values, list):
        raise ValueError(f"{type(values).__name__} instead of a list of objects")
    yield from enumerate(map(_object, values))


def _loads(text: str) -> Any:
    """Parse JSON; raise ValueError for a duplicate key or half of a surrogate pair."""
    value = json_text.loads(text, object_pairs_hook=_unique, parse_float=Spelled)
    if "\\ud" in text.lower():
        _require_characters(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key '{next(key for key in keys if keys.count(key) > 1)}'")
    return found


def _require_characters(value: Any, column: str = "") -> None:
    if isinstance(value, str):
        lone = re.search("[\ud800-\udfff]", value)
        if lone:
            where = f"column '{column}': " if column else ""
            raise ValueError(f"{where}\\u{ord(lone[0]):04x}, half of a surrogate pair, is not a character")
    elif isinstance(value, dict):
        for key, item in value.items():
            _require_characters(key)
            _require_characters(item, column or key)
    elif isinstance(value, list):
        for item in value:
            _require_characters(item, column)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} instead of an object")
    return value


def _csv(path: Path) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # a long document may be a cell
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header: list[str] = next(reader, [])
        _require_unique(header)
        begins = reader.line_num + 1
        for cells in reader:
            if len(cells) > len(header):
                raise ValueError(f"line {begins} has more cells than the header")
            if cells:
                yield begins, dict(zip(header, [*cells, *[None] * (len(header) - len(cells))], strict=True))
            begins = reader.line_num + 1


def _parquet(path: Path) -> Numbered:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        _require_unique(file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches():
            for record in batch.to_pylist():
                yield number, record
                number += 1


def _require_unique(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"duplicate column '{name}'")


def _text(path: Path, sample_by: SampleBy) -> Numbered:
    """Yield lines without their ends, paragraphs (between blank lines), or the whole file.

    Blank lines are left out.
    """
    with path.open(encoding="utf-8-sig") as lines:
        if sample_by == "document":
            yield 1, {"text": lines.read()}
            return
        block: list[str] = []
        for number, line in enumerate([*lines, ""], start=1):
            if block and (sample_by == "line" or not line.strip()):
                yield number - len(block), {"text": "".join(block).removesuffix("\n")}
                block = []
            if line.strip():
                block.append(line)


READERS = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
