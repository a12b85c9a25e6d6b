"""Read and write a recorded run's summary, so that tables need not read samples.

    runs/<run id>/
      summary.json   its rows of the tidy table, by column
      changes.npz    the change of every item

Both are caches: they can be computed from the samples at any time, and hold a digest of the records
that they were computed from, and one of their own content. Each is written under a temporary name
and renamed into place.
``harness.analysis`` computes them.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.core import files
from harness.core.space import held
from harness.records import seals
from harness.records.record_files import MEASUREMENT

SUMMARY, CHANGES = "summary.json", "changes.npz"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Summary:
    """The rows of one run, by column.

    Attributes:
        digest: of the records that they were computed from.
        measurements: ``<evaluation id>/<hash of weights>`` of each measurement among these records.
        rows: number of rows.
        same: column → value, of columns with one value in every row.
        columns: column → values, shape (rows,), of the other columns. None is missing.
        changes_sha256: hash of the file of changes that was written with it.
    """

    digest: str
    measurements: tuple[str, ...]
    rows: int
    same: Mapping[str, Any]
    columns: Mapping[str, list[Any]]
    changes_sha256: str = ""

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]], rows: int, digest: str = "", measurements: Iterable[str] = ()) -> Summary:
        """Return the summary of whole columns, shape (rows,) each, plain values."""
        constant = {name for name, values in columns.items() if rows and values.count(values[0]) == rows}
        varying = {name: list(values) for name, values in columns.items() if rows and name not in constant}
        return cls(digest, tuple(measurements), rows, {name: columns[name][0] for name in columns if name in constant}, varying)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column, shape (rows,); all None if it does not exist."""
        return self.columns[name] if name in self.columns else [self.same.get(name)] * self.rows


def digest(version: str, run: Path, measurements: Iterable[Path], known: dict[Path, bytes]) -> str | None:
    """Return the digest of a run's record, its points and its measurements.

    Its rows follow from these and the items.

    Args:
        version: of the code that computes the rows.
        run: folder of the run.
        measurements: folders of its measurements, made or missing.
        known: digests of measurements computed before; new ones are added.

    Returns:
        64 hexadecimal digits; None if the run has no record.
    """
    total = hashlib.sha256(version.encode())
    try:
        total.update(hashlib.sha256((run / "record.json").read_bytes()).digest())
        for volume in _points(run / "points"):
            content = _read(f"{run}/points/{volume}/point.json")
            if content is not None:
                total.update(volume.encode() + hashlib.sha256(content).digest())
        for folder in measurements:
            if folder not in known:
                content = _read(f"{folder}/{MEASUREMENT}")
                if content is not None:
                    known[folder] = hashlib.sha256(content).digest()
            total.update(folder.name.encode() + known.get(folder, b"missing"))
    except OSError:
        return None
    return total.hexdigest()


def _points(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.isdigit()]
    return sorted(names, key=int)


def _read(path: str) -> bytes | None:
    """Return a file's bytes; None if it does not exist."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - making a Path takes as long as reading
            return file.read()
    except FileNotFoundError:
        return None


def read(run: Path) -> Summary | None:
    """Return the summary in a run's folder; None if missing.

    Compare its digest to know whether it is up to date.

    Raises DamagedError if it is damaged, or was changed after it was written.
    """
    path = run / SUMMARY
    try:
        values = seals.opened(path, path.read_bytes())
        return Summary(**values | {"measurements": tuple(values["measurements"])})
    except OSError:
        return None
    except (KeyError, TypeError) as error:
        raise seals.damaged(path, "a summary of another version") from error


def write(run: Path, summary: Summary) -> None:
    """Write a summary into a run's folder. Raises OSError if it cannot be written."""
    files.write_text(run / SUMMARY, seals.sealed(vars(summary), compact=True))


def read_arrays(run: Path, sha256: str) -> dict[str, Array] | None:
    """Return the arrays of a run's changes by name; None if missing.

    Args:
        run: folder of the run.
        sha256: hash of their file, from the summary.

    Raises:
        DamagedError: if they are not those that were written with the summary.
    """
    path = run / CHANGES
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise seals.damaged(path, "a file that was changed after it was written")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:  # NumPy reads a file in thirty pieces
        return {name: stored[name] for name in stored.files}


@held
def write_arrays(run: Path, arrays: Mapping[str, Array]) -> str:
    """Write a run's changes; return the hash of their file. Raises OSError."""
    temporary = files.hidden_name(run / CHANGES)
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # its stub takes allow_pickle from the same place
            file.flush()
            os.fsync(file.fileno())
        sha256 = seals.hash_of(temporary)
        temporary.replace(run / CHANGES)
    finally:
        temporary.unlink(missing_ok=True)
    return sha256
