"""The rule that stops a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.analysis.table.measure import TaskChange
from harness.core.errors import ConfigError
from harness.external.checkpoints import stopping
from harness.external.checkpoints.stopping import Rule
from harness.external.judge import SHARE, Aggregate


def suite(values: Any, *, name: str = "s", binary: bool = True, equal: Any = None) -> Aggregate:
    """A suite of one task with these changes of its items; of nats unless they are 0 or 1."""
    changes = {"t": TaskChange("items", np.asarray(values, dtype=float), None)}
    unit = SHARE if binary else "nats_per_token"
    return Aggregate(name=name, unit=unit, higher_is_better=binary, changes=changes, is_binary=binary, equal=equal)


def exceeds(values: Any, limit: float, measurements: int = 10, **of: Any) -> bool:
    (one,) = Rule(limits={"s": limit}, measurements=measurements).test([suite(values, **of), suite([-1.0] * 9, name="without a limit")])
    return one.exceeds


def test_each_test_has_its_share_of_five_percent() -> None:
    """Two suites, ten measurements: twenty tests."""
    assert Rule(limits={"a": 0.1, "b": 0.1}, measurements=10).alpha == pytest.approx(0.0025)


@pytest.mark.parametrize(("lost", "stops"), [(100, True), (40, True), (37, False), (25, False), (0, False)])
def test_a_loss_stops_where_a_score_test_rejects_its_limit(lost: int, stops: bool) -> None:
    """500 items, none gained, limit 0.05: z = (lost/n − 0.05) / √(v/n), v = 0.05 · 0.95, one-sided.

    Where no item is gained the restricted estimate has none either, so v is that of a binomial.
    """
    z = (lost / 500 - 0.05) / np.sqrt(0.05 * 0.95 / 500)
    assert (z > stats.norm.isf(0.005)) == stops
    assert exceeds([-1.0] * lost + [0.0] * (500 - lost), 0.05) == stops


@pytest.mark.parametrize("measurements", [10, 100_000])
def test_nats_stop_where_a_t_test_rejects_the_limit(measurements: int) -> None:
    """The same at a level beyond the resamples of a bootstrap. A gain never stops."""
    changes = 0.1 * np.random.default_rng(0).normal(size=100)
    changes += 0.05 - changes.mean()
    error = stats.sem(changes)
    width = stats.t.isf(0.05 / measurements, 99) * error
    assert exceeds(changes, 0.05 - 1.2 * width, measurements, binary=False)
    assert not exceeds(changes, 0.05 - 0.99 * width, measurements, binary=False)
    assert not exceeds(-changes, 0.0, measurements, binary=False)


def test_equal_answers_and_undetermined_changes_do_not_stop() -> None:
    """The same log-likelihoods show nothing of the models; one item has no spread."""
    assert not exceeds([-1.0] * 500, 0.05, equal="log-likelihoods")
    assert not exceeds([9.0], 0.05, binary=False)


def test_points_typed_as_a_share_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"stop_at\['s'\]: got 5; allowed: less than 1 for shares: 0.05 is 5 points; fix: 0.05"):
        stopping.check_units("stop_at", {"s": 5}, [suite([0.0, 1.0])])
    stopping.check_units("stop_at", {"s": 5}, [suite([0.0, 1.0], binary=False)])
