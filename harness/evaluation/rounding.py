"""Effect of rounding: two measurements of one model with other batches and threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.evaluation.evaluator import Result
from harness.records.schema import Score

Key = tuple[str, str]
"""Task and filter."""


def with_spread(first: Result, second: Result) -> tuple[Score, ...]:
    """Return the scores of a measurement with their second values and spread.

    The spread is the largest difference of an item's log-likelihood. Where the second measurement
    failed, both stay empty, which is not the same as no spread.
    """
    values = {(score.task, score.metric, score.filter): score.value for score in second.scores if score.status == "ok"}
    nats = _nats(first.samples, second.samples)
    found = []
    for score in first.scores:
        again = values.get((score.task, score.metric, score.filter)) if score.status == "ok" else None
        largest = nats.get((score.task, score.filter)) if again is not None else None
        found.append(dataclasses.replace(score, remeasured=again, numeric_spread_nats=largest))
    return tuple(found)


def _nats(first: pd.DataFrame, second: pd.DataFrame) -> dict[Key, float]:
    """Return the largest difference of a log-likelihood by task and filter, in nats.

    A task is left out if items have no log-likelihoods, or other numbers of them.
    """
    before, after = _log_likelihoods(first), _log_likelihoods(second)
    largest: dict[Key, list[float]] = {}
    for (task, filter_name, doc), values in before.items():
        again = after.get((task, filter_name, doc))
        same = again is not None and len(again) == len(values)
        largest.setdefault((task, filter_name), []).append(_difference(values, again) if again is not None and same else float("nan"))
    return {key: max(values) for key, values in largest.items() if not np.isnan(values).any()}


def _difference(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.max(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)), initial=0.0))


def _log_likelihoods(samples: pd.DataFrame) -> dict[tuple[str, str, str], Sequence[float]]:
    columns = zip(samples["task"], samples["filter"], samples["doc_hash"], samples["log_likelihoods"], strict=True)
    return {(task, filter_name, doc): values for task, filter_name, doc, values in columns if np.ndim(values) == 1}
