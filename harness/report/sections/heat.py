"""The heat map of losses: tasks against methods, verdicts by sign, colour and hatch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.records.schema import OWN_METRICS
from harness.report import words
from harness.report.content import VERDICT_KINDS, CellView, ColumnView, RowGroup, Section, TableView
from harness.report.curves import Series
from harness.report.evidence import Evidence

MAX_ROWS = 60
MAX_COLUMNS = 16
DISTANCES = OWN_METRICS["divergence"]
"""Metrics of the distance from the base, which is not a loss and has no verdict."""

_SHOWN = ["suite", "task", "delta", "verdict"]


def heat(evidence: Evidence) -> Section | None:
    """Return the heat map of all probe tasks at each cell's largest volume, controls apart."""
    keys = [key for key, panel in evidence.panel_of.items() if panel.role == "probe" and panel.metric not in DISTANCES]
    keys = sorted(keys, key=lambda key: (key[0] != evidence.headline, key[0]))
    single = {suite for suite in {key[0] for key in keys} if len([key for key in keys if key[0] == suite]) <= 2}
    keys = [key for key in keys if key[0] not in single or key[1] == "*"]  # a suite of one task equals that task
    every = evidence.every
    if not keys or not every:
        return None
    largest = {str(cell): int(volume) for cell, volume in evidence.findings.groupby("cell", sort=False)["volume"].max().items()}
    alike = len(set(largest.values())) == 1
    after = f"after {largest[every[0].cell]:,} {evidence.unit}" if alike else "at the largest volume"
    shown = every[:MAX_ROWS]
    cut = [f"{MAX_ROWS} of {len(every)} methods."] if len(every) > MAX_ROWS else []
    cut += [f"{MAX_COLUMNS} of {len(keys)} suites and tasks."] if len(keys) > MAX_COLUMNS else []
    table = TableView(
        name="heat",
        columns=[ColumnView(title="method"), *(_column(evidence, *key) for key in keys[:MAX_COLUMNS])],
        rows=[_row(evidence, one, keys[:MAX_COLUMNS], "" if alike else f"{largest[one.cell]:,} {evidence.unit}") for one in shown],
        groups=_groups(shown),
        caption=f"Change {after}, in points (other metrics in their own unit). ▼ lost, ▲ gained, = kept (inside the margin), ? not enough"
        " evidence. p-values of tasks are adjusted (Holm) over the tasks of a method; intervals are in the"
        f" findings.{_few(evidence)}",
        matrix=True,
        sortable=True,
        shown=" ".join([*cut, "All are in findings.csv."] if cut else []),
    )
    return Section(id="where", title="Where it was lost", tables=[table])


def _few(evidence: Evidence) -> str:
    few = (evidence.last["varies"] == "items").fillna(value=False).any()
    return " Marks of methods with fewer than 3 seeds hold for these runs alone." if few else ""


def _groups(every: Sequence[Series]) -> list[RowGroup]:
    first = next((place for place, one in enumerate(every) if one.is_control), 0)
    controls = RowGroup(first, "Same-data controls", "More training on data that the model already knew.")
    return [RowGroup(0, "Trained on new data"), controls] if first else []


def _column(evidence: Evidence, suite: str, task: str) -> ColumnView:
    name = suite if task == "*" else task
    return ColumnView(title=name, is_number=False, meaning=f"{suite}, {words.unit_name(evidence.panel_of[suite, task])}")


def _row(evidence: Evidence, one: Series, keys: Sequence[tuple[str, str]], note: str) -> list[CellView | str]:
    last = {(row["suite"], row["task"]): row for row in reversed(one.last[_SHOWN].to_dict("records"))}
    note = "; ".join(filter(None, [note, evidence.mark(one.cell)]))
    return [CellView(one.short, one.short, "strong", note), *(_field(evidence, one.cell, last, key) for key in keys)]


def _field(evidence: Evidence, cell: str, last: Mapping[tuple[str, str], Mapping[Hashable, Any]], key: tuple[str, str]) -> CellView:
    row = last.get(key)
    if row is None or pd.isna(row["delta"]):
        return CellView("not measured")
    unit = evidence.panel_of[key].unit
    kind = "" if evidence.withheld(cell) else VERDICT_KINDS.get(words.text(row["verdict"]), "")
    return CellView(words.amount(row["delta"], unit, sign=True), float(row["delta"]), kind)
