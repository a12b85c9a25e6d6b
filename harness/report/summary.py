"""A row for each method: gain, losses, comparison at equal gain, cost.

The first table of an experiment's page, and of the terminal after a sweep.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.findings import frontier
from harness.analysis.findings.equal_gain import ALIKE, FIRST_MORE, MOST_EXTRAPOLATED, SECOND_MORE, has_gained
from harness.analysis.findings.method_pairs import PLAIN, WITHOUT_MITIGATION
from harness.analysis.findings.verdicts import BETTER, UNKNOWN, WORSE, counted
from harness.analysis.table.columns import SUITE_TASK
from harness.report import words
from harness.report.curves import Series
from harness.report.evidence import Evidence
from harness.report.tables import Panel

MAX_LOSSES = 2
"""Most probe suites with a column; the others are among all findings."""

COSTLY = {"time": 1.3, "tokens": 1.05}
"""Smallest ratios that are worth a word; times of runs side by side vary."""


@dataclass(frozen=True)
class AtEqualGain:
    """The loss of a method minus that of another where both have gained equally much.

    Attributes:
        method, reference: names of both, by the labels in which they differ.
        is_plain: whether the other one is no mitigation.
        difference, low, high: in the metric's own unit; negative: the method forgets less.
        verdict: better, worse, alike or not enough evidence; one of ``NOT_COMPARED`` where
            either method is not known to gain or has no volume in most of the range, or where their
            gains do not overlap. Next to no mitigation it is adjusted for the number of methods.
    """

    method: str
    reference: str
    is_plain: bool
    difference: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class MethodRow:
    """A method at its largest volume.

    Attributes:
        one: its series.
        name: without its model where there is only one.
        gain: its finding on the first target suite, else on its own; None without a change.
        losses: its findings on the probe suites of the summary.
        equal: its comparison at equal gain, if there is one.
        cost: its cost in words, of the summary's kind.
    """

    one: Series
    name: str
    gain: pd.Series | None
    losses: Sequence[pd.Series | None]
    equal: AtEqualGain | None
    cost: str


@dataclass(frozen=True)
class Summary:
    """The rows, the suites of their columns (of the gain, of the losses), and the kind of cost."""

    gain: Panel | None
    losses: Sequence[Panel]
    cost: str
    rows: Sequence[MethodRow]

    @property
    def is_about_mitigations(self) -> bool:
        """Whether methods are compared with no mitigation."""
        return any(row.equal is not None and row.equal.is_plain for row in self.rows)


def summary(evidence: Evidence) -> Summary:
    """Return the methods of an experiment, by model; within it those that forget least first.

    Where methods are compared with no mitigation at equal gain, that decides, and methods without
    a comparison come last; else the loss on the headline suite.
    """
    suite = frontier.first_target(evidence.findings, evidence.experiment.targets())
    gain = None if suite is None else evidence.panel_of[suite, SUITE_TASK]
    probes = dict.fromkeys(panel.suite for panel in [*evidence.probes, *evidence.distances])
    losses = [evidence.panel_of[name, SUITE_TASK] for name in probes][:MAX_LOSSES]
    compared = at_equal_gain(evidence)
    methods = evidence.proper or evidence.every
    several = len({one.model for one in methods}) > 1
    kind, costs = _costs(methods)
    rows = [
        MethodRow(
            one,
            one.short if several else one.style_name,
            _gain(one, gain) if gain else None,
            [row_on(one, panel) for panel in losses],
            compared.get(one.cell),
            cost,
        )
        for one, cost in zip(methods, costs, strict=True)
    ]
    found = Summary(gain, losses, kind, rows)
    by_gain = found.is_about_mitigations

    def order(row: MethodRow) -> tuple[Any, ...]:
        loss = -losses[0].sign * float(row.losses[0]["delta"]) if losses and row.losses[0] is not None else float("inf")
        compared = row.equal if by_gain and row.equal is not None and row.equal.verdict not in NOT_COMPARED else None
        at = float("nan") if compared is None else compared.difference
        return (*row.one.size, by_gain and math.isnan(at), loss if math.isnan(at) else at)

    return Summary(gain, losses, kind, sorted(rows, key=order))


def _gain(one: Series, panel: Panel) -> pd.Series | None:
    """Return the gain on a suite, or of a method that learns something else on its own target."""
    if (found := row_on(one, panel)) is not None:
        return found
    rows = one.last[(one.last["role"] == "target") & (one.last["task"] == SUITE_TASK)]
    alike = rows[(rows["metric"] == panel.metric) & (rows["higher_is_better"] == panel.higher_is_better)].dropna(subset=["delta"])
    return None if alike.empty else alike.iloc[0]


def row_on(one: Series, panel: Panel) -> pd.Series | None:
    """Return a method's finding on a suite at its largest volume; None without a change."""
    last = one.last
    found = last[(last["suite"] == panel.suite) & (last["task"] == SUITE_TASK)].dropna(subset=["delta"])
    return None if found.empty else found.iloc[0]


def at_equal_gain(evidence: Evidence) -> dict[str, AtEqualGain]:
    """Return cell → its comparison, with no mitigation of the same tuning, else of two tunings.

    Where no mitigation is compared with none, the second method is compared with the first.
    Comparisons of several cells on both sides are left out: they belong to no row.
    """
    found: dict[str, AtEqualGain] = {}
    p_values: dict[str, float] = {}
    for _, row in evidence.equal_gain.iterrows():
        sides = [str(row[name]).split(",") for name in ("first_cell", "second_cell")]
        plain = [all(evidence.by_cell[cell].labels["mitigation"] == PLAIN for cell in cells) for cells in sides]
        method, reference = ("first", "second") if plain[1] and not plain[0] else ("second", "first")
        cell = str(row[f"{method}_cell"])
        alike = all(_same(*(evidence.by_cell[cells[0]].labels[name] for cells in sides)) for name in WITHOUT_MITIGATION)
        is_plain = plain[0] != plain[1]
        known = cell in found and (found[cell].is_plain or not is_plain)
        if "," in cell or not any(plain) or (is_plain and not alike) or known:
            continue
        sign = 1.0 if method == "first" else -1.0
        gains = all(any(has_gained(evidence.by_cell[one].rows, str(row["target_suite"])) for one in cells) for cells in sides)
        ends = [sign * _number(row[name]) for name in ("low", "high")]
        more = FIRST_MORE if method == "first" else SECOND_MORE
        verdicts = {FIRST_MORE: BETTER, SECOND_MORE: BETTER} | {more: WORSE, ALIKE: ALIKE, UNKNOWN: UNKNOWN}
        verdict = verdicts.get(words.text(row["verdict"]), "")
        found[cell] = AtEqualGain(
            method=str(row[method]),
            reference=str(row[reference]),
            is_plain=is_plain,
            difference=sign * _number(row["difference"]),
            low=min(ends),
            high=max(ends),
            verdict=NO_GAIN if not gains else FEW_VOLUMES if _number(row["extrapolated"]) > MOST_EXTRAPOLATED else verdict,
        )
        p_values[cell] = _number(row["p_value"])
    plain_alone = {cell: one for cell, one in found.items() if one.is_plain}
    return _adjusted(plain_alone or found, p_values)


NO_GAIN = "no gain shown"
"""In place of a verdict at equal gain: a method that does not learn has no gain to compare at."""

FEW_VOLUMES = "volumes too large"
"""The same, where a path is mostly a straight line from (0, 0) to its smallest volume."""

NOT_COMPARED = ("", NO_GAIN, FEW_VOLUMES)


def _adjusted(found: Mapping[str, AtEqualGain], p_values: Mapping[str, float]) -> dict[str, AtEqualGain]:
    """Return comparisons whose verdicts next to no mitigation are adjusted for their number."""
    cells = [cell for cell, one in found.items() if one.is_plain and one.verdict not in NOT_COMPARED]
    verdicts = counted([found[cell].verdict for cell in cells], np.array([p_values[cell] for cell in cells]))
    return {**found, **{cell: dataclasses.replace(found[cell], verdict=verdict) for cell, verdict in zip(cells, verdicts, strict=True)}}


def _number(value: Any) -> float:
    return float("nan") if pd.isna(value) else float(value)


def _costs(methods: Sequence[Series]) -> tuple[str, list[str]]:
    """Return the kind of cost that a table shows, and that of each method in words.

    One kind for all rows: ratios to no mitigation if there is a mitigation and each method has such
    a reference; else time and tokens.
    """
    rows = [one.last.iloc[0] for one in methods]
    others = [_reference(methods, one) for one in methods]
    known = [other for other in others if other is not None]
    if len(known) < len(rows) or all(one.labels["mitigation"] == PLAIN for one in methods):
        amounts = [[words.duration(row["wall_seconds"]), f"{words.count(row['train_tokens'])} tokens"] for row in rows]
        return ABSOLUTE, [_joined(parts, row) for parts, row in zip(amounts, rows, strict=True)]
    return RATIOS, [_joined(_ratios(row, other), row) for row, other in zip(rows, known, strict=True)]


RATIOS, ABSOLUTE = "cost, next to no mitigation", "cost of training"
"""Kinds of cost, each the title of its column."""


def _joined(parts: Sequence[str], row: pd.Series) -> str:
    written = 0 if pd.isna(row["generated_tokens"]) else int(row["generated_tokens"])
    return ", ".join([*parts, *([f"{words.short_count(written)} tokens generated"] if written else [])]) or "no more"


def _ratios(row: pd.Series, other: pd.Series) -> list[str]:
    """Return the ratios of time and tokens that are worth a word."""
    names = {"time": "wall_seconds", "tokens": "train_tokens"}
    ratios = {name: _number(row[column]) / base if (base := _number(other[column])) > 0 else 0.0 for name, column in names.items()}
    return [f"{ratio:.1f} × {name}" for name, ratio in ratios.items() if ratio >= COSTLY[name]]


def _reference(methods: Sequence[Series], one: Series) -> pd.Series | None:
    """Return the point of no mitigation after as many rows, with the fewest passes over them."""
    volume = one.rows["volume"].max()
    found = [
        rows.iloc[0]
        for other in methods
        if other.labels["mitigation"] == PLAIN
        and all(_same(other.labels[name], one.labels[name]) for name in ["model", "tuning", "objective", "data"])
        and len(rows := other.rows[other.rows["volume"] == volume])
    ]
    return min(found, key=lambda row: _number(row["train_tokens"]), default=None)


def _same(first: Any, second: Any) -> bool:
    return bool(first == second) or (bool(pd.isna(first)) and bool(pd.isna(second)))
