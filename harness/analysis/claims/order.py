"""Test of an order: the rank correlation of a column with forgetting, over the cells of arms."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import special, stats

from harness.analysis.claims import contrasts
from harness.analysis.claims.tables import Tables
from harness.analysis.claims.verdicts import Expect, Line
from harness.analysis.statistics.stats import Floats
from harness.analysis.table.columns import SUITE_TASK
from harness.config.strict import Part, check
from harness.core.seeds import stream

COLUMNS = ["target_nats", "params_total", "params_trainable", "learning_rate", "anchor_loss_share", "coefficient", "steps"]
"""Columns that may order cells."""

FEWEST = 5
"""Fewest cells of an order: of four, no order has a p-value below 0.05."""

EXACT = 8
"""Most cells whose permutations are all counted; beyond, the t approximation is used."""

NAMED = 2
"""Most arms that the name of a comparison lists; the remark lists all cells."""

DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Order(Part):
    """Spearman's rank correlation over cells: does a column order their forgetting?

    The interval is over seeds and items: the forgetting of each cell is drawn anew by its own error
    (Student's t). The p-value also takes the cells as a sample: it is the larger of that of the
    draws and that of the permutations of the cells.

    Attributes:
        x: a column of the findings, or ``value of SUITE`` after training, such as a divergence.
        suite: whose forgetting is ordered.
        than: an arm from which the forgetting at equal gain is counted; empty takes the change at
            the largest volume.
        fg: take FG as the forgetting: the percent of the score before that was lost, mean over the
            volumes (Luo et al. 2023, arXiv 2308.08747, equation 1). Its error is that at the last
            volume, relative to the score before: that of a mean is at most that of its parts, which
            are smaller at smaller volumes.
        arms: those that take part; by default all.
        within: labels that the cells of one correlation share.
        expect: ``more`` or ``less`` forgetting with larger values of x, or neither.
    """

    name: ClassVar[str] = "order"

    x: str
    suite: str
    expect: Expect
    than: str = ""
    fg: bool = False
    arms: tuple[str, ...] = ()
    within: tuple[str, ...] = ("model", "tuning")
    margin: float | None = 0.0

    def __post_init__(self) -> None:
        """Check the column and the labels."""
        allowed = f"{', '.join(COLUMNS)}, or 'value of SUITE'"
        check("x", self.x, allowed, lambda x: x in COLUMNS or x.startswith("value of "))
        labels = ("model", "tuning", "data", "objective", "trajectory")
        for label in self.within:
            check("within", label, ", ".join(labels), lambda name: name in labels)

    @property
    def named(self) -> tuple[str, ...]:
        """The arms that it names."""
        return (*self.arms, *([self.than] if self.than else []))

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that are read."""
        return (self.suite, *([self.x.removeprefix("value of ")] if self.x not in COLUMNS else []))

    def lines(self, tables: Tables, margin: float) -> list[Line]:
        """Return a line for each group of cells, without p_holm and verdict."""
        lost = "FG" if self.fg else "forgetting"
        what = f"rank correlation of {self.x} with {lost} on {self.suite}" + (f", at equal gain with {self.than}" if self.than else "")
        what += f", over {' and '.join(self.arms)}" if 0 < len(self.arms) <= NAMED else ""
        found = [
            self._line(Line(what=what, where=where, expect=self.expect, margin=margin), rows)
            for where, rows in self._groups(self._cells(tables))
        ]
        return found or [Line(what=what, where="", expect=self.expect, margin=margin, note="no such arms in the results")]

    def _groups(self, cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        if cells.empty:
            return []
        keys = cells[list(self.within)].astype(str).agg(", ".join, axis=1) if self.within else pd.Series("all", index=cells.index)
        return [(str(where), rows) for where, rows in cells.groupby(keys, sort=False)]

    def _cells(self, tables: Tables) -> pd.DataFrame:
        """Return a row for each cell: labels, x, y, error, df."""
        found = tables.findings
        rows = contrasts.at_last(found[(found["suite"] == self.suite) & (found["task"] == SUITE_TASK)]).copy()
        if self.arms:
            rows = rows[rows["arm"].isin([*self.arms, self.than])]
        else:
            rows = rows[~rows["arm"].fillna("").str.contains("[", regex=False)]  # a coefficient's own run trained on the same rows
        if self.x in COLUMNS:
            rows["x"] = rows[self.x].astype(float)
        else:
            own = contrasts.at_last(found[(found["suite"] == self.suites[1]) & (found["task"] == SUITE_TASK)])
            rows["x"] = rows["cell"].map(own.set_index("cell")["after"]).astype(float)
        lost = [_relative(row) if self.fg else contrasts.loss(row) for _, row in rows.iterrows()]
        if self.than:
            lost = [_at_equal_gain(tables, str(cell), str(arm), self.than) for cell, arm in zip(rows["cell"], rows["arm"], strict=True)]
        y, error, df = zip(*lost, strict=True) if lost else ((), (), ())
        return rows.assign(y=list(y), error=list(error), df=list(df))

    def _line(self, line: Line, rows: pd.DataFrame) -> Line:
        known = rows["x"].notna() & rows["y"].notna() & rows["error"].notna()
        without, rows = _named(rows[~known]), rows[known]
        if len(rows) < FEWEST:
            return replace(line, note=f"{len(rows)} cells; at least {FEWEST} are needed")
        x, y, error, df = (rows[name].to_numpy(dtype=np.float64) for name in ("x", "y", "error", "df"))
        if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
            return replace(line, note=f"all {len(rows)} cells are equal in {self.x} or in forgetting")
        rho = float(_correlations(x, y[None])[0])
        drawn = _drawn(x, y, error, df)
        low, high = np.quantile(drawn, [0.025, 0.975])
        by_seeds = min(1.0, 2 * min(float(np.mean(drawn <= 0)), float(np.mean(drawn >= 0))))
        note = f"{len(rows)} cells: {_named(rows)}" + (f"; without a number: {without}" if without else "")
        return contrasts.with_estimate(replace(line, note=note), rho, float(low), float(high), max(by_seeds, _permuted(x, y, rho)))


def _named(rows: pd.DataFrame) -> str:
    """Return the arms of cells, or their models where these vary."""
    names = rows["model"] if rows["model"].nunique() > 1 else rows["arm"].fillna(rows["model"])
    return ", ".join(dict.fromkeys(names.astype(str)))


def _relative(row: pd.Series) -> tuple[float, float, float]:
    """Return the FG of a finding in percent, its standard error and its freedom."""
    _, error, freedom = contrasts.loss(row)
    fg, before = contrasts.numbers(row, "fg_over_volumes", "before")
    return fg, 100 * error / abs(before) if before else math.nan, freedom


def _at_equal_gain(tables: Tables, cell: str, arm: str, than: str) -> tuple[float, float, float]:
    """Return the difference of a cell from an arm at equal gain, its error and its freedom."""
    if arm == than:
        return 0.0, 0.0, math.inf
    arms = dict(zip(tables.findings["cell"], tables.findings["arm"], strict=True))
    for _, row in tables.equal_gain.iterrows():
        sides = [row[name].split(",") for name in ("first_cell", "second_cell")]
        for sign, own, other in ((1, *sides), (-1, *reversed(sides))):
            if own == [cell] and any(arms.get(one) == than for one in other) and not contrasts.not_comparable(tables, row):
                difference, error, freedom = contrasts.numbers(row, "difference", "stderr", "df")
                return sign * difference, error, freedom
    return math.nan, math.nan, math.nan


def _correlations(x: Floats, y: Floats) -> Floats:
    """Return Spearman's rank correlation of x, shape (n,), with each row of y, shape (k, n)."""
    ranks = stats.rankdata(x)
    a, b = ranks - ranks.mean(), stats.rankdata(y, axis=1)
    b = b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a @ a) * (b * b).sum(axis=1))
    found: Floats = np.divide(b @ a, scale, out=np.zeros(len(y)), where=scale > 0)
    return found


def _drawn(x: Floats, y: Floats, error: Floats, df: Floats) -> Floats:
    """Return the correlations of DRAWS draws of the cells' forgetting, shape (DRAWS,)."""
    uniform = stream(0, "claims", "order").random((DRAWS, len(y)))
    return _correlations(x, y + error * special.stdtrit(df, uniform))


def _permuted(x: Floats, y: Floats, rho: float) -> float:
    """Return the two-sided p-value of no correlation, over the permutations of the cells."""
    if len(x) > EXACT:
        freedom = len(x) - 2
        t = abs(rho) * math.sqrt(freedom / max(1e-12, 1 - rho**2))
        return float(2 * special.stdtr(freedom, -t))
    every = y[np.array(list(itertools.permutations(range(len(y)))))]
    return float(np.mean(np.abs(_correlations(x, every)) >= abs(rho) - 1e-9))
