"""Hugging Face's evaluation results: ``.eval_results/*.yaml`` of a model repository.

One entry names a data set of the hub that is registered as a benchmark, and one of its tasks. The
records do not hold these names, so the user gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from harness.analysis.table.columns import SUITE_TASK
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.report.exports.points import Exported, Told, metric_name, records

ALLOWED = "SUITE=ORG/DATASET:TASK_ID or SUITE/TASK=…, a benchmark on the hub, such as gsm8k=openai/gsm8k:gsm8k"

FILE = ".eval_results/forgetting-harness.yaml"


def named(asked: Sequence[str], points: Sequence[Exported]) -> dict[str, tuple[str, str]]:
    """Return suite or suite/task → data set and task id on the hub, as the user gives them.

    Raises:
        ConfigError: for text of another form, an unknown task, or if none is given.
    """
    known = list(dict.fromkeys(_key(row) for one in points for row in _rows(one)))
    if not asked:
        fix = f"choose of {', '.join(known)}"
        raise ConfigError(explain("--dataset", got="none, for --to eval-results", allowed=ALLOWED, fix=fix))
    found: dict[str, tuple[str, str]] = {}
    for text in asked:
        name, _, place = text.partition("=")
        dataset, _, task_id = place.partition(":")
        if not (task_id and dataset.count("/") == 1 and all(dataset.split("/"))):
            raise ConfigError(explain("--dataset", got=repr(text), allowed=ALLOWED))
        if name not in known:
            raise ConfigError(explain("--dataset", got=repr(name), allowed=", ".join(known), fix=did_you_mean(name, known)))
        found[name] = dataset, task_id
    return found


def files(one: Exported, told: Told, datasets: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the results of a point.

    A value is required, so a failed measurement is left out and noted, as are suites without a data
    set. Scores have the unit of the records: shares in 0..1, not percent.
    """
    entries = []
    suites = {key.partition("/")[0] for key in datasets}
    for row in _rows(one):
        if row["suite"] not in suites:
            told.left_out[f"{row['suite']}: no --dataset"] = None
        elif _key(row) not in datasets:
            continue
        elif row["value"] is None:
            told.lacks(one.key, row)
        else:
            entries.append(_entry(one, row, *datasets[_key(row)]))
    if entries:
        yield f"{one.key}/{FILE}", yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)


def _rows(one: Exported) -> Iterator[dict[str, Any]]:
    """Yield the rows in their suite's metric."""
    yield from (row for row in records(one.after) if row["primary"])


def _key(row: Mapping[str, Any]) -> str:
    """Return how the user names a row; a task alone may be part of several suites."""
    return str(row["suite"]) if row["task"] == SUITE_TASK else f"{row['suite']}/{row['task']}"


def _entry(one: Exported, row: Mapping[str, Any], dataset: str, task_id: str) -> dict[str, Any]:
    change = "" if row["delta"] is None else f", change {row['delta']:+.4f}"
    interval = "" if row["delta_low"] is None else f" (95% interval {row['delta_low']:+.4f} to {row['delta_high']:+.4f})"
    before = "" if row["before"] is None else f", before training ({one.base}) {row['before']:.4f}"
    notes = f"{metric_name(row)} of {row['n']} items, {one.description}{before}{change}{interval}"
    entry = {"dataset": {"id": dataset, "task_id": task_id}, "value": row["value"], "notes": notes}
    date = one.measured_at(one.point.weights_sha256)
    return entry | ({"date": date} if date else {})
