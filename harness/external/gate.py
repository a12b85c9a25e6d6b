"""The gate: tests whether AFTER loses more than is allowed.

One mean over suites decides whether it passes; a suite of another unit has a limit of its own. Each
of these is two one-sided 5% tests, both decided by the 90% interval. A single suite fails the gate
only under Holm's procedure over all suites with a limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy import special

from harness.analysis.statistics.detectable import POWER
from harness.external import mean
from harness.external.judge import Aggregate
from harness.external.limits import Limits, Part, Place, parts
from harness.external.mean import Change

ALPHA = 0.05
LEVEL = 1 - 2 * ALPHA
"""Each end of this interval is a one-sided 5% test."""

FEWEST = 6
"""Independent items of any decision: with 5, the two-sided sign test of a verdict has 2/2⁵ > 5%."""

MOST_TIMES = 100
"""Largest multiple of the items that is stated; beyond it, the loss is as good as at the limit."""

Decision = Literal["lost more", "not lost", "undecided"]

CODES: dict[Decision, int] = {"lost more": 1, "not lost": 0, "undecided": 3}


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A test against a limit: of the mean over suites, of a suite, or of a task outside any suite.

    All numbers are in the metric's own unit and oriented: negative is worse for every metric.

    Attributes:
        name: of the suite or task; ``mean``.
        unit: ``share``, or the metric.
        items: number of items.
        independent: number of items, or clusters of them, that vary independently; of the mean, at
            most that of any suite whose items are not 0 or 1.
        limit: largest loss allowed; None if none is given.
        change: after minus before.
        low: lower end of the interval at LEVEL; None if the data do not determine it.
        high: upper end, likewise.
        decision: ``lost more`` of a suite that the mean includes, only under Holm.
        items_to_decide: number of items in all with which a test that is undecided would be decided
            with probability POWER, if change and variance stay as observed; None if it is decided,
            or no number up to MOST_TIMES times the items would do.
    """

    name: str
    unit: str
    items: int
    independent: int
    limit: float | None
    change: float
    low: float | None
    high: float | None
    decision: Decision
    items_to_decide: int | None = None

    @property
    def too_few(self) -> bool:
        """Whether the items are too few for any decision."""
        return self.independent < FEWEST

    @property
    def is_below(self) -> bool:
        """Whether the whole interval is below the limit."""
        return self.high is not None and self.limit is not None and self.high < -self.limit


@dataclass(frozen=True, kw_only=True)
class GatedSuite(Gated):
    """The test of a suite, or of a task outside any suite.

    Attributes:
        place: its place in the gate.
        weight: of the suite in the mean, 0 outside it.
        counted_in: larger suites in which some of its tasks count, or all (``in another``).
        equal: whether every log-likelihood is the same on both sides, to the last digit: nothing of
            what distinguishes the models has reached the scores, so that they decide nothing.
    """

    place: Place
    weight: float = 0.0
    counted_in: tuple[str, ...] = ()
    equal: bool = False

    @property
    def leaves_open(self) -> bool:
        """Whether the gate cannot pass because of this suite."""
        return self.equal or self.place == "no limit" or (self.place == "own limit" and self.decision == "undecided")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The decision on a comparison.

    The exit code is 1 if the mean or any suite lost more; 0 if neither did, the mean and every
    suite with a limit of its own are shown to lose less, and AFTER has every task of BEFORE; else
    3.

    Attributes:
        limits: as typed.
        mean: the test of the mean; None without suites in it.
        suites: the tests of suites.
        tests: number of suites in Holm's family.
        missing: tasks that BEFORE has and AFTER lacks.
    """

    limits: Limits
    mean: Gated | None
    suites: tuple[GatedSuite, ...]
    tests: int
    missing: tuple[str, ...] = ()

    @property
    def averaged(self) -> list[GatedSuite]:
        """The suites of the mean."""
        return [suite for suite in self.suites if suite.place == "in the mean"]

    @property
    def decision(self) -> Decision:
        """``lost more`` if the mean or any suite is; else ``undecided`` if anything is open."""
        tested = [*([self.mean] if self.mean else []), *self.suites]
        if any(one.decision == "lost more" for one in tested):
            return "lost more"
        is_open = self.missing or any(suite.leaves_open for suite in self.suites) or (self.mean and self.mean.decision == "undecided")
        return "undecided" if is_open else "not lost"

    def by_suite(self, suite: GatedSuite) -> Decision | None:
        """Return the decision that a suite alone makes; None if it only counts in the mean."""
        if suite.decision == "lost more":
            return suite.decision
        if self.mean and suite.place == "in the mean" and len(self.averaged) == 1:
            return self.mean.decision
        if suite.leaves_open:
            return "undecided"
        return suite.decision if suite.place == "own limit" else None

    @property
    def code(self) -> int:
        """The exit code."""
        return CODES[self.decision]

    def as_dict(self) -> dict[str, Any]:
        """Return the gate as plain values for JSON."""
        decided = {"decision": self.decision, "exit_code": self.code, "missing": list(self.missing)}
        weights = {suite.name: suite.weight for suite in self.averaged}
        return {
            "max_loss": self.limits.overall,
            "max_loss_of_suites": dict(self.limits.own),
            "level": LEVEL,
            "power": POWER,
            **decided,
            "mean": dataclasses.asdict(self.mean) | {"weights": weights} if self.mean else None,
            "holm_tests": self.tests,
            "suites": [dataclasses.asdict(suite) for suite in self.suites],
        }


def decide(aggregates: Sequence[Aggregate], limits: Limits, missing: Sequence[str] = ()) -> Gate:
    """Decide whether more is lost than the limits allow.

    Args:
        aggregates: the suites, and tasks outside any suite, of both sides.
        limits: the largest losses allowed.
        missing: tasks that BEFORE has and AFTER lacks. An aborted evaluation must not pass.

    Raises:
        ConfigError: if the suites named for the mean have no mean.
    """
    of = parts(aggregates, limits)
    averaged = [part.counted for part in of.values() if part.counted is not None]
    whole = _mean(averaged, limits) if averaged else None
    changes = {one.name: mean.of_suite(one, LEVEL) for one in aggregates}
    known = [one for one in aggregates if one.independent >= FEWEST and not math.isnan(changes[one.name].high)]
    tested = [one for one in known if of[one.name].limit is not None]
    below = [one for one in tested if changes[one.name].high < -(of[one.name].limit or 0.0)]
    failing = _failing(below, of, len(tested))
    if whole and len(averaged) == 1 and whole.decision == "lost more":  # one test, not two
        failing = failing | {averaged[0].name}
    suites = tuple(_suite(one, of[one.name], changes[one.name], one.name in failing, len(averaged)) for one in aggregates)
    if whole and whole.decision != "lost more" and any(suite.equal for suite in suites if suite.place == "in the mean"):
        whole = dataclasses.replace(whole, decision="undecided", items_to_decide=None)
    return Gate(limits=limits, mean=whole, suites=suites, tests=len(tested), missing=tuple(missing))


def _failing(below: Sequence[Aggregate], of: Mapping[str, Part], tests: int) -> set[str]:
    """Return the suites that lost more than their limit, by Holm's procedure over ``tests`` suites.

    Of k suites that are left, those below the limit at ALPHA / k are found, until none is. Only
    those below it at LEVEL can be.
    """
    failing: set[str] = set()
    while len(failing) < tests:
        level = 1 - 2 * ALPHA / (tests - len(failing))
        left = [one for one in below if one.name not in failing]
        found = {one.name for one in left if mean.of_suite(one, level).high < -(of[one.name].limit or 0.0)}
        if not found:
            break
        failing |= found
    return failing


def _mean(suites: Sequence[Aggregate], limits: Limits) -> Gated:
    """Return the test of the mean over suites."""
    items = sum(suite.items for suite in suites)
    independent = min(sum(suite.independent for suite in suites), *(suite.independent for suite in suites if not suite.is_binary), items)
    found = _test(mean.of_suites(suites, LEVEL), limits.overall, items, independent)
    return Gated(name="mean", unit=suites[0].unit, items=items, independent=independent, **found)


def _suite(suite: Aggregate, part: Part, change: Change, fails: bool, averaged: int) -> GatedSuite:
    """Return the test of a suite; ``fails`` as found by Holm's procedure."""
    found = _test(change, part.limit, suite.items, suite.independent)
    if fails:
        found |= {"decision": "lost more", "items_to_decide": None}
    elif found["decision"] == "lost more" or suite.equal == "log-likelihoods":
        found |= {"decision": "undecided", "items_to_decide": None}
    return GatedSuite(
        name=suite.name,
        unit=suite.unit,
        items=suite.items,
        independent=suite.independent,
        place=part.place,
        weight=1 / averaged if part.place == "in the mean" else 0.0,
        counted_in=part.holders,
        equal=suite.equal == "log-likelihoods",
        **found,
    )


def _test(change: Change, limit: float | None, items: int, independent: int) -> dict[str, Any]:
    """Return limit, change, ends, decision and the items that would decide."""
    known = {"limit": limit, "change": change.value}
    if math.isnan(change.low) or math.isnan(change.high):
        return known | {"low": None, "high": None, "decision": "undecided"}
    known |= {"low": change.low, "high": change.high}
    if limit is None or independent < FEWEST:
        return known | {"decision": "undecided"}
    decision: Decision = "lost more" if change.high < -limit else "not lost" if change.low > -limit else "undecided"
    return known | {"decision": decision, "items_to_decide": items_to_decide(change, limit, items) if decision == "undecided" else None}


def items_to_decide(change: Change, limit: float, items: int) -> int | None:
    """Return the number of items in all that would decide a test with probability POWER.

    The true change and the variance are taken to be those observed, and the distance of an end of
    the interval to shrink with the root of the number of items, the same in every task. None if it
    would be more than MOST_TIMES as many.
    """
    distance = abs(change.value + limit)
    reach = change.value - change.low if change.value > -limit else change.high - change.value
    wanted = (1 + float(special.ndtri(POWER) / special.ndtri(1 - ALPHA))) * reach
    return None if distance**2 * MOST_TIMES < wanted**2 else math.ceil((wanted / distance) ** 2 * items)
