"""Learning and forgetting: two points joined item by item, and the change between them.

Items are joined by (suite, task, filter, doc hash) and metric, never by their order. A join of
different items (an item missing on one side, another prompt, target or weight) is rejected; it is
never reduced silently to the common items.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.statistics import clustered, stats
from harness.analysis.statistics.stats import Interval, Stratum
from harness.core.errors import RecordError, explain
from harness.records.schema import OWN_METRICS

CONTINUOUS = frozenset(metric for metrics in OWN_METRICS.values() for metric in metrics)

TASK_KEYS = ["suite", "task", "filter"]

Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Items:
    """Items of one task in one metric, ordered by doc hash; arrays have shape (n,).

    Attributes:
        where: name of the task and metric for messages.
        doc_hashes: hash of each document.
        asked: hash of each prompt and of its target.
        values: value of the metric.
        weights: weight of each item in the mean; 1 unless the metric is a ratio.
        answers: number of the choice with the largest log-likelihood, or the generated text; None
            where there is neither.
        continuous: whether the metric can take values other than 0 and 1, even if these items do
            not.
        chances: level of uniform guessing of each item; NaN where guessing has none.
        clusters: number of each item's cluster (such as its passage); None where items are not
            clustered.
    """

    where: str
    doc_hashes: Texts
    asked: Texts
    values: stats.Floats
    weights: stats.Floats
    answers: Texts
    continuous: bool = False
    chances: stats.Floats | None = None
    clusters: clustered.Ints | None = None

    @property
    def stratum(self) -> Stratum:
        """Values and weights."""
        return Stratum(self.values, self.weights)


class Samples:
    """Items of a measurement, sorted once so that each task is a slice."""

    def __init__(self, samples: pd.DataFrame) -> None:
        keys = [*TASK_KEYS, "doc_hash"]
        ordered = samples.sort_values(keys, kind="stable", ignore_index=True)
        self._texts = {name: ordered[name].to_numpy(dtype=object) for name in ["doc_hash", "prompt_hash", "target_hash"]}
        self._clusters = ordered["cluster"].to_numpy(dtype=object) if "cluster" in ordered else None
        self._answers = _answers(ordered)
        measured = ["chance", *(name for name in ordered.columns if name.startswith(("metric.", "weight.")))]
        self._numbers = {name: ordered[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in measured}
        sizes = ordered.groupby(TASK_KEYS, sort=True).size()
        ends = sizes.cumsum()
        self._slices = {key: slice(int(end - size), int(end)) for key, size, end in zip(sizes.index, sizes, ends, strict=True)}

    def items(self, suite: str, task: str, filter_name: str, metric: str) -> Items:
        """Return the items of a task that have a value of a metric.

        Raises RecordError where there is none, or where an item is repeated.
        """
        where = f"items of {suite}, {task}, {metric} (filter {filter_name})"
        rows = self._slices.get((suite, task, filter_name))
        if rows is None or f"metric.{metric}" not in self._numbers:
            raise RecordError(explain(where, got="none in samples.parquet", fix="remove its folder, then rerun its sweep or run"))
        values = self._numbers[f"metric.{metric}"][rows]
        kept = ~np.isnan(values)
        docs = self._texts["doc_hash"][rows][kept]
        if repeated := len(docs) - len(set(docs)):
            raise RecordError(explain(where, got=f"{repeated} repeated doc hashes", allowed="each item once"))
        weights = self._numbers[f"weight.{metric}"][rows][kept] if f"weight.{metric}" in self._numbers else np.ones(len(docs))
        asked = self._texts["prompt_hash"][rows][kept] + "/" + self._texts["target_hash"][rows][kept]
        weights, answers = np.where(np.isnan(weights), 1.0, weights), self._answers[rows][kept]
        chances = self._numbers["chance"][rows][kept]
        groups = None if self._clusters is None else clustered.numbered(self._clusters[rows][kept])
        is_continuous = metric in CONTINUOUS
        return Items(where, docs, asked, values[kept], weights, answers, is_continuous, chances, groups)


@dataclass(frozen=True)
class Pair:
    """The same items measured before and after."""

    before: Items
    after: Items

    @property
    def differences(self) -> Stratum:
        """After minus before, item by item."""
        return Stratum(self.after.values - self.before.values, self.after.weights)


def pair(before: Items, after: Items) -> Pair:
    """Join two measurements of one task item by item.

    Raises:
        RecordError: if an item is on one side only, or its prompt, target or weight differs.
    """
    if not np.array_equal(before.doc_hashes, after.doc_hashes):
        common = len(set(before.doc_hashes) & set(after.doc_hashes))
        got = f"{len(before.doc_hashes)} before and {len(after.doc_hashes)} after, {common} of them the same"
        raise RecordError(explain(after.where, got=got, allowed="the same items on both sides", fix="evaluate both again"))
    for name, differs in {
        "prompt or target": before.asked != after.asked,
        "weight": ~np.isclose(before.weights, after.weights, rtol=1e-9, atol=0.0),
    }.items():
        if count := int(np.sum(differs)):
            got = f"another {name} for {count} of {len(before.doc_hashes)} items"
            raise RecordError(explain(after.where, got=got, allowed="the same before and after", fix="evaluate both again"))
    return Pair(before, after)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change between two points, after minus before, in the metric's unit and sign.

    Attributes:
        n: number of items.
        before, after: means over tasks.
        delta: mean difference.
        interval: interval of delta, paired over items, at ``stats.LEVEL``.
        lost: number of items 1 → 0; None for a metric that is not 0 or 1.
        gained: number of items 0 → 1; None for a metric that is not 0 or 1.
        p_value: exact McNemar for 0/1 items, else a paired sign-flip permutation (of clusters,
            where items are clustered).
        p_mid: McNemar's mid-p; None where p_value is not McNemar's.
        agreement: share of items with the same answer as before; None without answers.
    """

    n: int
    before: float
    after: float
    delta: float
    interval: Interval
    lost: int | None
    gained: int | None
    p_value: float
    p_mid: float | None
    agreement: float | None


def change(pairs: Sequence[Pair]) -> Change:
    """Return the change of one task, or of several tasks with equal weight.

    Where the items of a task are clustered, the interval and the p-value are those of clusters. For
    several tasks of 0/1 items, the p-value is McNemar's on the summed counts if all tasks have the
    same number of items (its statistic is then the suite's difference), else a sign-flip
    permutation of the suite's difference.
    """
    differences = [item.differences for item in pairs]
    binary = all(_is_binary(item.before) and _is_binary(item.after) for item in pairs)
    lost = [int(np.sum(values < 0)) for values, _ in differences]
    gained = [int(np.sum(values > 0)) for values, _ in differences]
    sizes = [len(values) for values, _ in differences]
    groups = [item.after.clusters for item in pairs]
    in_clusters = any(of is not None for of in groups)
    exact = binary and len(set(sizes)) == 1 and not in_clusters
    if in_clusters:
        interval = clustered.difference_interval(differences, groups, binary=binary)
    else:
        interval = stats.difference_interval(lost, gained, sizes) if binary else stats.mean_interval(differences)
    return Change(
        n=sum(sizes),
        before=stats.mean([item.before.stratum for item in pairs]),
        after=stats.mean([item.after.stratum for item in pairs]),
        delta=stats.mean(differences),
        interval=interval,
        lost=sum(lost) if binary else None,
        gained=sum(gained) if binary else None,
        agreement=agreement(pairs),
        p_value=stats.mcnemar(sum(lost), sum(gained)) if exact else clustered.sign_flip(differences, groups),
        p_mid=stats.mcnemar_mid(sum(lost), sum(gained)) if exact else None,
    )


def agreement(pairs: Sequence[Pair]) -> float | None:
    """Return the share of items with the same answer on both sides.

    Tasks have equal weight. None where a task has no answers. Whether answers are right does not
    matter: accuracy can stay the same while answers change (Kalajdzievski 2024, arXiv 2401.05605,
    section 3.1).
    """
    shares = []
    for item in pairs:
        if any(answer is None for answer in [*item.before.answers, *item.after.answers]):
            return None
        shares.append(float(np.mean(item.before.answers == item.after.answers)))
    return sum(shares) / len(shares)


def _answers(samples: pd.DataFrame) -> Texts:
    """Return the answer of each item, shape (n,); None where there is none.

    The answer is the number of the likeliest of two or more choices, or a generated text (one
    without log-likelihoods).
    """
    found = np.empty(len(samples), dtype=object)
    for i, (choices, scores, text) in enumerate(zip(samples["choices"], samples["log_likelihoods"], samples["text"], strict=True)):
        if isinstance(scores, Sized) and isinstance(choices, Sized) and len(choices) > 1:
            found[i] = int(np.argmax(np.asarray(scores, dtype=float)))
        elif not isinstance(scores, Sized) and isinstance(text, str):
            found[i] = text
    return found


def value_interval(tasks: Sequence[Items]) -> Interval:
    """Return the interval over items of the mean over tasks, at ``stats.LEVEL``."""
    groups = [items.clusters for items in tasks]
    if any(of is not None for of in groups):
        return clustered.value_interval([items.stratum for items in tasks], groups, binary=is_binary(tasks))
    if all(_is_binary(items) for items in tasks):
        return stats.proportion_interval([float(items.values.sum()) for items in tasks], [len(items.values) for items in tasks])
    return stats.mean_interval([items.stratum for items in tasks])


def is_binary(tasks: Sequence[Items]) -> bool:
    """Return whether the values of all tasks are 0 or 1, with weight 1."""
    return all(_is_binary(items) for items in tasks)


def _is_binary(items: Items) -> bool:
    return not items.continuous and stats.is_binary(items.values) and bool(np.all(items.weights == 1.0))
