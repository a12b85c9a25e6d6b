"""The mean change over suites, and its interval over their items.

Suites have equal weight, and so have the tasks of a suite. Tasks of 0/1 items have one interval for
their weighted mean (``two_level.weighted``): those of independent items a score interval, those of
clusters one by t. A suite of other values has an interval of its own. These independent parts are
joined by the method of variance estimates recovery: with weights w, changes d and lower ends l,

    low = Σ w d − √(Σ w² (d − l)²),

and likewise for the upper end.

Reference: Zou & Donner 2008, Statistics in Medicine 27:1693.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.analysis.statistics import task_sums, two_level
from harness.analysis.statistics.task_sums import TaskSums
from harness.external.judge import Aggregate


class Change(NamedTuple):
    """A change with the ends of its interval, oriented: negative is worse for every metric.

    The ends are NaN where the data do not determine them.
    """

    value: float
    low: float
    high: float


def of_suite(suite: Aggregate, level: float) -> Change:
    """Return the change of a suite, with its interval over items."""
    found = suite.estimate(level)
    return Change(found.value, found.low, found.high) if suite.higher_is_better else Change(-found.value, -found.high, -found.low)


def of_suites(suites: Sequence[Aggregate], level: float) -> Change:
    """Return the mean change of at least one suite, with its interval.

    Args:
        suites: of one unit, without a task in common.
        level: confidence level.
    """
    if len(suites) == 1:
        return of_suite(suites[0], level)
    tasks = [(1 / len(suite.changes), sums) for suite in suites if suite.is_binary for sums in _sums(suite)]
    plain = [one for one in tasks if one[1].counts is not None]
    clustered = [one for one in tasks if one[1].counts is None]
    parts = [(1.0, of_suite(suite, level)) for suite in suites if not suite.is_binary]
    parts += [_joint(of_kind, level) for of_kind in (plain, clustered) if of_kind]
    value = sum(weight * part.value for weight, part in parts) / len(suites)
    below, above = (
        math.hypot(*(weight * (part.value - part[end]) for weight, part in parts)) / len(suites)
        for end in (Change._fields.index("low"), Change._fields.index("high"))
    )
    return Change(value, value - below, value + above)


def _sums(suite: Aggregate) -> list[TaskSums]:
    """Return the sums of each task of 0/1 items, oriented: a loss is negative for every metric."""
    sign = 1.0 if suite.higher_is_better else -1.0
    return [task_sums.task(sign * change.values[None], None, change.clusters, suite.is_binary) for change in suite.changes.values()]


def _joint(tasks: Sequence[tuple[float, TaskSums]], level: float) -> tuple[float, Change]:
    """Return the sum of the weights of tasks, and their weighted mean with its interval."""
    weights, sums = zip(*tasks, strict=True)
    found = two_level.weighted(sums, weights, level)
    return sum(weights), Change(found.value, found.low, found.high)
