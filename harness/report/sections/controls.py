"""Changes of same-data controls: the loss that more training alone causes."""

from __future__ import annotations

import pandas as pd

from harness.report import words
from harness.report.evidence import Evidence


def sentence(evidence: Evidence, suite: str) -> str:
    """Return a sentence on the controls of a suite; empty without controls.

    It states the controls' range of changes and the number of methods whose loss is larger than
    their control's. A loss is larger if, at the method's largest volume, its interval and that of
    its control (``harness.analysis.findings.cells.controls``) do not overlap. This is stricter than
    a test of their difference, and does not replace one.
    """
    rows = evidence.suite_rows(suite)
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
    compared = proper[proper[["delta_low", "delta_high", "control_low", "control_high"]].notna().all(axis=1)]
    if compared.empty:
        return f"{changed} No method can be compared with its control."
    larger = int(_beyond(compared, higher_is_better=panel.higher_is_better).sum())
    level = words.percent(compared["level"].iloc[0])
    without = int((~is_control).sum()) - len(compared)
    lacking = f" {without} method{' has' if without == 1 else 's have'} no control." if without else ""
    return (
        f"{changed} For {larger} of the {len(compared)} methods with a control, the loss is larger than the control's: the whole"
        f" {level} interval of the change is worse than the whole interval of the control's change at the same volume.{lacking}"
    )


def _beyond(rows: pd.DataFrame, *, higher_is_better: bool) -> pd.Series:
    if higher_is_better:
        return rows["delta_high"].astype(float) < rows["control_low"].astype(float)
    return rows["delta_low"].astype(float) > rows["control_high"].astype(float)
