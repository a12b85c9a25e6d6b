"""The rule that stops a training: alpha spending over its planned measurements.

The loss of S suites is tested at each of K planned measurements. Each test is one-sided at the
level α/(K·S), so that by the union bound a training is stopped with a probability of at most α if
no true loss exceeds its limit, however the measurements are correlated. They are: they share their
items and most of their weights. Group-sequential boundaries would be sharper, but assume
increments that are independent.

References: Lan & DeMets 1983, Biometrika 70:659 (alpha spending); Dunn 1961, Journal of the
American Statistical Association 56:52 (the union bound).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.statistics import two_level
from harness.config.strict import check
from harness.external import mean
from harness.external.gate import ALPHA
from harness.external.judge import SHARE, Aggregate


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The test of a suite at one measurement; losses are positive, in the suite's own unit.

    Attributes:
        name: of the suite.
        unit: ``share``, or the metric.
        limit: largest loss allowed.
        loss: observed.
        least: lower bound of the true loss at the rule's level; None where the data determine none.
    """

    name: str
    unit: str
    limit: float
    loss: float
    least: float | None

    @property
    def exceeds(self) -> bool:
        """Whether the loss is shown to exceed its limit."""
        return self.least is not None and self.least > self.limit


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The limits of a training, and how often it is tested.

    Attributes:
        limits: suite → largest loss, 0 or greater, in the suite's own unit.
        measurements: planned after the start.
    """

    limits: Mapping[str, float]
    measurements: int

    @property
    def alpha(self) -> float:
        """Level of each one-sided test."""
        return ALPHA / max(1, self.measurements * len(self.limits))

    def test(self, suites: Sequence[Aggregate]) -> list[Tested]:
        """Return the tests of the suites with a limit, at one measurement."""
        return [_test(suite, self.limits[suite.name], self.alpha) for suite in suites if suite.name in self.limits]


def check_units(where: str, limits: Mapping[str, float], suites: Sequence[Aggregate]) -> None:
    """Reject a limit of 1 or more for a suite of shares. Raises ConfigError."""
    for suite in suites:
        if suite.unit == SHARE and suite.name in limits:
            limit = limits[suite.name]
            check(
                f"{where}[{suite.name!r}]", limit, "less than 1 for shares: 0.05 is 5 points", lambda limit: limit < 1, f"{limit / 100:g}"
            )


def of_numbers(name: str, suite: Mapping[str, Any], limit: float, alpha: float) -> Tested:
    """Test a suite of ``forgetting.json``, by its loss, standard error and degrees of freedom."""
    least = None
    if suite["stderr"] is not None and suite["df"] is not None:
        least = suite["loss"] - two_level.quantile(1 - alpha, suite["df"]) * suite["stderr"]
    return Tested(name=name, unit=suite["unit"], limit=limit, loss=suite["loss"], least=least)


def _test(suite: Aggregate, limit: float, alpha: float) -> Tested:
    """Test one suite at a one-sided level."""
    level = 1 - 2 * alpha
    change = mean.of_suite(suite, level)
    low = -change.high
    if not suite.is_binary:  # the tail of so small a level holds few resamples of a bootstrap, or none
        found = suite.estimate(level)
        low = min(low, -change.value - two_level.quantile(1 - alpha, found.df) * found.stderr)
    least = None if math.isnan(low) or suite.equal == "log-likelihoods" else low
    return Tested(name=suite.name, unit=suite.unit, limit=limit, loss=-change.value, least=least)
