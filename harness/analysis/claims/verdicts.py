"""Verdicts on claims: an expectation, an estimate with its interval, and a margin."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.statistics.multiple import holm

Expect = Literal["more", "less", "alike", "no more", "no less"]

SHOWN, CONTRARY, NOT_SHOWN, NOT_TESTABLE = "shown", "contrary", "not shown", "not testable here"
VERDICTS = (SHOWN, CONTRARY, NOT_SHOWN, NOT_TESTABLE)

LEVEL = 0.05
"""Of a test: a p-value below it, adjusted by Holm over the lines of a claim's test, decides."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison of a test, on one model.

    Attributes:
        what: the comparison in words, such as ``own minus gold, at equal gain``.
        where: the models and tunings that it is on, such as ``nursery-m-chat, full``.
        expect: what the claim expects of the estimate.
        metric: of the estimate, as named by its suite; empty for a correlation.
        is_share: whether the estimate is a share, which is shown in points.
        estimate: in the metric's unit; positive is worse, or a rank correlation. NaN without one.
        low, high: ends of its interval at 95%.
        p_value: p-value of no difference, or no correlation.
        p_holm: p_value adjusted over the lines of the test.
        margin: an estimate whose interval is inside ±margin is negligible.
        verdict: as by ``judged``.
        note: the reason why there is no estimate, or a remark on it.
    """

    what: str
    where: str
    expect: Expect
    metric: str = ""
    is_share: bool = False
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    p_holm: float = math.nan
    margin: float = 0.0
    verdict: str = ""
    note: str = ""


def judged(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of one test with adjusted p-values and verdicts.

    The p-values are adjusted by Holm. ``more`` and ``less`` (than nothing, or than the other arm)
    are shown by an adjusted p-value below 0.05 and an interval that is not inside ±margin; they are
    contrary where the interval is inside it, or the other direction is significant. ``alike`` is
    shown by an interval inside ±margin, ``no more`` by its upper end at or below the margin, ``no
    less`` by its lower end at or above -margin; they are contrary where such a difference is
    significant.
    """
    adjusted, _ = holm([line.p_value for line in lines])
    found = [replace(line, p_holm=float(p)) for line, p in zip(lines, adjusted, strict=True)]
    return [replace(line, verdict=_verdict(line)) for line in found]


def _verdict(line: Line) -> str:
    if any(map(math.isnan, (line.estimate, line.low, line.high))):
        return NOT_TESTABLE
    if line.expect in ("less", "no less"):  # the mirror image of more and no more
        mirrored: Expect = "more" if line.expect == "less" else "no more"
        line = replace(line, expect=mirrored, estimate=-line.estimate, low=-line.high, high=-line.low)
    inside = line.low >= -line.margin and line.high <= line.margin
    significant = line.p_holm < LEVEL
    if line.expect == "more":
        shown, contrary = significant and line.estimate > 0 and not inside, inside or (significant and line.estimate < 0)
    elif line.expect == "alike":
        shown, contrary = inside, significant
    else:
        shown, contrary = line.high <= line.margin, significant and line.estimate > 0
    return SHOWN if shown else CONTRARY if contrary else NOT_SHOWN


def overall(lines: Sequence[Line]) -> str:
    """Return the verdict of a test: shown if every line is, contrary if one is and none is shown.

    Lines without an estimate do not count, unless all lack one: not testable here.
    """
    found = [line.verdict for line in lines if line.verdict != NOT_TESTABLE]
    if not found:
        return NOT_TESTABLE
    if set(found) == {SHOWN}:
        return SHOWN
    return CONTRARY if CONTRARY in found and SHOWN not in found else NOT_SHOWN


def counted(lines: Sequence[Line]) -> Mapping[str, int]:
    """Return verdict → number of lines, in the order of the verdicts, without zeros."""
    counts = Counter(line.verdict for line in lines)
    return {name: counts[name] for name in VERDICTS if counts[name]}
