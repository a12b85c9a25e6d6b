"""Data sets of the Hugging Face hub, and of local files, as rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.config.overrides import FILE_ENDINGS
from harness.config.strict import LATER, check
from harness.core.errors import DataError, explain, once_online
from harness.core.rows import Row, RowKind, Split
from harness.core.sources import Source
from harness.data import formats, reading
from harness.data.fields import Form, check_volumes, to_rows
from harness.data.formats import Format
from harness.data.held_out import check_held_out, part
from harness.data.reading import SampleBy

DEFAULT_VOLUMES = (64, 256, 1024)


@dataclass(frozen=True, kw_only=True)
class Hub(Source):
    """A data set that ``datasets.load_dataset`` finds by name; a cached one needs no network.

    Attributes:
        name: such as ``openai/gsm8k``.
        config: a configuration of the data set, null for its only or default one.
        revision: branch, tag or commit, null for the default branch.
        splits: our ``train`` and ``test`` → the hub's split, slices allowed (``train[:1000]``);
            null for none.
        format: how records become rows where ``fields`` is null; ``auto`` recognises it.
        kind: of the rows that ``fields`` describe, null for the kind that has such fields.
        fields: part of a row → column name or template, see ``harness.data.fields``.
        volumes: rows to learn from, any order; each is a point.
        stream_rows: read this many rows from the start, without downloading the rest: for corpora
            of many gigabytes.
        drop_empty: leave out rows with an empty text instead of rejecting them.
        held_out: distinct rows of train that are the test split of data without one, see
            ``harness.data.held_out``.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str | None] = field(default_factory=lambda: {"train": "train", "test": None})
    format: Format = field(default="auto", metadata=LATER)
    kind: RowKind | None = None
    fields: Mapping[str, str] | None = None
    volumes: tuple[int, ...] = DEFAULT_VOLUMES
    stream_rows: int | None = None
    drop_empty: bool = False
    held_out: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        """Check fields, volumes and splits."""
        check("data.name", self.name, "the name of a data set, such as openai/gsm8k", lambda v: bool(v.strip()))
        check("data.splits", sorted(self.splits), "train and test only", lambda v: set(v) <= {"train", "test"})
        check("data.stream_rows", self.stream_rows, "null or greater than 0", lambda v: v is None or v > 0)
        formats.check_settings(self.format, self.kind, self.fields)
        check_volumes(self.volumes)
        check_held_out(self.held_out, has_test=self.has_test)

    @property
    def has_test(self) -> bool:
        """Whether ``splits`` names a test split."""
        return bool(self.splits.get("test"))

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in the order of the source. Raises DataError."""
        return part(self._rows("train"), split, self.held_out, self.name) if self.held_out else self._rows(split)

    def _rows(self, split: Split) -> Sequence[Row]:
        expression = self.splits.get(split)
        where = f"{self.name}{f' ({self.config})' if self.config else ''}"
        if not expression:
            known = ", ".join(name for name, value in self.splits.items() if value) or "none"
            fix = f"set data.splits.{split} to a split of the data set" + (", or data.held_out=N" if split == "test" else "")
            raise DataError(explain(where, got=f"no {split} split", allowed=known, fix=fix))
        records, columns = self._table(expression, where)
        rows = to_rows(records, self.form, columns, where=f"{where}, {split}", drop_empty=self.drop_empty)
        formats.report(self.form, columns, len(rows), f"{where}, {split}")
        return rows

    @cached_property
    def form(self) -> Form:
        """How records become rows.

        Raises DataError.
        """
        if self.fields is not None and self.kind is not None:  # nothing is read before rows are needed
            return formats.of_fields(self.kind, self.fields)
        where, expression = self.name, self.splits.get("train") or next(filter(None, self.splits.values()), "train")
        records, columns = self._table(expression, where)
        if self.fields is not None:
            return formats.of_fields(self.kind, self.fields, records)
        return formats.recognise(self.format, records, columns, where)

    @property
    def kinds(self) -> frozenset[RowKind]:
        """Kind of its rows; where fields are open, the data set decides it."""
        return frozenset({self.form.kind})

    @property
    def conversations(self) -> bool:
        """Whether rows are conversations."""
        return self.form.conversations

    def _table(self, expression: str, where: str) -> tuple[Iterable[Mapping[str, Any]], list[str]]:
        """Return the records of a split, and its columns. Raises DataError."""
        with _quiet_datasets(), _explained(self, expression, where):
            import datasets

            streaming = self.stream_rows is not None
            table = datasets.load_dataset(self.name, self.config, split=expression, revision=self.revision, streaming=streaming)
        # A stream may not know its columns before its first row.
        records = list(self._records(table, expression, where)) if streaming else self._records(table, expression, where)
        return records, list(table.column_names or (records[0] if isinstance(records, list) and records else []))

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
    fix = "check data.name, data.config and the network, and `hf auth login` for gated data"
    fix = once_online("check data.name and HF_HOME") if "Offline" in f"{type(error).__name__} {reason}" else fix
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
class Files(Source):
    """Local files: JSON lines, JSON (a list of objects), CSV with a header, parquet, plain text.

    The ending of a name decides how it is read.

    Attributes:
        train: path of the training rows, ``*`` for several files (read in the order of their
            names).
        test: path of held-out rows, null for none.
        format, kind, fields, volumes, drop_empty, held_out: as for ``Hub``.
        sample_by: of plain text (.txt), one row: a ``line``, a ``paragraph`` (between blank lines)
            or a ``document``, the whole file.
    """

    train: str
    test: str | None = None
    format: Format = field(default="auto", metadata=LATER)
    kind: RowKind | None = None
    fields: Mapping[str, str] | None = None
    sample_by: SampleBy = "line"
    volumes: tuple[int, ...] = DEFAULT_VOLUMES
    drop_empty: bool = False
    held_out: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        """Check fields and volumes."""
        formats.check_settings(self.format, self.kind, self.fields)
        check_volumes(self.volumes)
        check_held_out(self.held_out, has_test=self.has_test)

    @property
    def has_test(self) -> bool:
        """Whether ``test`` is given."""
        return bool(self.test)

    @cached_property
    def form(self) -> Form:
        """How records become rows.

        Raises DataError.
        """
        if self.fields is None:
            records = list(self._head())
            return formats.recognise(self.format, records, list(dict.fromkeys(name for one in records for name in one)), self.train)
        try:
            return formats.of_fields(self.kind, self.fields, self._head())
        except DataError:  # reported when the rows are read, as what is missing
            return formats.of_fields(self.kind, self.fields)

    def _head(self) -> Iterator[Mapping[str, Any]]:
        """Yield the values of training records, one file after the other."""
        for path in reading.paths("train", self.train):
            for record in reading.read(path, self.sample_by):
                yield record.values

    @property
    def kinds(self) -> frozenset[RowKind]:
        """Kind of its rows, which messages in the files decide too."""
        return frozenset({self.form.kind})

    @property
    def conversations(self) -> bool:
        """Whether rows are conversations."""
        return self.form.conversations

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in the order of the files.

        Raises DataError or ConfigError.
        """
        return part(self._rows("train"), split, self.held_out, self.train) if self.held_out else self._rows(split)

    def _rows(self, split: Split) -> Sequence[Row]:
        pattern = self.train if split == "train" else self.test
        if not pattern:
            allowed = f"a path: {', '.join(FILE_ENDINGS)}"
            raise DataError(
                explain(
                    f"data.{split}", got="nothing", allowed=allowed, fix=f"set data.{split}=PATH{' or data.held_out=N' * (split == 'test')}"
                )
            )
        paths = reading.paths(split, pattern)
        records = [record for path in paths for record in reading.read(path, self.sample_by)]
        columns = list(dict.fromkeys(column for record in records for column in record.values))
        rows = to_rows(
            (record.values for record in records),
            self.form,
            columns,
            where=pattern,
            drop_empty=self.drop_empty,
            place=lambda number: records[number].place,
        )
        where = f"{pattern} (one row per {self.sample_by})" if any(path.suffix == ".txt" for path in paths) else pattern
        formats.report(self.form, columns, len(rows), where)
        return rows
