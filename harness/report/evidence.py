"""The data of a page, computed once: table, findings, fits and comparisons of an experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from harness.analysis.findings import contrasts, equal_gain, findings, frontier, learning_rates, sequences, shares, validity
from harness.analysis.fits import all_laws
from harness.analysis.fits.all_laws import Fitted
from harness.analysis.table.changes import Changes
from harness.analysis.table.columns import SUITE_TASK
from harness.analysis.table.frame import table as tidy_table
from harness.analysis.table.runs import RunReader
from harness.config.resolution import SearchedRate
from harness.records.schema import OWN_METRICS, Declared
from harness.records.store import Experiment
from harness.report import axis, curves, tables, words
from harness.report.curves import Series, series
from harness.report.tables import Panel

MAX_CSV_ROWS = 100_000

IDLE = "did not act"
"""Mark of a method whose generated text was hardly used: it is shown, but not ranked."""

RATE_TOO_HIGH = "rate too high"
"""Mark of a method whose same-data control lost more than the margin: it is not ranked either."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All data of a page; frames come from harness.analysis, and any may be empty.

    ``rates`` are those of a search: an experiment that varies the rate, all on select items.
    """

    experiment: Experiment
    table: pd.DataFrame
    declared: Declared
    findings: pd.DataFrame
    fitted: Sequence[Fitted] = ()
    frontier: pd.DataFrame = field(default_factory=pd.DataFrame)
    equal_gain: pd.DataFrame = field(default_factory=pd.DataFrame)
    trajectories: pd.DataFrame = field(default_factory=pd.DataFrame)
    sequences: pd.DataFrame = field(default_factory=pd.DataFrame)
    rates: Sequence[SearchedRate] = ()

    @cached_property
    def every(self) -> list[Series]:
        """All cells in the page's order: unmitigated methods first, controls last."""
        return series(self.findings)

    @cached_property
    def proper(self) -> list[Series]:
        """The cells that are not controls."""
        return [one for one in self.every if not one.is_control]

    @cached_property
    def drawn(self) -> list[Series]:
        """The cells of the figures, controls included.

        A cell of independent trajectories is left out if it has a shared counterpart: a section of
        its own compares the two.
        """
        compared = set(self.trajectories["independent_cell"]) if len(self.trajectories) else set()
        return [one for one in self.every if one.cell not in compared]

    @cached_property
    def by_cell(self) -> dict[str, Series]:
        """Cell → series, in the page's order."""
        return {one.cell: one for one in self.every}

    @cached_property
    def _place_of(self) -> dict[str, int]:
        return {cell: place for place, cell in enumerate(self.by_cell)}

    def in_page_order(self, rows: pd.DataFrame, cell: str = "cell", by: Sequence[str] = ()) -> pd.DataFrame:
        """Return rows in the page's order of cells.

        Args:
            rows: with a cell each.
            cell: the column of the cell.
            by: further columns to sort by.
        """
        placed = rows.assign(_place=rows[cell].map(self._place_of))
        return placed.sort_values(["_place", *by], kind="stable").drop(columns="_place")

    @cached_property
    def panel_of(self) -> dict[tuple[str, str], Panel]:
        """(suite, task) → panel."""
        return tables.panel_of(self.findings)

    @cached_property
    def targets(self) -> list[Panel]:
        """The panels of the targets."""
        return tables.panels(self.findings, "target", whole=True)

    @cached_property
    def probes(self) -> list[Panel]:
        """The panels of the probes, the headline suite first, divergence suites left out."""
        shown = [panel for panel in tables.panels(self.findings, "probe", whole=True) if panel.metric not in OWN_METRICS["divergence"]]
        return sorted(shown, key=lambda panel: panel.suite != self.headline)

    @cached_property
    def distances(self) -> list[Panel]:
        """The panels of the divergence suites: distance of a model from its base."""
        every = tables.panels(self.findings, "probe", whole=True)
        return [panel for panel in every if panel.metric in OWN_METRICS["divergence"]]

    @property
    def level(self) -> str:
        """The confidence level of the findings' intervals, such as ``95%``."""
        return words.level_of(self.findings)

    @cached_property
    def unit(self) -> str:
        """The unit of volumes, such as rows."""
        return axis.axis_unit(self.table)

    @property
    def table_file(self) -> str:
        """The file of the tidy table: CSV, or parquet beyond MAX_CSV_ROWS rows, which is faster."""
        return "table.csv" if len(self.table) <= MAX_CSV_ROWS else "table.parquet"

    @cached_property
    def headline(self) -> str | None:
        """The probe suite whose verdict is the headline: declared, else the first."""
        return frontier.headline(self.findings)

    @cached_property
    def declares_headline(self) -> bool:
        """Whether the headline is declared; else it is the first probe suite, and exploratory."""
        return self.headline is not None and self.experiment.declared_beforehand().headline == self.headline

    @cached_property
    def last(self) -> pd.DataFrame:
        """The findings at each cell's largest volume."""
        return at_largest_volume(self.findings)

    def suite_rows(self, suite: str) -> pd.DataFrame:
        """Return a suite's own rows, each at its cell's largest volume that has a change."""
        rows = self.findings[(self.findings["suite"] == suite) & (self.findings["task"] == SUITE_TASK)].dropna(subset=["delta"])
        return at_largest_volume(rows)

    def without_duplicates(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows without those of a suite's only task, which equal the suite's own row."""
        leaves: dict[str, int] = {}
        for suite, task in self.panel_of:
            leaves[suite] = leaves.get(suite, 0) + (task != SUITE_TASK)
        single = [suite for suite, count in leaves.items() if count == 1]
        return rows[~(rows["suite"].isin(single) & (rows["task"] != SUITE_TASK))]

    @cached_property
    def idle(self) -> dict[str, float]:
        """Cell → acceptance, of the methods that did not act: too little text was accepted."""
        cells = self.findings.drop_duplicates("cell")
        cells = cells[~cells["acted"].fillna(value=True).astype(bool)]
        return {str(cell): float(share) for cell, share in zip(cells["cell"], cells["acceptance"], strict=True)}

    @cached_property
    def mixings(self) -> list[shares.Mixing]:
        """The methods that differ only in the share of old data in the loss."""
        return shares.mixings(self.findings, self.experiment.targets())

    @cached_property
    def checks(self) -> pd.DataFrame:
        """The check of each method's learning rate, indexed by cell (``validity.checks``)."""
        return validity.checks(self.findings)

    @cached_property
    def too_high(self) -> list[str]:
        """The cells whose learning rate is too high, in the page's order."""
        high = set(self.checks.index[self.checks["control_check"] == validity.TOO_HIGH])
        return [one.cell for one in self.every if one.cell in high]

    @cached_property
    def unranked(self) -> set[str]:
        """The cells that no ranking, fit, comparison or count has, controls aside."""
        return {*self.idle, *(() if self.declared.any_rate else self.too_high)}

    def mark(self, cell: str) -> str:
        """Return what limits a method's numbers; empty if nothing does."""
        return IDLE if cell in self.idle else RATE_TOO_HIGH if cell in self.too_high else ""

    def withheld(self, cell: str) -> str:
        """Return what is shown in place of a method's verdicts; empty if they are shown."""
        return RATE_TOO_HIGH if cell in self.too_high and not self.declared.any_rate else ""

    @cached_property
    def records(self) -> dict[str, Mapping[str, Any]]:
        """Run id → its record as plain values, for data missing in the table."""
        found = {
            str(run_id): self.experiment.glance("runs", str(run_id), "record.json") for run_id in sorted(self.table["run_id"].unique())
        }
        return {run_id: values for run_id, values in found.items() if values}


def measured(experiment: Experiment) -> Evidence:
    """Read an experiment and compute its findings alone, which takes a part of a page's time."""
    return _measured(experiment)[0]


def _measured(experiment: Experiment) -> tuple[Evidence, Changes]:
    reader = RunReader(experiment)
    table, changes = tidy_table(experiment, reader=reader), Changes(experiment, reader)
    declared = _with_headline(experiment.declared(), table)
    found = in_order(findings.findings(table, changes, declared))
    rates = [] if learning_rates.unselected(experiment) else learning_rates.searched(table, found, changes)
    return Evidence(experiment=experiment, table=table, declared=declared, findings=found, rates=rates), changes


def _with_headline(declared: Declared, table: pd.DataFrame) -> Declared:
    """Return declarations with a headline: the first probe suite with verdicts where none is."""
    probes = table[((table["role"] == "probe") & ~table["metric"].isin(list(OWN_METRICS["divergence"]))).fillna(value=False)]
    if declared.headline is not None or probes.empty:
        return declared
    return dataclasses.replace(declared, headline=str(probes["suite"].iloc[0]))


def gather(experiment: Experiment) -> Evidence:
    """Read an experiment and compute the data of its page."""
    evidence, changes = _measured(experiment)
    table, declared, found = evidence.table, evidence.declared, evidence.findings
    high, targets = validity.runs_too_high(found), experiment.targets()
    return dataclasses.replace(
        evidence,
        fitted=all_laws.every(table, declared, first=_first(found), left_out=high) if len(found) else [],
        frontier=frontier.frontier(found, changes, any_rate=declared.any_rate, targets=targets),
        equal_gain=equal_gain.equal_gain(table, changes, declared, findings=found, targets=targets),
        trajectories=contrasts.trajectories(found, table, changes, any_rate=declared.any_rate),
        sequences=sequences.sequences(table, changes, declared, _stages(experiment, table)),
    )


def _stages(experiment: Experiment, table: pd.DataFrame) -> dict[str, sequences.Stages]:
    """Return run id → its stages, for runs whose data label is a sequence."""
    runs = table[table["data"].str.contains("stages=", regex=False).fillna(value=False)]["run_id"].unique()
    found = {str(run): sequences.stages_of(experiment.glance("runs", str(run), "record.json").get("config", {})) for run in runs}
    return {run: stages for run, stages in found.items() if stages}


def _first(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return the labels of the cells that the figures draw."""
    drawn, _ = curves.chosen([one for one in series(found) if not one.is_control])
    return [{name: words.text(value) for name, value in one.labels.items()} for one in drawn]


def at_largest_volume(rows: pd.DataFrame, cell: str = "cell") -> pd.DataFrame:
    """Return the rows at the largest volume of their cell, named in column ``cell``."""
    return rows[rows["volume"] == rows.groupby(cell)["volume"].transform("max")]


def in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Return findings in the page's order of cells, each cell's by volume."""
    if found.empty:
        return found
    place = {cell: index for index, cell in enumerate(curves.in_order(found)[0]["cell"])}
    ordered = found.assign(_place=found["cell"].map(place)).sort_values(["_place", "volume"], kind="stable", ignore_index=True)
    return ordered.drop(columns="_place")
