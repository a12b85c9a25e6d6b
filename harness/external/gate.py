"""The gate: does AFTER lose more than is allowed? Two one-sided 5% tests, read off the 90% interval of the change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.config.strict import check
from harness.external.judge import Whole
from harness.external.sides import some

LEVEL = 0.90
"""Both ends of this interval are one-sided tests at 5%."""

Decision = Literal["lost more", "not lost", "undecided"]

CODES: dict[Decision, int] = {"lost more": 1, "not lost": 0, "undecided": 3}
WORDS: dict[Decision, str] = {
    "lost more": "more is lost than allowed",
    "not lost": "no more is lost than allowed",
    "undecided": "undecided: the interval reaches over the limit; more items would narrow it",
}


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A suite at the gate.

    All numbers are oriented: negative is worse, whatever the direction of the metric; its own unit.

    Attributes:
        low, high: ends of the interval at LEVEL; None where the data cannot say.
    """

    name: str
    change: float
    low: float | None
    high: float | None
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What the gate says: code 1 if any suite lost more, 0 if none did and all that BEFORE has was measured after, else 3.

    Attributes:
        missing: tasks that BEFORE has and AFTER lacks.
    """

    max_loss: float
    suites: tuple[Gated, ...]
    missing: tuple[str, ...] = ()

    @property
    def decision(self) -> Decision:
        """The whole: one suite that lost more decides.

        Else one that is undecided, or a task that AFTER lacks, leaves it open.
        """
        found = {suite.decision for suite in self.suites}
        if "lost more" in found:
            return "lost more"
        return "undecided" if "undecided" in found or self.missing else "not lost"

    @property
    def code(self) -> int:
        """The exit code."""
        return CODES[self.decision]


def require(max_loss: float | None, margin: float) -> None:
    """Refuse limits that mean nothing. Raises ConfigError."""
    check("compare: --max-loss", max_loss, "0 or greater, in the metric's own unit: 0.02 is 2 points", lambda v: v is None or v >= 0)
    check("compare: --margin", margin, "greater than 0, in the metric's own unit: 0.02 is 2 points", lambda v: v > 0)


def decide(wholes: Sequence[Whole], max_loss: float, missing: Sequence[str] = ()) -> Gate:
    """Decide for every suite, and every task of no suite, whether more than ``max_loss`` is lost.

    Args:
        wholes: what was measured on both sides.
        max_loss: in the metric's own unit.
        missing: tasks that BEFORE has and AFTER lacks. An evaluation that broke off must not pass.
    """
    return Gate(max_loss=max_loss, suites=tuple(_gated(whole, max_loss) for whole in wholes), missing=tuple(missing))


def _gated(whole: Whole, max_loss: float) -> Gated:
    found = whole.estimate(LEVEL)
    ends = (found.low, found.high) if whole.higher_is_better else (-found.high, -found.low)
    change = found.value if whole.higher_is_better else -found.value
    if any(math.isnan(end) for end in ends):
        return Gated(name=whole.name, change=change, low=None, high=None, decision="undecided")
    decision: Decision = "lost more" if ends[1] < -max_loss else "not lost" if ends[0] > -max_loss else "undecided"
    return Gated(name=whole.name, change=change, low=ends[0], high=ends[1], decision=decision)


def sentences(gate: Gate) -> list[str]:
    """Return a line for each suite and one for the whole."""
    lines = []
    for suite in gate.suites:
        known = suite.low is not None and suite.high is not None
        interval = f"[{suite.low:+.4f}, {suite.high:+.4f}]" if known else "no interval: the items say nothing of how much they could differ"
        words = WORDS[suite.decision] if known else "undecided"
        lines.append(f"gate {suite.name}: change {suite.change:+.4f} (negative is worse), {LEVEL:.0%} interval {interval}: {words}")
    verdict = {"lost more": "fail", "not lost": "pass", "undecided": "undecided"}[gate.decision]
    lacks = f" AFTER lacks {len(gate.missing)} task(s) that BEFORE has ({some(gate.missing)}):" if gate.missing else ""
    lines.append(f"gate at --max-loss {gate.max_loss:g} (two one-sided 5% tests):{lacks} {verdict}, exit code {gate.code}")
    return lines
