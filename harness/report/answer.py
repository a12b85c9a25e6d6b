"""Sentences that answer an experiment's question, no stronger than its verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.findings.verdicts import ALIKE, BETTER, KEPT, UNKNOWN, WORSE
from harness.report import words
from harness.report.evidence import Evidence
from harness.report.summary import NOT_COMPARED, AtEqualGain, MethodRow, Summary
from harness.report.tables import DisplayUnit

MAX_BEST = 3
"""Most methods that are named as the best."""

MAX_PAIRS = 3
"""Most pairs of methods with a sentence; all are in the section on equal gain."""


def at_equal_gain(evidence: Evidence, found: Summary) -> list[str]:
    """Return sentences on forgetting at equal gain: of mitigations, then of other pairs by model.

    Methods that are not ranked, or not known to gain, are left out.
    """
    mitigated: list[tuple[MethodRow, AtEqualGain]] = []
    pairs: dict[tuple[str, str], list[AtEqualGain]] = {}
    for row in found.rows:
        if row.equal is None or row.equal.verdict in NOT_COMPARED or row.one.cell in evidence.unranked:
            continue
        if row.equal.is_plain:
            mitigated.append((row, row.equal))
        else:
            pairs.setdefault((row.equal.method, row.equal.reference), []).append(row.equal)
    sentences = [_mitigations(found, mitigated)] if mitigated else []
    return sentences + [_pair(found, *names, ones) for names, ones in list(pairs.items())[:MAX_PAIRS]]


def _mitigations(found: Summary, rows: Sequence[tuple[MethodRow, AtEqualGain]]) -> str:
    verdicts = [one.verdict for _, one in rows]
    adjusted = words.adjusted(len(rows)) if {UNKNOWN, ALIKE} & set(verdicts) and len(rows) > 1 else ""
    panel, only = found.losses[0], rows[0]
    if len(rows) == 1:
        return f"At equal gain, {only[0].name} {_next_to(only[1].verdict, panel.suite, 'no mitigation')}: {_signed(only[1], panel.unit)}."
    text = f"At equal gain, {_counts(verdicts, panel.suite)}{adjusted}."
    better = [(row, one) for row, one in rows if one.verdict == BETTER]
    best = "; ".join(f"{row.name}, {_less(one, panel.unit)}" for row, one in sorted(better, key=_difference)[:MAX_BEST])
    return f"{text} Least: {best}." if best else text


def _difference(pair: tuple[MethodRow, AtEqualGain]) -> float:
    return pair[1].difference


def _pair(found: Summary, method: str, reference: str, ones: Sequence[AtEqualGain]) -> str:
    panel, only = found.losses[0], ones[0]
    if len(ones) == 1:
        return f"At equal gain, {method} {_next_to(only.verdict, panel.suite, reference)}: {_signed(only, panel.unit)}."
    verdicts = [one.verdict for one in ones]
    counts = [(verdict, verdicts.count(verdict)) for verdict in _FORGOT if verdict in verdicts]
    (first, number), *others = counts
    if first == UNKNOWN:
        return f"At equal gain, {method} {_next_to(UNKNOWN, panel.suite, reference)}, on any of {number} models."
    amounts = sorted(abs(one.difference) for one in ones if one.verdict == first)
    ends = dict.fromkeys(words.amount(value, panel.unit) for value in (amounts[0], amounts[-1]))
    by = "" if first == ALIKE else f" (by {' to '.join(ends)} {panel.unit.name})"
    where = f"{'all' if not others else f'{number} of'} {len(ones)} models"
    then = ", ".join(["", *(f"{count} {_THEN[verdict]}" for verdict, count in others)])
    return f"At equal gain, {method} {_next_to(first, panel.suite, reference)} on {where}{by}{then}."


_FORGOT = {
    BETTER: "forgot less of {suite} than {reference}",
    WORSE: "forgot more of {suite} than {reference}",
    ALIKE: "forgot as much of {suite} as {reference}",
    UNKNOWN: "is not known to have forgotten less or more of {suite} than {reference}",
}
_THEN = {WORSE: "more", ALIKE: "as much", UNKNOWN: "undecided"}


def _next_to(verdict: str, suite: str, reference: str) -> str:
    return _FORGOT[verdict].format(suite=suite, reference=reference)


def _counts(verdicts: Sequence[str], suite: str) -> str:
    """Return counts of methods next to no mitigation in words."""
    counts = [(verdict, verdicts.count(verdict)) for verdict in _FORGOT if verdict in verdicts]
    (first, number), *others = counts
    if first == UNKNOWN:
        return f"none of {number} methods with a mitigation {_next_to(UNKNOWN, suite, 'those without').replace('is not', 'is')}"
    part = "all" if not others else f"{number} of"
    head = f"{part} {len(verdicts)} methods with a mitigation {_next_to(first, suite, 'those without')}"
    return ", ".join([head, *(f"{count} {_THEN[verdict]}" for verdict, count in others)])


def _less(one: AtEqualGain, unit: DisplayUnit) -> str:
    return f"{words.amount(-one.difference, unit)} {unit.name} less {words.interval(-one.high, -one.low, unit, sign=False)}"


def _signed(one: AtEqualGain, unit: DisplayUnit) -> str:
    return f"{words.amount(one.difference, unit, sign=True)} {unit.name} {words.interval(one.low, one.high, unit)}"


def kept(evidence: Evidence, found: Summary) -> str:
    """Return a sentence on the largest gain of the methods that kept the headline suite."""
    if found.gain is None or not found.losses or found.losses[0].suite != evidence.headline or len(found.rows) < 2:
        return ""
    rows = [row for row in found.rows if row.one.cell not in evidence.unranked and row.losses[0] is not None and row.gain is not None]
    keeping = [row for row in rows if row.losses[0] is not None and words.text(row.losses[0]["verdict"]) == KEPT]
    gained = [row for row in keeping if row.gain is not None and words.text(row.gain["verdict"]) == "gained"]
    if not keeping or len(keeping) == len(rows):
        return ""
    if not gained:
        return f"None of those that kept it is known to have gained on {found.gain.suite}."
    sign = found.gain.sign
    best = max(gained, key=lambda row: sign * float(row.gain["delta"]) if row.gain is not None else 0.0)
    assert best.gain is not None
    amount = words.amount(sign * float(best.gain["delta"]), found.gain.unit)
    return f"Of those that kept it, {best.name} gained most on {found.gain.suite}: {amount} {found.gain.unit.name}."
