"""The gate: tests whether AFTER loses more than is allowed.

It is two one-sided 5% tests, both decided by the 90% interval of the change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.config.strict import check
from harness.external.judge import Aggregate
from harness.report import words

LEVEL = 0.90
"""Each end of this interval is a one-sided 5% test."""

MAX_NAMES = 8
"""Of missing tasks in a line."""

Decision = Literal["lost more", "not lost", "undecided"]

CODES: dict[Decision, int] = {"lost more": 1, "not lost": 0, "undecided": 3}
WORDS: dict[Decision, str] = {
    "lost more": "more is lost than allowed",
    "not lost": "no more is lost than allowed",
    "undecided": "undecided: the interval contains the limit; more items would narrow it",
}
EQUAL = "undecided: every log-likelihood is the same on both sides, as if one model had been measured twice"


@dataclass(frozen=True, kw_only=True)
class Gated:
    """The decision on a suite, or on a task outside any suite.

    All numbers are in the metric's own unit and oriented: negative is worse for every metric.

    Attributes:
        name: of the suite or task.
        change: after minus before.
        low: lower end of the interval at LEVEL; None if the data do not determine it.
        high: upper end, likewise.
        decision: on this suite.
        equal: whether every log-likelihood is the same on both sides, to the last digit: nothing of
            what distinguishes the models has reached the scores, so that they decide nothing.
    """

    name: str
    change: float
    low: float | None
    high: float | None
    decision: Decision
    equal: bool = False


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The decision on a comparison.

    The exit code is 1 if any suite lost more; 0 if none did and AFTER has every task of BEFORE;
    else 3.

    Attributes:
        max_loss: largest loss allowed, in the metric's own unit.
        suites: the decisions on suites.
        missing: tasks that BEFORE has and AFTER lacks.
    """

    max_loss: float
    suites: tuple[Gated, ...]
    missing: tuple[str, ...] = ()

    @property
    def decision(self) -> Decision:
        """``lost more`` if any suite is; else ``undecided`` if any is, or tasks are missing."""
        found = {suite.decision for suite in self.suites}
        if "lost more" in found:
            return "lost more"
        return "undecided" if "undecided" in found or self.missing else "not lost"

    @property
    def code(self) -> int:
        """The exit code."""
        return CODES[self.decision]

    def as_dict(self) -> dict[str, Any]:
        """Return the gate as plain values for JSON."""
        decided = {"decision": self.decision, "exit_code": self.code, "missing": list(self.missing)}
        return {"max_loss": self.max_loss, "level": LEVEL, **decided, "suites": [dataclasses.asdict(suite) for suite in self.suites]}


def require(max_loss: float | None, margin: float) -> None:
    """Reject invalid limits. Raises ConfigError."""
    check("compare: --max-loss", max_loss, "0 or greater, in the metric's own unit: 0.02 is 2 points", lambda v: v is None or v >= 0)
    check("compare: --margin", margin, "greater than 0, in the metric's own unit: 0.02 is 2 points", lambda v: v > 0)


def decide(aggregates: Sequence[Aggregate], max_loss: float, missing: Sequence[str] = ()) -> Gate:
    """Decide for each suite whether more than ``max_loss`` is lost.

    Args:
        aggregates: the suites, and tasks outside any suite, of both sides.
        max_loss: in the metric's own unit.
        missing: tasks that BEFORE has and AFTER lacks. An aborted evaluation must not pass.
    """
    return Gate(max_loss=max_loss, suites=tuple(_gated(one, max_loss) for one in aggregates), missing=tuple(missing))


def _gated(aggregate: Aggregate, max_loss: float) -> Gated:
    found = aggregate.estimate(LEVEL)
    ends = (found.low, found.high) if aggregate.higher_is_better else (-found.high, -found.low)
    change = found.value if aggregate.higher_is_better else -found.value
    if any(math.isnan(end) for end in ends):
        return Gated(name=aggregate.name, change=change, low=None, high=None, decision="undecided")
    decision: Decision = "lost more" if ends[1] < -max_loss else "not lost" if ends[0] > -max_loss else "undecided"
    equal = aggregate.equal == "log-likelihoods"
    decision = "undecided" if equal else decision
    return Gated(name=aggregate.name, change=change, low=ends[0], high=ends[1], decision=decision, equal=equal)


def sentences(gate: Gate) -> list[str]:
    """Return one line per suite, and one for the whole comparison."""
    lines = []
    for suite in gate.suites:
        known = suite.low is not None and suite.high is not None
        interval = f"[{suite.low:+.4f}, {suite.high:+.4f}]" if known else "not determined by these items"
        decision = EQUAL if suite.equal else WORDS[suite.decision] if known else "undecided"
        lines.append(f"gate {suite.name}: change {suite.change:+.4f} (negative is worse), {LEVEL:.0%} interval {interval}: {decision}")
    verdict = {"lost more": "fail", "not lost": "pass", "undecided": "undecided"}[gate.decision]
    names = words.listed(gate.missing, MAX_NAMES)
    lacks = f" AFTER lacks {len(gate.missing)} task(s) that BEFORE has ({names}):" if gate.missing else ""
    lines.append(f"gate at --max-loss {gate.max_loss:g} (two one-sided 5% tests):{lacks} {verdict}, exit code {gate.code}")
    return lines
