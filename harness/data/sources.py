"""Data sets of the Hugging Face hub, and of local files, as rows."""

from __future__ import annotations

import csv
import glob
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config.strict import check
from harness.core.errors import ConfigError, DataError, explain
from harness.core.rows import Row, RowKind, Split
from harness.data.fields import check_fields, check_volumes, to_rows

DEFAULT_VOLUMES = (64, 256, 1024)

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A data set that ``datasets.load_dataset`` finds by name; a cached one needs no network.

    Attributes:
        name: such as ``openai/gsm8k``.
        config: a configuration of the data set, null for its only or default one.
        revision: branch, tag or commit, null for the default branch.
        splits: our ``train`` and ``test`` → the hub's split, slices allowed (``train[:1000]``);
            null for none.
        kind: of its rows.
        fields: part of a row → column name or template, see ``harness.data.fields``.
        volumes: rows to learn from, any order; each is a point.
        stream_rows: read this many rows from the start, without downloading the rest: for corpora
            of many gigabytes.
        drop_empty: leave out rows with an empty text instead of rejecting them.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str | None] = field(default_factory=lambda: {"train": "train", "test": None})
    kind: RowKind
    fields: Mapping[str, str]
    volumes: tuple[int, ...] = DEFAULT_VOLUMES
    stream_rows: int | None = None
    drop_empty: bool = False

    def __post_init__(self) -> None:
        """Check fields, volumes and splits."""
        check("data.name", self.name, "the name of a data set, such as openai/gsm8k", lambda v: bool(v.strip()))
        check("data.splits", sorted(self.splits), "train and test only", lambda v: set(v) <= {"train", "test"})
        check("data.stream_rows", self.stream_rows, "null or greater than 0", lambda v: v is None or v > 0)
        check_fields(self.kind, self.fields)
        check_volumes(self.volumes)

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in the order of the source. Raises DataError."""
        expression = self.splits.get(split)
        where = f"{self.name}{f' ({self.config})' if self.config else ''}"
        if not expression:
            known = ", ".join(name for name, value in self.splits.items() if value) or "none"
            fix = f"set data.splits.{split} to a split of the data set"
            raise DataError(explain(where, got=f"no {split} split", allowed=known, fix=fix))
        with _quiet_datasets(), _explained(self, expression, where):
            import datasets

            streaming = self.stream_rows is not None
            table = datasets.load_dataset(self.name, self.config, split=expression, revision=self.revision, streaming=streaming)
        # A stream may not know its columns before its first row.
        records = list(self._records(table, expression, where)) if streaming else self._records(table, expression, where)
        columns = list(table.column_names or (records[0] if isinstance(records, list) and records else []))
        return to_rows(records, self.kind, self.fields, columns, where=f"{where}, {split}", drop_empty=self.drop_empty)

    def _records(self, table: Any, expression: str, where: str) -> Iterator[Mapping[str, Any]]:
        """Yield its records; a stream can fail at any of them."""
        with _quiet_datasets(), _explained(self, expression, where):
            yield from itertools.islice(table, self.stream_rows)


@contextmanager
def _explained(source: Hub, expression: str, where: str) -> Iterator[None]:
    """Turn an error of the library into a DataError of one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, DatasetsError) as error:
        raise DataError(_explain_hub(source, expression, where, error)) from error


def _explain_hub(source: Hub, expression: str, where: str, error: Exception) -> str:
    """Return an error of the hub as one line: a split, a configuration, or access."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if any(words in reason for words in ("Unknown split", "Bad split", "instruction format", "Requested slice")):
        return explain(f"{where}: data.splits", got=f"'{expression}'", allowed=reason, fix="use a split of the data set")
    if "BuilderConfig" in reason or "Config name is missing" in reason or "for config" in reason:
        return explain(f"{where}: data.config", got=f"'{source.config}'", allowed=reason, fix="set data.config")
    fix = "check data.name, data.config and the network; without a hub, HF_HOME must hold the data set (HF_HUB_OFFLINE=1)"
    return explain(f"data set {where}", got=f"{type(error).__name__}: {reason}", allowed="a data set that can be read", fix=fix)


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Turn off the library's progress bars and notices for a while: they disturb our display."""
    import datasets

    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


@dataclass(frozen=True, kw_only=True)
class Files:
    """Local files: JSON lines, JSON (a list of objects), CSV with a header, or parquet.

    The ending of a name decides its format.

    Attributes:
        train: path of the training rows, ``*`` for several files (read in the order of their
            names).
        test: path of held-out rows, null for none.
        kind, fields, volumes, drop_empty: as for ``Hub``.
    """

    train: str
    test: str | None = None
    kind: RowKind
    fields: Mapping[str, str]
    volumes: tuple[int, ...] = DEFAULT_VOLUMES
    drop_empty: bool = False

    def __post_init__(self) -> None:
        """Check fields and volumes."""
        check_fields(self.kind, self.fields)
        check_volumes(self.volumes)

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in the order of the files.

        Raises DataError or ConfigError.
        """
        pattern = self.train if split == "train" else self.test
        if not pattern:
            raise DataError(explain(f"data.{split}", got="nothing", allowed=f"a path: {', '.join(FORMATS)}", fix=f"set data.{split}=PATH"))
        records = [record for path in _paths(split, pattern) for record in _read(path)]
        columns = list(dict.fromkeys(column for record in records for column in record))
        return to_rows(records, self.kind, self.fields, columns, where=pattern, drop_empty=self.drop_empty)


def _paths(split: str, pattern: str) -> list[Path]:
    """Return the files of a path or pattern."""
    expanded = Path(pattern).expanduser()
    paths = [expanded] if expanded.is_file() else sorted(Path(name) for name in glob.glob(str(expanded)))  # noqa: PTH207 - may be absolute
    files = [path for path in paths if path.is_file()]
    if not files:
        fix = "check the path; a relative one starts from the current directory"
        raise DataError(explain(f"data.{split}", got=f"'{pattern}', not a file", allowed=", ".join(FORMATS), fix=fix))
    for path in files:
        if path.suffix not in FORMATS:
            raise ConfigError(explain(f"data.{split}", got=f"'{path}'", allowed=f"a name that ends in {', '.join(FORMATS)}"))
    return files


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file.

    Raises DataError with the file, and the line of JSON lines.
    """
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    try:
        return readers[path.suffix](path)
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError, JSONDecodeError and ArrowInvalid are ValueErrors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(explain(str(path), got=f"a file that cannot be read ({reason})", allowed=f"{path.suffix[1:]} in UTF-8")) from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    records.append(_object(json.loads(line)))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
    return records


def _json(path: Path) -> list[dict[str, Any]]:
    values = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(values, list):
        raise ValueError(f"{type(values).__name__} instead of a list of objects")
    return [_object(value) for value in values]


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} instead of an object")
    return value


def _csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        records = list(csv.DictReader(lines, strict=True, restkey=""))
    for number, record in enumerate(records):
        if "" in record and isinstance(record[""], list):
            raise ValueError(f"row {number} has more cells than the header")
    return records


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    records: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return records
