"""The gate in words: a line for the mean, one per suite, and one for the whole comparison."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.statistics.detectable import POWER
from harness.external.gate import FEWEST, LEVEL, MOST_TIMES, Gate, Gated, GatedSuite
from harness.external.judge import SHARE
from harness.report import words

MAX_NAMES = 8
"""Of suites or tasks in a line."""

LOST, NOT_LOST = "more is lost than allowed", "no more is lost than allowed"
EQUAL = "undecided: every log-likelihood is the same on both sides, as if one model had been measured twice"
STAYS = "if change and variance stay as observed"
VERDICTS = {"lost more": "fail", "not lost": "pass", "undecided": "undecided"}


def sentences(gate: Gate) -> list[str]:
    """Return the lines; the last one, on the whole comparison, can be read alone."""
    lines = [of_mean(gate.mean, gate)] if gate.mean and len(gate.averaged) > 1 else []
    return [*lines, *(of_suite(suite, gate) for suite in gate.suites), _verdict(gate)]


def of_suite(suite: GatedSuite, gate: Gate) -> str:
    """Return the line on a suite."""
    return _line(f"{suite.name}{_place(suite, gate)}", suite, _of_suite(suite, gate))


def of_mean(mean: Gated, gate: Gate) -> str:
    """Return the line on the mean over several suites."""
    count, found = len(gate.averaged), _tested(mean, several=True)
    unknown = [suite.name for suite in gate.averaged if suite.equal or suite.low is None or (mean.too_few and suite.too_few)]
    if mean.decision == "undecided" and unknown:
        found = f"undecided because of {_names(unknown)}"
    unit = "" if mean.unit == SHARE else f" in {mean.unit}"
    return _line(f"mean of {count} suites{unit}, weight 1/{count} each", mean, found)


def _line(subject: str, tested: Gated, found: str) -> str:
    """Return a line on a test."""
    interval = "not determined by these items"
    if tested.low is not None and tested.high is not None:
        interval = f"[{0.0 - tested.high:+.4f}, {0.0 - tested.low:+.4f}]"
    return f"gate {subject}: loss {0.0 - tested.change:+.4f} (positive is worse), {LEVEL:.0%} interval {interval}: {found}"


def _place(suite: GatedSuite, gate: Gate) -> str:
    """Return the place of a suite in the gate, in brackets; empty for the only suite."""
    counted = _names(suite.counted_in)
    unit = "" if suite.unit == SHARE else f" in {suite.unit}"
    inside = f"in the mean, without tasks that count in {counted}" if counted else "in the mean"
    outside = "not in the mean: " if gate.mean else ""
    texts = {
        "in the mean": inside if len(gate.averaged) > 1 else "alone in the mean" if len(gate.suites) > 1 else "",
        "own limit": f"{outside}limit {suite.limit:g}{unit}" if suite.limit is not None else "",
        "in another": f"{outside}its tasks count in {counted}",
        "not named": "not in the mean: not named by --mean",
        "no limit": f"not in the mean: its unit is {suite.unit}" if gate.mean else "",
    }
    return f" ({text})" if (text := texts[suite.place]) else ""


def _of_suite(suite: GatedSuite, gate: Gate) -> str:
    """Return what was found for a suite."""
    if suite.equal:
        return EQUAL
    if suite.place == "no limit":
        also = "" if gate.limits.overall is not None or suite.unit != SHARE else ", or --max-loss X for the mean"
        return f"undecided: no limit is given; add --max-loss {suite.name}=X{also}"
    if suite.too_few and suite.limit is not None:
        return _tested(suite)
    if suite.low is None:
        return "undecided"
    if suite.place == "in the mean" and len(gate.averaged) == 1:
        return _tested(suite)
    if suite.decision == "lost more":
        return LOST + (f", also under Holm over {gate.tests} suites" if gate.tests > 1 else "")
    if suite.is_below:
        return f"below the limit, but not under Holm: one of {gate.tests} suites may be so by chance"
    return _tested(suite) if suite.place == "own limit" else "not shown to lose more than allowed"


def _tested(tested: Gated, *, several: bool = False) -> str:
    """Return the decision of a test, and the number of items that would decide it."""
    if tested.decision != "undecided":
        return LOST if tested.decision == "lost more" else NOT_LOST
    if tested.too_few:
        independent = "items" if tested.independent == tested.items else "independent clusters of items"
        return f"undecided: {tested.independent} {independent} are too few for any decision; at least {FEWEST} are needed"
    if tested.low is None or tested.limit is None:
        return "undecided"
    found = f"undecided: the interval contains the limit of {tested.limit:g}"
    if tested.items_to_decide is None:
        return f"{found}; even {MOST_TIMES} times the items would not decide it with {POWER:.0%} probability, {STAYS}"
    each = f", {tested.items_to_decide / tested.items:.1f} times as many in each suite" if several else ""
    further = f"{tested.items_to_decide - tested.items:,} further items ({tested.items_to_decide:,} in all{each})"
    outcome = "pass" if tested.change > -tested.limit else "fail"
    return f"{found}; with {further} this test would {outcome} with {POWER:.0%} probability, {STAYS}"


def _verdict(gate: Gate) -> str:
    count = len(gate.averaged)
    where = f" on the mean of {count} suites" if count > 1 else ""
    holm = f"; a single suite fails it only under Holm over {gate.tests}" if gate.tests > 1 else ""
    reasons = _reasons(gate)
    found = f" {'; '.join(reasons)}:" if reasons else ""
    unused = gate.limits.overall is not None and gate.mean is None
    nothing = f"; no suite is left for a mean, so {gate.limits.overall:g} limits nothing" if unused else ""
    tests = f"two one-sided 5% tests{holm}{nothing}"
    return f"gate at --max-loss {gate.limits.text}{where} ({tests}):{found} {VERDICTS[gate.decision]}, exit code {gate.code}"


def _reasons(gate: Gate) -> list[str]:
    """Return the reasons why the gate does not pass, as far as one suite's line does not say so."""
    found = []
    tested: dict[str, str] = {}
    if len(gate.suites) > 1:
        name = "the mean" if len(gate.averaged) > 1 else gate.averaged[0].name if gate.averaged else ""
        tested = {name: gate.mean.decision} if gate.mean else {}
        tested |= {suite.name: suite.decision for suite in gate.suites if suite.decision == "lost more"}
        tested |= {suite.name: "undecided" for suite in gate.suites if suite.leaves_open}
    for decision, text in {"lost more": "more is lost in", "undecided": "no decision on"}.items():
        if names := [name for name, of in tested.items() if of == decision]:
            found.append(f"{text} {_names(names)}")
    if gate.decision == "undecided" and gate.mean and gate.mean.items_to_decide is not None:
        further = gate.mean.items_to_decide - gate.mean.items
        found.append(f"{further:,} further items would decide {'the mean' if len(gate.suites) > 1 else 'it'} with {POWER:.0%} probability")
    if any(one.too_few for one in [gate.mean, *(suite for suite in gate.suites if suite.place == "own limit")] if one):
        found.append(f"fewer than {FEWEST} independent items")
    if gate.missing:
        found.append(f"AFTER lacks {len(gate.missing)} task(s) that BEFORE has ({_names(gate.missing)})")
    return found


def _names(names: Sequence[str]) -> str:
    return words.listed(names, MAX_NAMES)
