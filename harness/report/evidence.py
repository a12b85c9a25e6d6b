"""All that a page is made of, read and worked out once: table, findings, fits and comparisons of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from harness.analysis.findings import contrasts, equal_gain, findings, frontier, sequences
from harness.analysis.fits import all_laws
from harness.analysis.table.changes import Changes
from harness.analysis.table.columns import SUITE_TASK
from harness.analysis.table.frame import table as tidy_table
from harness.analysis.table.runs import RunReader
from harness.records.schema import OWN_METRICS, Declared
from harness.records.store import Experiment
from harness.report import curves, tables
from harness.report.curves import Series, series
from harness.report.tables import Panel

MAX_CSV_ROWS = 100_000

IDLE = "did not act"
"""The mark of a way of training whose method hardly changed anything: it is shown, and not
ranked."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was found. Frames are as the modules of harness.analysis give them; any may be empty."""

    experiment: Experiment
    table: pd.DataFrame
    declared: Declared
    findings: pd.DataFrame
    fitted: Sequence[Any] = ()
    frontier: pd.DataFrame = field(default_factory=pd.DataFrame)
    equal_gain: pd.DataFrame = field(default_factory=pd.DataFrame)
    trajectories: pd.DataFrame = field(default_factory=pd.DataFrame)
    sequences: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def every(self) -> list[Series]:
        """The cells, plain ways of training first."""
        return series(self.findings)

    @cached_property
    def proper(self) -> list[Series]:
        """The cells that are no controls."""
        return [one for one in self.every if not one.is_control]

    @cached_property
    def drawn(self) -> list[Series]:
        """The cells of the figures: controls, too.

        Of independent trajectories only those that no shared one stands beside.
        """
        beside = set(self.trajectories["independent_cell"]) if len(self.trajectories) else set()
        return [one for one in self.every if one.cell not in beside]

    def by_size(self, one: Series) -> tuple[float, str]:
        """Return what puts a cell's model in the order of sizes."""
        params = one.labels["params_total"]
        return (float("inf") if pd.isna(params) else float(params), one.model)

    @cached_property
    def by_cell(self) -> dict[str, Series]:
        """Cell → series."""
        return {one.cell: one for one in self.every}

    @cached_property
    def panel_of(self) -> dict[tuple[str, str], Panel]:
        """(suite, task) → how it is shown."""
        return tables.panel_of(self.findings)

    @cached_property
    def targets(self) -> list[Panel]:
        """What figures show of the targets."""
        return tables.panels(self.findings, "target", whole=True)

    @cached_property
    def probes(self) -> list[Panel]:
        """What figures show of the probes that can be lost, the headline suite first."""
        shown = [panel for panel in tables.panels(self.findings, "probe", whole=True) if panel.metric not in OWN_METRICS["divergence"]]
        return sorted(shown, key=lambda panel: panel.suite != self.headline)

    @cached_property
    def distances(self) -> list[Panel]:
        """What figures show of the divergence suites: how far a model is from its base."""
        every = tables.panels(self.findings, "probe", whole=True)
        return [panel for panel in every if panel.metric in OWN_METRICS["divergence"]]

    @property
    def table_file(self) -> str:
        """What the whole tidy table is written as: a table of more than MAX_CSV_ROWS rows as parquet, as text takes too long."""
        return "table.csv" if len(self.table) <= MAX_CSV_ROWS else "table.parquet"

    @cached_property
    def headline(self) -> str | None:
        """The probe suite whose verdict is the headline; None where none was declared."""
        return frontier.headline(self.findings)

    @cached_property
    def last(self) -> pd.DataFrame:
        """The findings at each cell's largest volume."""
        rows = self.findings
        return rows[rows["volume"] == rows.groupby("cell")["volume"].transform("max")]

    def suite_rows(self, suite: str) -> pd.DataFrame:
        """Return a suite's own rows, each at its cell's largest volume that has a change."""
        rows = self.findings[(self.findings["suite"] == suite) & (self.findings["task"] == SUITE_TASK)].dropna(subset=["delta"])
        return rows[rows["volume"] == rows.groupby("cell")["volume"].transform("max")]

    def without_doubles(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows without those of a suite's only task, which says what the suite's own row says."""
        leaves: dict[str, int] = {}
        for suite, task in self.panel_of:
            leaves[suite] = leaves.get(suite, 0) + (task != SUITE_TASK)
        single = [suite for suite, count in leaves.items() if count == 1]
        return rows[~(rows["suite"].isin(single) & (rows["task"] != SUITE_TASK))]

    @cached_property
    def idle(self) -> dict[str, float]:
        """Cell → acceptance, of those that did not act: too little of what was written was accepted."""
        cells = self.findings.drop_duplicates("cell")
        cells = cells[~cells["acted"].fillna(value=True).astype(bool)]
        return {str(cell): float(share) for cell, share in zip(cells["cell"], cells["acceptance"], strict=True)}

    @cached_property
    def records(self) -> dict[str, Mapping[str, Any]]:
        """Run id → its record as plain values, for what the table does not hold."""
        found = {
            str(run_id): self.experiment.glance("runs", str(run_id), "record.json") for run_id in sorted(self.table["run_id"].unique())
        }
        return {run_id: values for run_id, values in found.items() if values}


def gather(experiment: Experiment) -> Evidence:
    """Read an experiment and work out all that its page shows."""
    reader = RunReader(experiment)
    table, declared, changes = tidy_table(experiment, reader=reader), experiment.declared(), Changes(experiment, reader)
    found = in_order(findings.findings(table, changes, declared))
    return Evidence(
        experiment=experiment,
        table=table,
        declared=declared,
        findings=found,
        fitted=all_laws.every(table, declared, first=_first(found)) if len(found) else [],
        frontier=frontier.frontier(found),
        equal_gain=equal_gain.equal_gain(table, changes, declared, findings=found),
        trajectories=contrasts.trajectories(found, table, changes),
        sequences=sequences.sequences(table, changes, declared, _stages(experiment, table)),
    )


def _stages(experiment: Experiment, table: pd.DataFrame) -> dict[str, sequences.Stages]:
    """Return run id → its stages.

    Records are read of those runs alone whose data are a sequence by their label.
    """
    runs = table[table["data"].str.contains("stages=", regex=False).fillna(value=False)]["run_id"].unique()
    found = {str(run): sequences.stages_of(experiment.glance("runs", str(run), "record.json").get("config", {})) for run in runs}
    return {run: stages for run, stages in found.items() if stages}


def _first(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return the labels of the cells that the figures draw."""
    drawn, _ = curves.chosen([one for one in series(found) if not one.is_control])
    return [{name: "" if pd.isna(value) else str(value) for name, value in one.labels.items()} for one in drawn]


def in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Return findings cell by cell as the page shows them: plain ways of training first, in each by model size, then by volume."""
    if found.empty:
        return found
    place = {cell: index for index, cell in enumerate(curves.in_order(found)[0]["cell"])}
    ordered = found.assign(_place=found["cell"].map(place)).sort_values(["_place", "volume"], kind="stable", ignore_index=True)
    return ordered.drop(columns="_place")
