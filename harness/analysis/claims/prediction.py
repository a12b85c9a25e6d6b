"""Test of a prediction: held-out arms, predicted by a law and by naive baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd

from harness.analysis.claims import contrasts
from harness.analysis.claims.tables import Tables
from harness.analysis.claims.verdicts import Expect, Line
from harness.analysis.fits import estimate, judging, laws
from harness.analysis.fits.estimate import Points
from harness.analysis.fits.laws import Law
from harness.analysis.statistics import two_level
from harness.analysis.statistics.stats import Floats
from harness.analysis.table.columns import SUITE_TASK
from harness.config.strict import Part, check
from harness.core.errors import AnalysisError

PREDICTORS = ("finetune_loss", "params_trainable", "steps", "volume", "params_total")
"""Columns that the points have; a law may read these."""

FEWEST = 3
"""Fewest held-out arms, for an interval."""


@dataclass(frozen=True, kw_only=True)
class Prediction(Part):
    """Error of a law at arms that it was not fitted to, minus that of naive baselines.

    Each arm in turn is held out with all its volumes. The law is fitted to the others, by robust
    least squares. The naive baselines predict the mean of the other arms at the same volume, and
    the forgetting of the arm with the nearest number of trained parameters at that volume. The
    interval is Student's t over the held-out arms, of their mean absolute errors.

    Attributes:
        laws: names of ``harness.analysis.fits.laws``.
        suite: whose forgetting is predicted.
        loss: the suite whose value after training is the loss on the new data.
        arms: those that take part; by default all.
        expect: ``less``: the law errs less than each baseline.
    """

    name: ClassVar[str] = "prediction"

    laws: tuple[str, ...]
    suite: str
    loss: str
    arms: tuple[str, ...] = ()
    expect: Expect = "less"
    margin: float | None = None

    def __post_init__(self) -> None:
        """Check the names of the laws."""
        known = [name for name in laws.names() if set(laws.named(name).columns) <= set(PREDICTORS)]
        for name in self.laws:
            check("laws", name, ", ".join(known), lambda name: name in known)

    @property
    def named(self) -> tuple[str, ...]:
        """The arms that it names."""
        return self.arms

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that are read."""
        return self.suite, self.loss

    def lines(self, tables: Tables, margin: float) -> list[Line]:
        """Return a line for each law, baseline and model, without p_holm and verdict."""
        rows = self._rows(tables)
        found = []
        for name in self.laws:
            for model, own in rows.groupby("model", sort=False):
                share = contrasts.is_share(own.iloc[0])
                line = Line(what="", where=str(model), expect=self.expect, metric=str(own["metric"].iloc[0]), is_share=share, margin=margin)
                found += [replace(one, what=f"{one.what}, on {self.suite}") for one in _against(line, laws.named(name), own)]
        what = f"error of {' and '.join(self.laws)} at held-out arms, on {self.suite}"
        return found or [Line(what=what, where="", expect=self.expect, margin=margin, note="no such arms or suites in the results")]

    def _rows(self, tables: Tables) -> pd.DataFrame:
        """Return a row for each cell and volume: labels, predictors, y."""
        found = tables.findings
        found = found[(found["task"] == SUITE_TASK) & ~found["is_control"].fillna(value=False).astype(bool)]
        rows = found[(found["suite"] == self.suite) & found["delta"].notna()].copy()
        if self.arms:
            rows = rows[rows["arm"].isin(self.arms)]
        learned = found[found["suite"] == self.loss].set_index(["cell", "volume"])["after"]
        rows["finetune_loss"] = [learned.get(key, math.nan) for key in zip(rows["cell"], rows["volume"], strict=True)]
        rows["y"] = [contrasts.loss(row)[0] for _, row in rows.iterrows()]
        return rows


def _against(line: Line, law: Law, rows: pd.DataFrame) -> list[Line]:
    """Return a line for each baseline, of one law on the points of one model."""
    named = replace(line, what=f"error of {law.name} at held-out arms")
    rows = rows.dropna(subset=[*law.columns, "y"])
    arms = list(dict.fromkeys(rows["arm"].astype(str)))
    if len(arms) < FEWEST:
        return [replace(named, note=f"{len(arms)} arms with all of {', '.join(law.columns)}; at least {FEWEST} are needed")]
    try:
        errors = {arm: _errors(law, rows[rows["arm"] != arm], rows[rows["arm"] == arm]) for arm in arms}
    except AnalysisError as reason:
        return [replace(named, note=str(reason))]
    found = []
    for baseline in ("the mean of the other arms", "the arm nearest in size"):
        apart = np.array([of["law"] - of[baseline] for of in errors.values()])
        apart = apart[np.isfinite(apart)]
        one = replace(named, what=f"{named.what} minus that of {baseline}")
        if len(apart) < FEWEST:
            found.append(replace(one, note=f"{len(apart)} arms can be held out; at least {FEWEST} are needed"))
            continue
        mean, error = float(apart.mean()), float(apart.std(ddof=1) / math.sqrt(len(apart)))
        reach = two_level.quantile(0.975, len(apart) - 1) * error
        note = f"mean error of the law {np.mean([of['law'] for of in errors.values()]):.3g}, of the baseline "
        note += f"{np.nanmean([of[baseline] for of in errors.values()]):.3g}, over {len(apart)} held-out arms"
        p_value = two_level.p_value(mean, error, len(apart) - 1) if error else float(not mean)
        found.append(contrasts.with_estimate(replace(one, note=note), mean, mean - reach, mean + reach, p_value))
    return found


def _errors(law: Law, rest: pd.DataFrame, there: pd.DataFrame) -> Mapping[str, float]:
    """Return the mean absolute errors at the held-out points, of the law and of the baselines."""
    points, held = _points(law, rest), _points(law, there)
    judging.require_enough(law, points, {})
    fitted = estimate.build(law, points, {})
    guess = fitted.curve(held.columns)(estimate.best(fitted, points).theta[None])[0]
    mean = there["volume"].map(rest.groupby("volume")["y"].mean()).to_numpy(dtype=np.float64)
    nearest = [_nearest(rest, row) for _, row in there.iterrows()]
    found: dict[str, Floats] = {"law": guess, "the mean of the other arms": mean, "the arm nearest in size": np.array(nearest)}
    return {name: _mean_error(held.response, values) for name, values in found.items()}


def _nearest(rest: pd.DataFrame, row: pd.Series) -> float:
    """Return the forgetting of the nearest arm in trained parameters, at the same volume."""
    same = rest[rest["volume"] == row["volume"]]
    if same.empty:
        return math.nan
    apart = (np.log(same["params_trainable"].astype(float)) - math.log(float(row["params_trainable"]))).abs()
    return float(same.loc[apart <= apart.min() + 1e-9, "y"].mean())


def _mean_error(response: Floats, guess: Floats) -> float:
    known = np.isfinite(guess)
    return float(np.mean(np.abs(response - guess)[known])) if known.any() else math.nan


def _points(law: Law, rows: pd.DataFrame) -> Points:
    cells = {cell: number for number, cell in enumerate(dict.fromkeys(rows["cell"]))}
    columns = {name: rows[name].to_numpy(dtype=np.float64) for name in law.columns}
    error = rows["stderr"].fillna(0.0).to_numpy(dtype=np.float64)
    return Points(columns, rows["y"].to_numpy(dtype=np.float64), error, rows["cell"].map(cells).to_numpy(dtype=np.int64))
