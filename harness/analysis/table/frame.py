"""Tidy table of an experiment, one row per point × task × metric (× filter).

Repeated and missing values:

- Volume 0 is stored once per model and suite, and repeated here for every run, with delta 0, so
  that each run_id has a whole curve.
- A suite is a row with task ``*``: the mean of its tasks' primary metric with equal weight, failed
  if any of its tasks failed.
- A measurement that failed, or whose items cannot be joined to those before, is a row with status
  ``failed``, a reason and no numbers.
- A run whose last attempt failed has one row with status ``failed``. A run with neither record nor
  failure (running, or killed) has one row with status ``unfinished``. Points that such a run has
  written have rows of their own with status ``ok``. Only a record names the baselines, so without
  one their change is empty, with a reason.
- A run whose records cannot be read has one row with status ``failed`` and the reason, which is
  also an error on the terminal.

A completed run is read from its summary (``harness.analysis.table.runs``). A missing summary is
written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

from harness.analysis.table.columns import COLUMNS, DESCRIPTIONS, LATE, SUITE_TASK
from harness.analysis.table.runs import RunReader
from harness.analysis.table.variants import LABELS, variants
from harness.config.identity import training_id
from harness.core.display import OUTPUT
from harness.core.errors import RecordError
from harness.records.store import Experiment
from harness.records.summary_files import Summary

__all__ = ["COLUMNS", "DESCRIPTIONS", "SUITE_TASK", "table"]

MAX_ERRORS = 5
"""Unreadable runs that are named on the terminal."""

BATCH = 500
"""Number of runs whose values are held as Python objects at a time."""


def table(experiment: Experiment, *, stale: bool = False, reader: RunReader | None = None) -> pd.DataFrame:
    """Return the tidy table of an experiment.

    Args:
        experiment: its results folder.
        stale: whether to include runs that the last command did not ask for.
        reader: reader of the same experiment, to share its cache with other readers.

    Returns:
        Columns as in COLUMNS; rows by run, then volume, then suite, each suite's own row before its
        tasks.

    Raises:
        RecordError: if no run can be read: records are damaged, of another version, or name a point
            or measurement that does not exist.
    """
    current = experiment.current()
    asked = [run_id for run_id in experiment.run_ids() if stale or run_id in current]
    reader = reader or RunReader(experiment)
    labels: dict[str, dict[str, Any]] = {}
    evaluations: dict[str, dict[str, str]] = {}
    sizes: list[int] = []
    parts: list[pd.DataFrame] = []
    errors: dict[str, RecordError] = {}
    for start in range(0, len(asked), BATCH):
        found = {run_id: _rows(reader, run_id, errors) for run_id in asked[start : start + BATCH]}
        labels |= {run_id: {name: rows.column(name)[0] for name in LABELS} for run_id, rows in found.items() if rows.rows}
        evaluations |= {run_id: _evaluations(rows) for run_id, rows in found.items() if rows.rows}
        sizes += [rows.rows for rows in found.values()]
        parts.append(_frame(list(found.values())))
    _report(errors, len(asked))
    whole = pd.concat(parts, ignore_index=True) if parts else _frame([])
    recorded = [run_id for run_id in labels if run_id not in errors and (experiment.run_folder(run_id) / "record.json").exists()]
    named = variants(labels, _Identities(experiment, recorded), evaluations)
    for column, names in zip(LATE, (_arms(experiment, asked), named), strict=True):
        values = [name for run_id, size in zip(asked, sizes, strict=True) for name in [names.get(run_id) or None] * size]
        whole.insert(list(COLUMNS).index(column), column, pd.Series(_array(values, COLUMNS[column])))
    return whole


def _rows(reader: RunReader, run_id: str, errors: dict[str, RecordError]) -> Summary:
    """Return the rows of a run; if it cannot be read, note the error."""
    try:
        return reader.rows(run_id)
    except RecordError as error:
        errors[run_id] = error
        return reader.unreadable(run_id, error)


def _report(errors: Mapping[str, RecordError], asked: int) -> None:
    """Show which runs cannot be read. Raises the first error if no run can."""
    if errors and len(errors) == asked:
        raise next(iter(errors.values()))
    for error in list(errors.values())[:MAX_ERRORS]:
        OUTPUT.error(f"harness: {error}")
    if len(errors) > MAX_ERRORS:
        OUTPUT.error(f"harness: {len(errors) - MAX_ERRORS} more runs cannot be read; the table has the reasons")


def _evaluations(rows: Summary) -> dict[str, str]:
    """Return suite → evaluation id of a run."""
    return {suite: found for suite, found in dict.fromkeys(zip(rows.column("suite"), rows.column("evaluation_id"), strict=True)) if found}


def _arms(experiment: Experiment, run_ids: Sequence[str]) -> dict[str, str]:
    """Return run id → name of its arm; of a derived run, with its coefficient."""
    named = experiment.arms()
    parents = {run_id: training_id(run_id) for run_id in run_ids} if named else {}
    coefficients = {run_id: run_id.removeprefix(parent).removeprefix("-") for run_id, parent in parents.items() if parent in named}
    return {run_id: named[parents[run_id]] + (f"[coefficient={of}]" if of else "") for run_id, of in coefficients.items()}


class _Identities(Mapping[str, Mapping[str, Any]]):
    """Run id → identity in its record, read on access.

    Of thousands of runs, only those with equal labels are read.
    """

    def __init__(self, experiment: Experiment, run_ids: Sequence[str]) -> None:
        self._experiment = experiment
        self._run_ids = run_ids

    def __getitem__(self, run_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._experiment.glance("runs", run_id, "record.json").get("identity", {})
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._run_ids)

    def __len__(self) -> int:
        return len(self._run_ids)


def _frame(runs: Sequence[Summary]) -> pd.DataFrame:
    """Return the rows of some runs, with every column but LATE."""
    return pd.DataFrame(
        {name: _array([value for run in runs for value in run.column(name)], dtype) for name, dtype in COLUMNS.items() if name not in LATE}
    )


def _array(values: list[Any], dtype: str) -> ExtensionArray:
    """Return plain values as a column.

    For numbers this is three times as fast as pandas, which checks the type of every value.
    """
    if dtype == "string":
        return pd.array(values, dtype="string")
    missing = np.array([value is None for value in values], dtype=bool)
    known = [0 if value is None else value for value in values] if missing.any() else values
    if dtype == "Float64":
        return pd.arrays.FloatingArray(np.array(known, dtype=np.float64), missing)
    if dtype == "Int64":
        return pd.arrays.IntegerArray(np.array(known, dtype=np.int64), missing)
    return pd.arrays.BooleanArray(np.array(known, dtype=bool), missing)
