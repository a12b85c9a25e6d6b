"""Changes of same-data controls: the loss that more training alone causes."""

from __future__ import annotations

import numpy as np

from harness.analysis.findings.validity import CHECKS, NOT_SETTLED, TOO_HIGH
from harness.analysis.findings.verdicts import ALIKE, BETTER, UNKNOWN, WORSE, counted, verdicts_of
from harness.report import words
from harness.report.content import CellView, ColumnView, Section, TableView
from harness.report.evidence import RATE_TOO_HIGH, Evidence


def sentence(evidence: Evidence, suite: str) -> str:
    """Return a sentence on the controls of a suite; empty without controls.

    It states the controls' range of changes, and how many methods are worse or better than their
    control (``harness.analysis.findings.control_contrasts``) at the method's largest volume, as
    counted by ``harness.analysis.findings.verdicts.counted``. Methods that are not ranked are left
    out.
    """
    rows = evidence.suite_rows(suite)
    rows = rows[~rows["cell"].isin(list(evidence.unranked))]
    is_control = rows["is_control"].fillna(False).astype(bool)
    controls, proper = rows[is_control], rows[~is_control & rows["control_delta"].notna()]
    if controls.empty:
        return ""
    panel = evidence.panel_of[suite, "*"]
    worst_first = controls.sort_values("delta", ascending=panel.higher_is_better, kind="stable")
    ends = list(dict.fromkeys(words.amount(-panel.sign * row["delta"], panel.unit) for _, row in worst_first.iloc[[0, -1]].iterrows()))
    data = ", ".join(f"{name} {value}" for name, value in evidence.declared.control.items())
    count = len(controls)
    changed = f"Same-data controls (more training on data that the model already knew{f': {data}' if data else ''}) lost"
    changed += f" {' to '.join(ends)} {panel.unit.name} of {suite}{f' ({count} controls)' if count > 1 else ''}."
    compared = proper[proper["contrast_verdict"].notna()]
    if is_control.all():
        return changed
    if compared.empty:
        return f"{changed} No method can be compared with its control."
    found = counted(compared["contrast_verdict"], compared["contrast_p"].to_numpy(dtype=np.float64, na_value=np.nan))
    counts = {word: number for name, word in _WORDS.items() if (number := found.count(name))}
    total = len(compared)
    said = f"of {total} methods {words.counts(counts, total)}"
    if len(counts) == 1:
        adjusted = words.adjusted(total) if found != verdicts_of(compared["contrast_verdict"]) else ""
        said = f"{'the method is' if total == 1 else f'all {total} methods are'} {next(iter(counts))}{adjusted}"
    said += words.in_these_runs(compared["contrast_varies"])
    without = int((~is_control).sum()) - total
    lacking = f" {without} method{' has' if without == 1 else 's have'} no control." if without else ""
    return f"{changed} Compared with the control, by their difference at the same volume on the same items, {said}.{lacking}"


_WORDS = {WORSE: "worse", BETTER: "better", ALIKE: "alike", UNKNOWN: "undecided"}

TITLE = "Whether the learning rates suit"
MAX_NAMED = 4
MAX_ROWS = 200

_CONSEQUENCE = "What they forget is in part the price of that rate: they are not ranked, fitted, compared or counted."
_ASKED_FOR = "They are ranked, fitted and compared all the same, as the experiment declares (any_rate)."


def too_high(evidence: Evidence) -> str:
    """Return a sentence on the methods whose learning rate is too high; empty without any."""
    cells = evidence.too_high
    if not cells:
        return ""
    named = words.listed([evidence.by_cell[cell].short for cell in cells], MAX_NAMED)
    found = evidence.checks[evidence.checks.index.isin(cells)]
    worst = found.sort_values("beyond", kind="stable").iloc[-1]
    panel = evidence.panel_of[str(worst["suite"]), str(worst["task"])]
    lost = f"up to {words.amount(abs(worst['delta']), panel.unit)} {panel.unit.name} of {panel.label}"
    consequence = _ASKED_FOR if evidence.declared.any_rate else _CONSEQUENCE
    return (
        f"The learning rate is too high for {len(cells)} of {len(evidence.proper)} methods ({named}): their same-data controls lost more"
        f" than the margin, {lost}. {consequence}"
    )


def not_settled(evidence: Evidence) -> list[str]:
    """Return a sentence on the methods whose control may have lost more than the margin."""
    found = evidence.checks
    cells = set(found.index[found["control_check"] == NOT_SETTLED])
    names = [one.short for one in evidence.proper if one.cell in cells]
    if not names:
        return []
    count = f"{len(names)} of {len(evidence.proper)} methods"
    return [
        f"Whether the learning rate is too high is not settled for {count} ({words.listed(names, MAX_NAMED)}): intervals of their"
        " same-data controls reach beyond the margin."
    ]


_TITLES = {
    "method": "",
    "check": "by its same-data control, at the method's largest volume",
    "volume": "",
    "suite": "",
    "task": "the one that decides; all: their mean",
    "change": "of the control, with its interval",
    "margin": "a change within it is negligible",
    "unit": "",
}
_NUMBERS = {"volume", "change", "margin"}


def checks(evidence: Evidence) -> Section | None:
    """Return the check of each method's learning rate; None without controls."""
    found = evidence.checks
    if found.empty:
        return None
    ordered = [one for one in evidence.proper if one.cell in found.index]
    ordered = sorted(ordered, key=lambda one: CHECKS.index(found["control_check"][one.cell]))  # stable: else the page's order
    rows: list[list[CellView | str]] = [_row(evidence, one.cell) for one in ordered[:MAX_ROWS]]
    table = TableView(
        name="control_check",
        columns=[ColumnView(title=title, is_number=title in _NUMBERS, meaning=meaning) for title, meaning in _TITLES.items()],
        rows=rows,
        caption="Of each control, the probe task, or mean of a suite's tasks (all), that decides. Too high: it lost more than the margin,"
        " and differs from 0 (Holm over all). Not settled: its interval reaches beyond the margin, or it was not measured. Passed: no"
        " interval does.",
        data=found.reset_index(),
        shown=words.excerpt(MAX_ROWS, len(ordered), "methods", "control_check.csv"),
    )
    intro = "A same-data control trains on what the model knows already. What it loses, it loses to training at that learning rate."
    return Section(id="control-check", title=TITLE, intro=intro, tables=[table])


def _row(evidence: Evidence, cell: str) -> list[CellView | str]:
    found = evidence.checks[evidence.checks.index == cell].iloc[0]
    panel = evidence.panel_of[str(found["suite"]), str(found["task"])]
    return [
        evidence.by_cell[cell].short,
        CellView(RATE_TOO_HIGH if found["control_check"] == TOO_HIGH else str(found["control_check"])),
        words.volume_cell(found["volume"]),
        str(found["suite"]),
        "all" if found["task"] == "*" else str(found["task"]),
        CellView(_change(evidence, cell), words.sortable(found["delta"])),
        words.amount_cell(found["margin"], panel.unit),
        words.unit_name(panel),
    ]


def _change(evidence: Evidence, cell: str) -> str:
    """Return the change of the control that decides; ``not measured`` without one."""
    found = evidence.checks[evidence.checks.index == cell].iloc[0]
    unit = evidence.panel_of[str(found["suite"]), str(found["task"])].unit
    text = words.change(found, unit)
    return "not measured" if text == words.UNKNOWN else text
