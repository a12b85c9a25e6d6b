"""The findings of an experiment as one short table for a terminal: a line for each method."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.findings.verdicts import UNKNOWN
from harness.analysis.table.columns import SUITE_TASK
from harness.report import answer, tables, words
from harness.report.curves import Series
from harness.report.evidence import Evidence
from harness.report.sections import controls
from harness.report.sections.missing import main_warnings, not_tuned
from harness.report.sections.opening import verdict_of
from harness.report.summary import NOT_COMPARED, AtEqualGain, summary
from harness.report.tables import Panel

MAX_LINES = 40


def overview(evidence: Evidence) -> str:
    """Return the answer and the first table of the page, as text.

    The loss is that of the headline suite; each is compared with that of its control, which has no
    line. Learning rates that are too high come first.
    """
    if evidence.findings.empty:
        return "\n".join(["No change is measured yet.", *main_warnings(evidence)])
    found = summary(evidence)
    shown = found.rows[:MAX_LINES]
    gain, loss = found.gain, found.losses[0] if found.losses else None
    losses = [row.losses[0] if row.losses else None for row in shown]
    columns = [
        tables.column(["", "method"], [row.one.short for row in shown], right=False),
        tables.column(["", evidence.unit], [f"{int(row.one.rows['volume'].max()):,}" for row in shown], right=True),
    ]
    if gain:
        columns.append(_column(f"gain on {gain.suite}", gain, [_change(row.gain, gain, gain.sign) for row in shown]))
    if loss:
        columns.append(_column(f"loss on {loss.suite}", loss, [_change(row, loss, -loss.sign) for row in losses]))
    if gain or loss:
        judged = losses if loss else [row.gain for row in shown]
        verdicts = [_verdict(evidence, row.one, finding) for row, finding in zip(shown, judged, strict=True)]
        columns.append(tables.column(["", "verdict"], verdicts, right=False))
    if loss and any(row.equal is not None for row in shown):
        heading = "against no mitigation at equal gain" if found.is_about_mitigations else "at equal gain"
        columns.append(tables.column([heading, loss.unit.name], [_equal(row.equal, loss) for row in shown], right=False))
    contrasts = (
        [_contrast(row, loss, judged=not evidence.withheld(one.one.cell)) for one, row in zip(shown, losses, strict=True)] if loss else []
    )
    if any(text != words.UNKNOWN for text in contrasts):
        columns.append(tables.column(["loss beyond that of its control", loss.unit.name if loss else ""], contrasts, right=False))
    lines = ["  ".join(parts).rstrip() for parts in zip(*columns, strict=True)]
    left = [f"{len(found.rows) - len(shown)} more methods are in the report."] if len(shown) < len(found.rows) else []
    first = [text for text in (controls.too_high(evidence), not_tuned(evidence), *answer.at_equal_gain(evidence, found)) if text]
    notes = [*_notes(evidence, gain, loss), *main_warnings(evidence)]
    return "\n".join([*first, *([""] if first else []), *lines, *left, "", *notes])


def _column(heading: str, panel: Panel, texts: Sequence[str]) -> list[str]:
    return tables.column([heading, panel.unit.name], texts, right=True)


def _change(row: pd.Series | None, panel: Panel, sign: float) -> str:
    if row is None:
        return "not measured"
    value = tables.number(float(row["delta"]) * sign, panel.unit)
    if pd.isna(row["delta_low"]):
        return f"{value} [no interval]"
    low, high = sorted(float(end) * sign for end in tables.possible_ends(row["delta_low"], row["delta_high"], row["before"], panel.unit))
    return f"{value} [{tables.number(low, panel.unit)}, {tables.number(high, panel.unit)}]"


def _equal(one: AtEqualGain | None, panel: Panel) -> str:
    if one is None or one.verdict in NOT_COMPARED:
        return words.UNKNOWN if one is None else one.verdict or words.UNKNOWN
    value, low, high = (tables.number(number, panel.unit) for number in (one.difference, one.low, one.high))
    verdict = {UNKNOWN: "undecided"}.get(one.verdict, one.verdict)
    return f"{value} [{low}, {high}] {verdict}{'' if one.is_plain else f' ({one.reference})'}"


def _verdict(evidence: Evidence, one: Series, row: pd.Series | None) -> str:
    return evidence.mark(one.cell) or (words.UNKNOWN if row is None else verdict_of(row))


def _contrast(row: pd.Series | None, panel: Panel, *, judged: bool) -> str:
    """Return the loss beyond that of the control, with its interval and, if judged, verdict."""
    if row is None or pd.isna(row["contrast_low"]):
        return words.UNKNOWN
    ends = tables.possible_ends(row["contrast_low"], row["contrast_high"], None, panel.unit)
    numbers = [-panel.sign * float(row["contrast"]), *sorted(-panel.sign * float(end) for end in ends)]
    value, low, high = (tables.number(number, panel.unit) for number in numbers)
    return f"{value} [{low}, {high}] {words.contrast_verdict(row) if judged else ''}".rstrip()


def _notes(evidence: Evidence, gain: Panel | None, loss: Panel | None) -> list[str]:
    """Return what the numbers are: intervals, and the choice of suites where there are several."""
    wholes = evidence.last[
        (evidence.last["task"] == SUITE_TASK) & evidence.last["suite"].isin([panel.suite for panel in (gain, loss) if panel])
    ]
    over = " or ".join(sorted(wholes["varies"].dropna().unique()))
    counts = sorted({int(count) for count in wholes["seeds"].dropna()} - {0})
    seeds = words.seeds(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds" if counts else "no seeds"
    intervals = f"{words.levels_of(wholes)} intervals over {over}" if over else "no intervals"
    found = [f"Change from before training to the largest volume; {intervals}, {seeds}."]
    targets = len({panel.suite for panel in evidence.targets})
    if gain and targets > 1:
        found.append(f"Gain: {gain.suite}, the first of {targets} target suites.")
    probes = len({panel.suite for panel in [*evidence.probes, *evidence.distances]})
    if loss and probes > 1:
        why = "the declared headline" if evidence.declares_headline else "the first, since no headline is declared (so it is exploratory),"
        found.append(f"Loss and verdict: {loss.suite}, {why} of {probes} probe suites.")
    return found
