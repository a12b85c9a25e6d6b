"""Scores from items, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from harness.evaluation.samples import averaged_metrics, failed, scores_of
from harness.evaluation.suites import Suite

SUITE = Suite(name="s", tasks=("t",), metric="acc")


def items(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    fixed = {"task": ["t"] * n, "filter": ["none"] * n, "chance": [0.25] * n, "unparsed": [False] * n, "truncated": [False] * n}
    return pd.DataFrame(fixed | {name.replace("__", "."): values for name, values in columns.items()})


def test_the_value_is_the_mean_and_its_error_that_of_a_mean() -> None:
    """Items 1, 1, 0, 0: mean 1/2, sample deviation sqrt(1/3), over sqrt(4)."""
    (score,) = scores_of(SUITE, items(metric__acc=[1.0, 1.0, 0.0, 0.0]), {})
    assert (score.value, score.n, score.chance, score.primary) == (0.5, 4, 0.25, True)
    assert score.stderr == pytest.approx(math.sqrt(1 / 3) / 2)


def test_a_ratio_metric_is_total_over_total() -> None:
    """10 nats on 2 tokens and 8 on 8: 18/10 nats a token, not the mean of 5 and 1."""
    suite = Suite(name="s", kind="likelihood", data="d", metric="nats_per_token", higher_is_better=False, chance=None)
    (score,) = scores_of(suite, items(metric__nats_per_token=[5.0, 1.0], weight__nats_per_token=[2.0, 8.0]), {})
    assert score.value == pytest.approx(1.8)
    assert score.stderr == pytest.approx(math.sqrt(2 * ((2 * 3.2) ** 2 + (8 * 0.8) ** 2)) / 10)
    assert not score.higher_is_better


def test_a_metric_other_than_the_suites_is_kept_but_not_primary() -> None:
    """Both acc and acc_norm stand in the table; the suite says which one judges."""
    found = scores_of(SUITE, items(metric__acc=[1.0, 0.0], metric__acc_norm=[1.0, 1.0]), {"acc_norm": True})
    assert {score.metric: score.primary for score in found} == {"acc": True, "acc_norm": False}


def test_a_task_that_failed_has_a_reason_and_no_value() -> None:
    """A failed measurement is never a score of 0."""
    score = failed(SUITE, "t", "RuntimeError: out of\nmemory")
    assert (score.status, score.value, score.reason) == ("failed", None, "RuntimeError: out of memory")


def test_only_metrics_that_are_means_over_items_are_kept() -> None:
    """A perplexity or a correlation has no per-item value whose mean is the score."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def perplexity(values: list[float]) -> float:
        return math.exp(-mean(values))

    task = SimpleNamespace(aggregation=lambda: {"acc": mean, "perplexity": perplexity})
    assert averaged_metrics(task) == ["acc"]
