"""Read and write single files of records: JSON, strictly to a dataclass; items in parquet.

A file is written completely or not at all. ``harness.records.store`` shows the layout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from harness import PROTOCOL_VERSION
from harness.config.strict import build
from harness.core import files
from harness.core.errors import ConfigError, RecordError, explain
from harness.core.space import held
from harness.records import seals
from harness.records.schema import SAMPLE_COLUMNS, SCHEMA_VERSION, Failure, Finished, Measurement, Point, Record
from harness.records.seals import damaged
from harness.records.sweep_schema import Manifest, Sweep

MEASUREMENT, SAMPLES = "measurement.json", "samples.parquet"

VERSIONS = {"schema_version": SCHEMA_VERSION, "protocol_version": PROTOCOL_VERSION}

AnyRecord = TypeVar("AnyRecord", Measurement, Point, Record, Failure, Manifest, Finished, Sweep)


def load(path: Path) -> dict[str, Any]:
    """Return a sealed JSON object as plain values; empty if the file does not exist.

    Raises DamagedError if it is damaged, or was changed after it was written.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise damaged(path, f"a file that cannot be read ({error.strerror})") from error
    return seals.opened(path, content)


def read(path: Path, cls: type[AnyRecord]) -> AnyRecord | None:
    """Return a record, or None if the file does not exist.

    Raises:
        DamagedError: if it is damaged, or was changed after it was written.
        RecordError: if it is of another version or of another shape.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(path, f"a file that cannot be read ({error.strerror})") from error
    versioned, values = {field.name for field in dataclasses.fields(cls)}, seals.parsed(path, content)
    others = [key for key, ours in VERSIONS.items() if key in versioned and values.get(key) != ours]
    if seals.SEAL in values or not others:
        values = seals.checked(path, content, values)
    for key in others:
        fix = f"read it with the version that wrote it, or move {path} away and rerun"
        raise RecordError(explain(f"{path}: {key}", got=repr(values.get(key)), allowed=str(VERSIONS[key]), fix=fix))
    try:
        record: AnyRecord = build(cls, values, "")
    except ConfigError as error:
        raise RecordError(f"{path}: {error}") from error
    return record


def read_samples(folder: Path, sha256: str) -> pd.DataFrame:
    """Return the items in a folder, columns as in SAMPLE_COLUMNS.

    Args:
        folder: that holds them.
        sha256: hash of their file, from the record next to it.

    Raises:
        DamagedError: if they are missing, or not those that were written.
    """
    path, fix = folder / SAMPLES, seals.REMAKE.format(folder)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise damaged(path, "items that were changed or replaced after they were written", fix=fix)
        samples = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise damaged(path, f"a file that cannot be read ({error})", fix=fix) from error
    if missing := set(SAMPLE_COLUMNS) - set(samples.columns):
        raise damaged(path, f"no column {', '.join(sorted(missing))}", fix=fix)
    return samples


def write_json(path: Path, record: AnyRecord) -> None:
    """Write a record with its seal. Raises ValueError for NaN and infinity."""
    files.write_text(path, seals.sealed(dataclasses.asdict(record)))


@held
def write_samples(folder: Path, samples: pd.DataFrame) -> str:
    """Write items into a folder; return the hash of their file."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = files.hidden_name(folder / SAMPLES)
    try:
        samples.to_parquet(temporary, index=False, compression="zstd")
        sha256 = seals.hash_of(temporary)
        temporary.replace(folder / SAMPLES)
    finally:
        temporary.unlink(missing_ok=True)
    return sha256


@held
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
        sha256 = write_samples(temporary, samples)
        write_json(temporary / MEASUREMENT, dataclasses.replace(measurement, samples_sha256=sha256))
        files.rename_folder(temporary, folder, over=known is not None or not file.exists())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@held
def write_folder(folder: Path, fill: Callable[[Path], None], seal: str = "") -> None:
    """Let ``fill`` write a folder under a temporary name, then rename it into place.

    It replaces an earlier folder.

    Args:
        folder: the place.
        fill: writes its files.
        seal: where the folder belongs in its experiment, if the hashes of its files are kept.
    """
    temporary = files.hidden_name(folder)
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        if seal:
            seals.seal_folder(temporary, seal)
        files.rename_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
