"""The findings of an experiment as one short table for a terminal: a line for each method."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.findings import frontier
from harness.analysis.table.columns import SUITE_TASK
from harness.report import tables, words
from harness.report.curves import Series
from harness.report.evidence import Evidence
from harness.report.sections import controls
from harness.report.sections.missing import main_warnings
from harness.report.sections.opening import verdict_of
from harness.report.tables import Panel

MAX_LINES = 40


def overview(evidence: Evidence) -> str:
    """Return gain, loss, intervals and verdict of each method at its largest volume.

    The gain is that of the first target suite. The loss is that of the declared headline suite;
    without one, of the first probe suite. Each loss is compared with that of its control,
    which has no line. Learning rates that are too high come first.
    """
    if evidence.findings.empty:
        return "\n".join(["No change is measured yet.", *main_warnings(evidence)])
    methods = evidence.proper or evidence.every
    shown = methods[:MAX_LINES]
    gain, loss = _panel(evidence, frontier.first_target(evidence.findings, evidence.experiment.targets())), _probe(evidence)
    columns = [
        tables.column(["", "method"], [one.short for one in shown], right=False),
        tables.column(["", evidence.unit], [f"{int(one.rows['volume'].max()):,}" for one in shown], right=True),
    ]
    if gain:
        columns.append(_column(f"gain on {gain.suite}", gain, [_change(_row(one, gain), gain, gain.sign) for one in shown]))
    if loss:
        columns.append(_column(f"loss on {loss.suite}", loss, [_change(_row(one, loss), loss, -loss.sign) for one in shown]))
    if judged := loss or gain:
        columns.append(tables.column(["", "verdict"], [_verdict(evidence, one, judged) for one in shown], right=False))
    contrasts = [_contrast(_row(one, loss), loss, judged=not evidence.withheld(one.cell)) for one in shown] if loss else []
    if any(text != words.UNKNOWN for text in contrasts):
        columns.append(tables.column(["loss beyond that of its control", loss.unit.name if loss else ""], contrasts, right=False))
    lines = ["  ".join(parts).rstrip() for parts in zip(*columns, strict=True)]
    left = [f"{len(methods) - len(shown)} more methods are in the report."] if len(shown) < len(methods) else []
    first = [text, ""] if (text := controls.too_high(evidence)) else []
    return "\n".join([*first, *lines, *left, "", *_notes(evidence, gain, loss), *main_warnings(evidence)])


def _panel(evidence: Evidence, suite: str | None) -> Panel | None:
    return None if suite is None else evidence.panel_of[suite, SUITE_TASK]


def _probe(evidence: Evidence) -> Panel | None:
    """Return the suite of the loss: the headline comes first; distances from the base come last."""
    every = [*evidence.probes, *evidence.distances]
    return _panel(evidence, every[0].suite) if every else None


def _column(heading: str, panel: Panel, texts: Sequence[str]) -> list[str]:
    return tables.column([heading, panel.unit.name], texts, right=True)


def _row(one: Series, panel: Panel) -> pd.Series | None:
    """Return a method's finding on a suite at its largest volume; None without a change."""
    last = one.last
    found = last[(last["suite"] == panel.suite) & (last["task"] == SUITE_TASK)].dropna(subset=["delta"])
    return None if found.empty else found.iloc[0]


def _change(row: pd.Series | None, panel: Panel, sign: float) -> str:
    if row is None:
        return "not measured"
    value = tables.number(float(row["delta"]) * sign, panel.unit)
    if pd.isna(row["delta_low"]):
        return f"{value} [no interval]"
    low, high = sorted(float(end) * sign for end in tables.possible_ends(row["delta_low"], row["delta_high"], row["before"], panel.unit))
    return f"{value} [{tables.number(low, panel.unit)}, {tables.number(high, panel.unit)}]"


def _verdict(evidence: Evidence, one: Series, panel: Panel) -> str:
    row = _row(one, panel)
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
        why = "the declared headline" if loss.suite == evidence.headline else "the first, since no headline is declared,"
        found.append(f"Loss and verdict: {loss.suite}, {why} of {probes} probe suites.")
    return found
