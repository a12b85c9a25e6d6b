"""Finished tasks of a measurement that is not done, so that an interrupted one resumes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from harness.core.errors import RecordError
from harness.records import record_files
from harness.records.schema import Finished, Score

PARTIAL = "partial"
"""Name of the folder that holds them, in that of a run or of the experiment."""


@dataclass(frozen=True)
class Partial:
    """The finished tasks of one measurement.

    Attributes:
        folder: their folder until the whole measurement is written.
        key: hash of the measured weights and of the evaluation's settings; tasks with another key
            are removed.
    """

    folder: Path
    key: str

    def get(self, suite: str, task: str) -> tuple[tuple[Score, ...], pd.DataFrame] | None:
        """Return the scores and items of a task, or None if it is not finished."""
        place = self._place(suite, task)
        try:
            found = record_files.read(place / "finished.json", Finished)
            if found is not None and found.key == self.key:
                return found.scores, record_files.read_samples(place, found.samples_sha256)
        except RecordError:  # damaged, or of another version: measure the task again
            pass
        shutil.rmtree(place, ignore_errors=True)
        return None

    def put(self, suite: str, task: str, scores: Sequence[Score], samples: pd.DataFrame) -> None:
        """Write a task: items first, then the json that marks it finished."""
        place = self._place(suite, task)
        sha256 = record_files.write_samples(place, samples)
        record_files.write_json(place / "finished.json", Finished(key=self.key, samples_sha256=sha256, scores=tuple(scores)))

    def _place(self, suite: str, task: str) -> Path:
        return self.folder / quote(suite, safe="") / quote(task, safe="")
