"""Agreement of scores of the same points: the harness' records and lm_eval's results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from harness.records.schema import Score

MOST_NATS = 1e-3
"""Largest difference of a log-likelihood: the effect of other batches and threads in float32."""

MOST_METRIC = 1e-9
"""Largest difference of a primary metric: the rounding of a mean."""


@dataclass(frozen=True)
class Task:
    """A task's primary score, and the log-likelihoods of each item's choices.

    Items are keyed by lm-eval's hash of their document.
    """

    metric: str
    value: float
    items: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Agreement:
    """Differences between two sets of scores.

    Attributes:
        scores: number of primary metrics that both have.
        items: number of items that both have.
        largest_metric, largest_nats: largest difference of a primary metric, and of the
            log-likelihood of a choice.
        problems: one line for each difference beyond rounding.
    """

    scores: int = 0
    items: int = 0
    largest_metric: float = 0.0
    largest_nats: float = 0.0
    problems: tuple[str, ...] = field(default=())

    def __add__(self, other: Agreement) -> Agreement:
        """Return the agreement of both together."""
        return Agreement(
            self.scores + other.scores,
            self.items + other.items,
            max(self.largest_metric, other.largest_metric),
            max(self.largest_nats, other.largest_nats),
            self.problems + other.problems,
        )


def compare(where: str, ours: Mapping[str, Task], theirs: Mapping[str, Task]) -> Agreement:
    """Compare the scores of one point, task by task and item by item.

    A task that only one side has is a problem.

    Args:
        where: the point, for messages.
        ours: task → score recorded by the harness.
        theirs: task → score written by lm_eval.
    """
    found = Agreement(problems=tuple(f"{where}, {task}: only one side has it" for task in sorted(set(ours) ^ set(theirs))))
    for task in sorted(set(ours) & set(theirs)):
        found += _compare_task(f"{where}, {task}", ours[task], theirs[task])
    return found


def _compare_task(where: str, ours: Task, theirs: Task) -> Agreement:
    problems = []
    if set(ours.items) != set(theirs.items):
        problems.append(f"{where}: other items")
    metric = abs(ours.value - theirs.value)
    both = [(ours.items[item], theirs.items[item]) for item in ours.items if item in theirs.items]
    if any(len(a) != len(b) for a, b in both):
        problems.append(f"{where}: other choices")
    nats = max((abs(a - b) for own, other in both for a, b in zip(own, other, strict=False)), default=0.0)
    if not metric <= MOST_METRIC:  # true for NaN too
        problems.append(f"{where}: {ours.metric} {ours.value} here, {theirs.value} there")
    if not nats <= MOST_NATS:
        problems.append(f"{where}: a log-likelihood differs by {nats:.2g} nats")
    return Agreement(1, len(both), metric, nats, tuple(problems))


def recorded(scores: tuple[Score, ...], samples: pd.DataFrame) -> dict[str, Task]:
    """Return the harness' scores of a point, or of the baselines of several suites."""
    found = {}
    for score in scores:
        if score.primary:
            own = samples[(samples["task"] == score.task) & (samples["filter"] == score.filter)]
            pairs = zip(own["doc_hash"], own["log_likelihoods"], strict=True)
            items = {str(item): tuple(map(float, values)) for item, values in pairs if values is not None}
            found[score.task] = Task(score.metric, math.nan if score.value is None else score.value, items)
    return found


def written(folder: Path, metrics: Mapping[str, tuple[str, str]]) -> dict[str, Task]:
    """Read the newest results of `lm_eval --output_path FOLDER --log_samples`, with their samples.

    Args:
        folder: FOLDER.
        metrics: task → primary metric and filter.
    """
    results = max(folder.rglob("results_*.json"), key=lambda path: path.name)
    values: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))["results"]
    stamp = results.stem.removeprefix("results_")
    found = {}
    for task, (metric, filter_name) in metrics.items():
        if task in values:
            items = _items(results.with_name(f"samples_{task}_{stamp}.jsonl"), filter_name)
            found[task] = Task(metric, float(values[task][f"{metric},{filter_name}"]), items)
    return found


def _items(path: Path, filter_name: str) -> dict[str, tuple[float, ...]]:
    items = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        if sample["filter"] == filter_name:
            items[str(sample["doc_hash"])] = tuple(float(response[0][0]) for response in sample["resps"])
    return items
