"""Changes of same-data controls: the loss that more training alone causes."""

from __future__ import annotations

import numpy as np

from harness.analysis.findings.verdicts import ALIKE, BETTER, UNKNOWN, WORSE, counted, verdicts_of
from harness.report import words
from harness.report.evidence import Evidence


def sentence(evidence: Evidence, suite: str) -> str:
    """Return a sentence on the controls of a suite; empty without controls.

    It states the controls' range of changes, and how many methods are worse or better than their
    control (``harness.analysis.findings.control_contrasts``) at the method's largest volume, as
    counted by ``harness.analysis.findings.verdicts.counted``. Methods that did not act are left
    out.
    """
    rows = evidence.suite_rows(suite)
    rows = rows[~rows["cell"].isin(list(evidence.idle))]
    is_control = rows["is_control"].fillna(False).astype(bool)
    controls, proper = rows[is_control], rows[~is_control & rows["control_delta"].notna()]
    if controls.empty:
        return ""
    panel = evidence.panel_of[suite, "*"]
    worst_first = controls.sort_values("delta", ascending=panel.higher_is_better, kind="stable")
    ends = list(dict.fromkeys(words.amount(row["delta"], panel.unit, sign=True) for _, row in worst_first.iloc[[0, -1]].iterrows()))
    data = ", ".join(f"{name} {value}" for name, value in evidence.declared.control.items())
    count = len(controls)
    changed = f"Same-data controls (more training on data that the model already knew{f': {data}' if data else ''}) changed {suite} by"
    changed += f" {' to '.join(ends)} {panel.unit.name}{f' ({count} controls)' if count > 1 else ''}."
    compared = proper[proper["contrast_verdict"].notna()]
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
