"""Cells: groups of runs that differ only in seed.

With independent trajectories, where each volume is a separate run, they also differ in volume.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

CHOSEN = ["experiment", "model", "tuning", "objective", "mitigation", "data", "anchor", "trajectory", "epochs"]
"""Labels that every run has, even if it failed immediately."""

RESOLVED = ["params_total", "params_trainable", "learning_rate", "variant", "dtype"]
"""Labels that a run may lack until it is recorded."""

LABELS = [
    *["experiment", "model", "params_total", "params_trainable", "tuning", "objective", "mitigation", "data", "anchor"],
    *["trajectory", "epochs", "learning_rate", "lr_tuned", "variant", "dtype"],
]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cells:
    """Cells of an experiment, with their runs, labels and seeds.

    Attributes:
        of_run: run id → cell.
        labels: one row per cell, indexed by cell, columns LABELS.
        seeds: cell → the seeds that were asked for, those of failed runs included.
    """

    of_run: dict[str, str]
    labels: pd.DataFrame
    seeds: dict[str, set[int]]


def cells(table: pd.DataFrame) -> Cells:
    """Group the runs of a tidy table into cells.

    A run without a record (failed, killed or running) lacks some labels. It belongs to the only
    cell that its other labels allow. If they allow several, it is a cell of its own, and its seed
    counts as missing in each of them.
    """
    runs = table.drop_duplicates("run_id")[["run_id", "seed", *LABELS]].astype(object)
    rows = _rows(runs.where(runs.notna(), None))
    of_run, found = dict[str, str](), dict[str, Row]()
    seeds: dict[str, set[int]] = defaultdict(set)
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for row in (row for row in rows if row["params_total"] is not None):
        cell = of_run[row["run_id"]] = _hash(row)
        if cell not in found:
            found[cell] = row
            alike[tuple(row[name] for name in CHOSEN)].append(cell)
        seeds[cell].add(row["seed"])
    for row in (row for row in rows if row["params_total"] is None):
        fitting = [cell for cell in alike[tuple(row[name] for name in CHOSEN)] if _fits(row, found[cell])]
        own = fitting[0] if len(fitting) == 1 else _hash(row)
        found.setdefault(own, row)
        of_run[row["run_id"]] = own
        for cell in {own, *fitting}:
            seeds[cell].add(row["seed"])
    labels = pd.DataFrame({name: [row[name] for row in found.values()] for name in LABELS}, index=list(found), dtype=object)
    return Cells(of_run, labels, dict(seeds))


CONTROLLED = ["model", "tuning", "learning_rate", "trajectory"]
"""Labels that a control must share with its cell: another rate or schedule forgets differently."""


def _rows(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _hash(row: Row) -> str:
    plain = [None if row[name] is None else str(row[name]) for name in [*CHOSEN, *RESOLVED]]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:12]


def _fits(row: Row, cell: Row) -> bool:
    return all(row[name] is None or row[name] == cell[name] for name in RESOLVED)


def controls(labels: pd.DataFrame, control: Mapping[str, str]) -> tuple[pd.Series, dict[str, str]]:
    """Find the control of each cell: same model, tuning, learning rate and trajectory.

    Of several, the one with the most other labels in common is chosen.

    Args:
        labels: labels of the cells, as in ``Cells``.
        control: label → value that controls have.

    Returns:
        Whether each cell is a control, and cell → its control for those that have one.
    """
    found = is_control(labels, control)
    return found, controlled(labels, found) if found.any() else {}


def is_control(labels: pd.DataFrame, control: Mapping[str, str]) -> pd.Series:
    """Return whether each row has all labels of controls.

    False for all rows if no control is declared or a label does not exist.
    """
    if not control or any(name not in labels for name in control):
        return pd.Series(data=False, index=labels.index, dtype=bool)
    found = pd.Series(data=True, index=labels.index, dtype=bool)
    for name, value in control.items():
        found &= (labels[name].astype("string") == str(value)).fillna(False).astype(bool)
    return found


def controlled(labels: pd.DataFrame, is_control: pd.Series) -> dict[str, str]:
    """Return cell → its control, for the cells that have one.

    Args:
        labels: labels of the cells, as in ``Cells``.
        is_control: whether each cell is a control.
    """
    texts = labels.astype(object).where(labels.notna(), "").astype(str)
    others = [name for name in LABELS if name in labels and name != "lr_tuned"]  # labels that all controls share do not affect the choice
    rows = dict(zip(texts.index, _rows(texts), strict=True))
    known: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for cell in texts.index[is_control]:
        known[tuple(rows[cell][name] for name in CONTROLLED)].append(cell)
    of_cell = {}
    for cell in texts.index[~is_control]:
        row = rows[cell]
        if candidates := known[tuple(row[name] for name in CONTROLLED)]:
            of_cell[cell] = max(candidates, key=lambda one: sum(rows[one][name] == row[name] for name in others))
    return of_cell
