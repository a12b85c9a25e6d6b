"""Changes item by item, across the runs of an experiment."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from harness.analysis.table.measure import TaskChange
from harness.analysis.table.packing import RunChanges
from harness.analysis.table.runs import RunReader
from harness.records.store import Experiment

__all__ = ["Changes", "TaskChange"]

MEMORY = 512 * 1024**2
"""Bytes of changes held in memory; beyond it, the least recently used run is dropped."""


class Changes:
    """Per-item changes of an experiment's runs, read on first use.

    With the ``reader`` that read the table's rows, files that it has checked are not checked again.
    Access run by run, or cell by cell, reads each file once; any other order does too, as long as
    all changes fit into MEMORY.
    """

    def __init__(self, experiment: Experiment, reader: RunReader | None = None) -> None:
        self._reader = reader or RunReader(experiment)
        self._held: OrderedDict[str, tuple[RunChanges, int]] = OrderedDict()
        self._bytes = 0

    def get(self, run_id: str, volume: int, suite: str, task: str) -> TaskChange | None:
        """Return the changes of a leaf task's items at a volume, in the primary metric.

        Returns:
            None where there is no change: at volume 0, for a suite's own row, where a measurement
                failed or the task was not measured before.

        Raises:
            RecordError: if a record is damaged, of another version, or names a point or measurement
                that does not exist.
        """
        found = self._run(run_id).get((volume, suite, task))
        if found is None:
            return None
        clusters = None if found.clusters is None else found.clusters.astype(np.int64)
        return TaskChange(found.items, found.values.astype(np.float64), clusters)

    def _run(self, run_id: str) -> RunChanges:
        if run_id in self._held:
            self._held.move_to_end(run_id)
            return self._held[run_id][0]
        found = self._reader.changes(run_id)
        size = sum(change.values.nbytes + (0 if change.clusters is None else change.clusters.nbytes) for change in found.values())
        self._held[run_id] = found, size
        self._bytes += size
        while self._bytes > MEMORY and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1][1]
        return found
