"""Points to export, with their rows of the tidy table; texts without secrets and absolute paths."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.table.columns import SUITE_TASK
from harness.analysis.table.frame import table
from harness.core.errors import RecordError, did_you_mean, explain
from harness.core.masking import masked
from harness.records.record_files import MEASUREMENT
from harness.records.schema import Point, Record
from harness.records.store import Experiment
from harness.report.axis import axis_unit

AT = "@"
"""Between a run's id and a volume."""

ELSEWHERE = "elsewhere"
"""Objective of a training elsewhere, of which checkpoints are measured."""

_PATH = re.compile(r"(?<![\w:/\\.<])(?:file://|~|[A-Za-z]:(?=[\\/]))?(?:[\\/]+[^\s/\\'\"`,;:()<>]+)+[\\/]?")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A point to export, and the volume 0 that it is compared with.

    Attributes:
        experiment: its results.
        record: of its run.
        point: the state after ``point.volume``.
        before, after: rows of the tidy table at volume 0 and at the point.
    """

    experiment: Experiment
    record: Record
    point: Point
    before: pd.DataFrame
    after: pd.DataFrame

    @property
    def key(self) -> str:
        """The name of its folder: run id and volume."""
        return f"{self.record.run_id}-{self.point.volume}"

    @cached_property
    def name(self) -> str:
        """The name of the measured model."""
        return f"{slug(self.experiment.name)}-{self.key}"

    @cached_property
    def base(self) -> str:
        """The name of the model at volume 0."""
        labels = self.record.labels
        return cleaned(str(labels.get("reference") or labels["model"]))

    @cached_property
    def description(self) -> str:
        """One phrase: start model, data, volume and method."""
        labels = {name: cleaned(str(value)) for name, value in self.record.labels.items() if value is not None}
        unit = axis_unit(self.after)
        after = f"{self.point.volume} {unit}" if unit != "checkpoints" else "training"
        if labels["objective"] == ELSEWHERE:
            return f"{labels['model']} after {after} of {labels['data']} (trained elsewhere)"
        settings = f"tuning {labels['tuning']}, objective {labels['objective']}, mitigation {labels['mitigation']}"
        return f"{labels['model']} after {after} of {labels['data']} ({settings}, seed {self.record.seed})"

    def measured_at(self, weights_sha256: str) -> str:
        """Return when the last suite was measured on some weights, ISO 8601; empty if unknown."""
        places = [("measurements", one, weights_sha256[:16], MEASUREMENT) for one in self.record.evaluations.values()]
        return max((str(self.experiment.glance(*place).get("provenance", {}).get("time", "")) for place in places), default="")


@dataclass
class Told:
    """Lines for the user about what the files of an export lack.

    Attributes:
        missing: measurements without a value, each with its reason.
        left_out: what the format cannot hold, with the reason.
    """

    missing: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, None] = field(default_factory=dict)

    def lacks(self, of: str, row: Mapping[str, Any]) -> None:
        """Note that a row of a model has no value."""
        self.missing[f"{of}: {row['suite']}, {title(row)}, {metric_name(row)}: {missing(row)}"] = None


def chosen(experiment: Experiment, asked: Sequence[str]) -> list[Exported]:
    """Return the points to export.

    Args:
        experiment: its results.
        asked: ``RUN_ID`` (its largest volume) or ``RUN_ID@VOLUME``; empty is each recorded run of
            the last command at its largest volume.

    Raises:
        RecordError: for a run or volume without a record, or if none is recorded.
    """
    rows = table(experiment, stale=bool(asked))
    rows = rows[rows["suite"].notna()]
    recorded = {run_id: record for run_id in dict.fromkeys(rows["run_id"]) if (record := experiment.record(str(run_id))) is not None}
    wanted = [_split(text) for text in asked] or [(run_id, None) for run_id in recorded]
    if not wanted:
        raise RecordError(
            explain(f"export of '{experiment.name}'", got="no recorded run", allowed="finished runs", fix="wait for a run to finish")
        )
    return [_point(experiment, recorded, rows, run_id, volume) for run_id, volume in dict.fromkeys(wanted)]


def _split(text: str) -> tuple[str, str | None]:
    run_id, _, volume = text.partition(AT)
    return run_id, volume or None


def _point(experiment: Experiment, recorded: Mapping[str, Record], rows: pd.DataFrame, run_id: str, volume: str | None) -> Exported:
    if run_id not in recorded:
        known = sorted(recorded)
        fix = did_you_mean(run_id, known) or f"`harness table {experiment.name}` has the ids"
        shown = ", ".join(known[:6]) + (f" and {len(known) - 6} more" if len(known) > 6 else "")
        raise RecordError(explain("--run", got=repr(run_id), allowed=f"a recorded run: {shown or 'there is none'}", fix=fix))
    record = recorded[run_id]
    volumes = [str(one) for one in record.volumes]
    if volume is not None and volume not in volumes:
        raise RecordError(explain(f"--run {run_id}{AT}", got=repr(volume), allowed=f"a volume of this run: {', '.join(volumes)}"))
    at = int(volume or max(record.volumes))
    point = experiment.point(run_id, at)
    if point is None:
        raise RecordError(
            explain(f"run {run_id}", got=f"no point at volume {at}", allowed="every volume of its record", fix="harness verify")
        )
    own = rows[rows["run_id"] == run_id]
    before, after = (own[own["volume"] == number].reset_index(drop=True) for number in (0, at))
    return Exported(experiment=experiment, record=record, point=point, before=before, after=after)


def title(row: Mapping[str, Any]) -> str:
    """Return the name of what a row scores: its task; of a suite's own row, the suite."""
    return str(row["suite"] if row["task"] == SUITE_TASK else row["task"])


def metric_name(row: Mapping[str, Any]) -> str:
    """Return a row's metric, with its filter if it has one."""
    return str(row["metric"]) if row["filter"] in ("none", None) or pd.isna(row["filter"]) else f"{row['metric']}:{row['filter']}"


def records(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield rows as plain values: None for a missing one; a failed row has no value."""
    for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
        found = {str(name): value for name, value in row.items()}
        if found["value"] is not None and not math.isfinite(found["value"]):
            found |= {"value": None, "reason": found["reason"] or f"its value is {found['value']}"}
        found["reason"] = cleaned(str(found["reason"])) if found["reason"] else None
        yield found


def missing(row: Mapping[str, Any]) -> str:
    """Return why a row has no value."""
    return str(row["reason"] or "not measured")


def slug(text: str) -> str:
    """Return a name of letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^\w.-]+", "-", cleaned(text)).strip("-.") or "unnamed"


def cleaned(text: str) -> str:
    """Return a text on one line, secrets masked, absolute paths cut to their last part."""
    text = masked(text)
    for place in {str(Path.home()), str(Path.cwd())} - {"/"}:
        text = text.replace(f"{place}/", "~/")
    return " ".join(_PATH.sub(lambda match: re.split(r"[\\/]", match[0].rstrip("\\/"))[-1], text).split())


def cleaned_values(value: Any) -> Any:
    """Return plain values with every text cleaned, that of keys included."""
    if isinstance(value, Mapping):
        return {cleaned(str(key)): cleaned_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned_values(one) for one in value]
    return cleaned(value) if isinstance(value, str) else value
