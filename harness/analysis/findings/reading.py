"""The paths of cells, read from the item changes of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis.findings.estimates import ItemChanges
from harness.analysis.findings.pairing import Stacked, Tasks, stacked
from harness.analysis.findings.paths import Path
from harness.analysis.statistics.clustered import Ints
from harness.analysis.table.columns import SUITE_TASK

SAME = ["model", "params_total", "data", "dtype"]
"""Labels that are equal within a group of cells that are compared."""

METHOD = ["tuning", "objective", "mitigation", "anchor", "epochs", "variant"]
"""Labels that define a method. Cells that differ in none of them, such as those that differ only in
learning rate, are not compared with each other."""

SETTINGS = ["trajectory", "learning_rate", "lr_tuned"]
"""Further labels of a cell, which decide what it is compared with."""


@dataclass(frozen=True)
class Arm:
    """A cell with its path.

    Attributes:
        cell: id of the cell.
        labels: its SAME, METHOD and SETTINGS labels.
        seeds: seeds that have every volume, in the order of the path's arrays.
        path: its path; None where there is none.
        items: hash of the items of each task, the headline's tasks first; only equal ones may be
            paired.
        clusters: clusters of each task.
        missing: note on seeds that were left out.
        reason: reason why there is no path, else empty.
    """

    cell: str
    labels: Mapping[str, Any]
    seeds: tuple[int, ...] = ()
    path: Path | None = None
    items: tuple[str, ...] = ()
    clusters: tuple[Ints | None, ...] = ()
    missing: str = ""
    reason: str = ""


_READ = ["cell", "volume", "suite", "task", "run_ids", "higher_is_better"]


class Reader:
    """Reader of the paths of cells, from the changes of their runs."""

    def __init__(self, table: pd.DataFrame, changes: ItemChanges, target: str, probe: str) -> None:
        runs = table.drop_duplicates("run_id").set_index("run_id")
        self.seed_of = {str(run_id): int(seed) for run_id, seed in runs["seed"].dropna().items()}
        self.changes, self.target, self.probe = changes, target, probe

    def alike(self, found: pd.DataFrame) -> Iterator[list[Arm]]:
        """Yield groups of cells that differ only in method, in the order of the findings.

        Only the items of one group are in memory at a time. Groups of one cell are left out.
        """
        wanted = found[found["suite"].isin([self.target, self.probe])]
        names = [*SAME, *METHOD, *SETTINGS]
        known = wanted.drop_duplicates("cell").set_index("cell")[names].astype(object)
        rows_of = known.where(known.notna(), None).to_dict("records")
        labels = {str(cell): {str(name): value for name, value in row.items()} for cell, row in zip(known.index, rows_of, strict=True)}
        for _, group in wanted[[*SAME, *_READ]].groupby(SAME, dropna=False, sort=False):
            if group["cell"].nunique() > 1:
                yield [self._arm(str(cell), labels[str(cell)], rows) for cell, rows in group[_READ].groupby("cell", sort=False)]

    def _arm(self, cell: str, labels: dict[str, Any], rows: pd.DataFrame) -> Arm:
        leaves = rows[rows["task"] != SUITE_TASK]
        tasks = [(suite, str(task)) for suite in (self.probe, self.target) for task in leaves[leaves["suite"] == suite]["task"].unique()]
        if {suite for suite, _ in tasks} != {self.probe, self.target}:
            return Arm(cell, labels, reason="no change of the target or of the headline suite")
        runs = self._runs(rows)
        volumes = sorted({volume for _, volume in runs})
        everyone = sorted({seed for seed, _ in runs})
        seeds = tuple(seed for seed in everyone if all(self._has(runs.get((seed, volume)), volume, tasks) for volume in volumes))
        if not seeds:
            return Arm(cell, labels, reason="no seed has a change at every volume")
        points = [stacked(self.changes, [runs[seed, volume] for seed in seeds], volume, tasks) for volume in volumes]
        known = [point for point in points if isinstance(point, Stacked)]
        if len(known) < len(points) or any(point.items != known[0].items for point in known):
            return Arm(cell, labels, reason="its points were measured on different items")
        left_out = ", ".join(str(seed) for seed in everyone if seed not in seeds)
        missing = f"seed {left_out} left out, which lacks a volume" if left_out else ""
        return Arm(cell, labels, seeds, self._path(volumes, known, tasks, rows), known[0].items, known[0].clusters, missing)

    def _runs(self, rows: pd.DataFrame) -> dict[tuple[int, int], str]:
        """Return (seed, volume) → run."""
        named = rows[["volume", "run_ids"]].dropna().drop_duplicates().itertuples(index=False)
        pairs = ((int(volume), run_id) for volume, run_ids in named for run_id in str(run_ids).split(","))
        return {(self.seed_of[run_id], volume): run_id for volume, run_id in pairs if run_id in self.seed_of}

    def _has(self, run_id: str | None, volume: int, tasks: Sequence[tuple[str, str]]) -> bool:
        return run_id is not None and all(self.changes.get(run_id, volume, suite, task) is not None for suite, task in tasks)

    def _path(self, volumes: Sequence[int], points: Sequence[Stacked], tasks: Sequence[tuple[str, str]], rows: pd.DataFrame) -> Path:
        better = {suite: bool(group["higher_is_better"].iloc[0]) for suite, group in rows.groupby("suite")}
        signs = {self.target: 1.0 if better[self.target] else -1.0, self.probe: -1.0 if better[self.probe] else 1.0}

        def of(suite: str) -> list[Tasks]:
            numbers = [number for number, (name, _) in enumerate(tasks) if name == suite]
            return [[signs[suite] * point.values[number] for number in numbers] for point in points]

        return Path(tuple(volumes), of(self.target), of(self.probe))
