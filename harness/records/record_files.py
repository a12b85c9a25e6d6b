"""Read and write single files of records: JSON, strictly to a dataclass; items in parquet.

A file is written completely or not at all. ``harness.records.store`` shows the layout.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from harness import PROTOCOL_VERSION
from harness.config.strict import build
from harness.core import files
from harness.core.errors import ConfigError, RecordError, explain
from harness.records.schema import SAMPLE_COLUMNS, SCHEMA_VERSION, Failure, Finished, Measurement, Point, Record
from harness.records.sweep_schema import Manifest, Sweep

MEASUREMENT = "measurement.json"

REMOVE = "remove this file alone and run the same command again"
"""Advice on a damaged file: what it held is derived, measured or trained anew; all else is kept."""

AnyRecord = TypeVar("AnyRecord", Measurement, Point, Record, Failure, Manifest, Finished, Sweep)


def load(path: Path) -> dict[str, Any]:
    """Return a JSON object as plain values. Raises RecordError if it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(explain(str(path), got=f"a file that cannot be read ({error})", fix=REMOVE)) from error
    if not isinstance(values, dict):
        raise RecordError(explain(str(path), got=type(values).__name__, allowed="a JSON object", fix=REMOVE))
    return values


def read(path: Path, cls: type[AnyRecord]) -> AnyRecord | None:
    """Return a record, or None if the file does not exist.

    Raises RecordError if it is damaged, of another version or of another shape.
    """
    if not path.exists():
        return None
    values = load(path)
    for key, ours in {"schema_version": SCHEMA_VERSION, "protocol_version": PROTOCOL_VERSION}.items():
        if key in {f.name for f in dataclasses.fields(cls)} and values.get(key) != ours:
            fix = "read it with the version that wrote it, or move its folder away and rerun"
            raise RecordError(explain(f"{path}: {key}", got=repr(values.get(key)), allowed=str(ours), fix=fix))
    try:
        record: AnyRecord = build(cls, values, "")
    except ConfigError as error:
        raise RecordError(f"{path}: {error}") from error
    return record


def read_samples(folder: Path) -> pd.DataFrame:
    """Return the items in a folder, columns as in SAMPLE_COLUMNS.

    Raises RecordError if they are damaged.
    """
    path, fix = folder / "samples.parquet", f"remove {folder / MEASUREMENT} alone and run the same command again, which measures anew"
    try:
        samples = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RecordError(explain(str(path), got=f"a file that cannot be read ({error})", fix=fix)) from error
    if missing := set(SAMPLE_COLUMNS) - set(samples.columns):
        raise RecordError(explain(str(path), got=f"no column {', '.join(sorted(missing))}", fix=fix))
    return samples


def write_json(path: Path, record: AnyRecord) -> None:
    """Write a record. Raises ValueError for NaN and infinity."""
    files.write_text(path, json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False, allow_nan=False))


def write_samples(folder: Path, samples: pd.DataFrame) -> None:
    """Write items into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = files.hidden_name(folder / "samples.parquet")
    try:
        samples.to_parquet(temporary, index=False, compression="zstd")
        temporary.replace(folder / "samples.parquet")
    finally:
        temporary.unlink(missing_ok=True)


def write_measurement(folder: Path, measurement: Measurement, samples: pd.DataFrame, *, by_way_of: Path) -> None:
    """Write a measurement and its items as one folder, unless a complete one exists.

    Args:
        folder: of the measurement.
        measurement: the record.
        samples: its items.
        by_way_of: folder in which it is written before it is moved into place.
    """
    known, file = read(folder / MEASUREMENT, Measurement), folder / MEASUREMENT
    if known is not None and known.is_complete:
        return
    temporary = files.hidden_name(by_way_of / "measurement")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_samples(temporary, samples)
        write_json(temporary / MEASUREMENT, measurement)
        files.rename_folder(temporary, folder, over=known is not None or not file.exists())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write a folder under a temporary name, then rename it into place.

    It replaces an earlier folder.
    """
    temporary = files.hidden_name(folder)
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        files.rename_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
