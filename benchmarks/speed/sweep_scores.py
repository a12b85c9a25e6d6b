"""Whether two ways of measuring the same points gave the same scores: what the harness recorded beside what lm_eval wrote."""

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
"""How far a log-likelihood may differ: what other batches and threads do to float32."""

MOST_METRIC = 1e-9
"""How far a primary metric may differ: how a mean is rounded."""


@dataclass(frozen=True)
class Task:
    """A task's primary score, and the log-likelihoods of the choices of each item, by lm-eval's hash of its document."""

    metric: str
    value: float
    items: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Agreement:
    """How far two sets of scores are from each other.

    Attributes:
        scores: primary metrics that both have.
        items: items that both have.
        largest_metric, largest_nats: largest difference of a primary metric, and of the
            log-likelihood of a choice.
        problems: one line for each that is not within the numeric spread.
    """

    scores: int = 0
    items: int = 0
    largest_metric: float = 0.0
    largest_nats: float = 0.0
    problems: tuple[str, ...] = field(default=())

    def __add__(self, other: Agreement) -> Agreement:
        """Return that of both together."""
        return Agreement(
            self.scores + other.scores,
            self.items + other.items,
            max(self.largest_metric, other.largest_metric),
            max(self.largest_nats, other.largest_nats),
            self.problems + other.problems,
        )


def compare(where: str, ours: Mapping[str, Task], theirs: Mapping[str, Task]) -> Agreement:
    """Compare the scores of one point, task by task and item by item.

    What only one side has is a problem.

    Args:
        where: what is measured, for messages.
        ours: task → what the harness recorded.
        theirs: task → what lm_eval wrote.
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
    if not metric <= MOST_METRIC:  # no number is no agreement
        problems.append(f"{where}: {ours.metric} {ours.value} here, {theirs.value} there")
    if not nats <= MOST_NATS:
        problems.append(f"{where}: a log-likelihood differs by {nats:.2g} nats")
    return Agreement(1, len(both), metric, nats, tuple(problems))


def recorded(scores: tuple[Score, ...], samples: pd.DataFrame) -> dict[str, Task]:
    """Return what the harness recorded of a point, or of several suites' baselines put together."""
    found = {}
    for score in scores:
        if score.primary:
            own = samples[(samples["task"] == score.task) & (samples["filter"] == score.filter)]
            pairs = zip(own["doc_hash"], own["log_likelihoods"], strict=True)
            items = {str(item): tuple(map(float, values)) for item, values in pairs if values is not None}
            found[score.task] = Task(score.metric, math.nan if score.value is None else score.value, items)
    return found


def written(folder: Path, metrics: Mapping[str, tuple[str, str]]) -> dict[str, Task]:
    """Read what `lm_eval --output_path FOLDER --log_samples` wrote: the newest results and the samples beside them.

    Args:
        folder: where it wrote.
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
