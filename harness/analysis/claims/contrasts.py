"""Tests of differences: the change of an arm, and two arms, at one volume or at equal gain."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from harness.analysis.claims.tables import Tables
from harness.analysis.claims.verdicts import Expect, Line
from harness.analysis.findings.equal_gain import MOST_EXTRAPOLATED, has_gained
from harness.analysis.statistics import two_level
from harness.analysis.table.columns import SUITE_TASK
from harness.config.strict import Part, check
from harness.records.schema import OWN_METRICS


@dataclass(frozen=True, kw_only=True)
class GainContrast(Part):
    """Two arms at equal gain: is the forgetting of ``arm`` minus that of ``than`` as expected?"""

    arm: str
    than: str
    expect: Expect


@dataclass(frozen=True, kw_only=True)
class EqualGain(Part):
    """Forgetting of arms at equal gain, on the experiment's headline suite.

    The rows are those of ``harness.analysis.findings.equal_gain``: of an arm without a mitigation,
    all its rates and numbers of epochs count as one method. Arms are compared within a model and a
    tuning, unless they differ in the tuning. A pair has no estimate if one method is not known to
    gain, or if most of the range is below its smallest volume.
    """

    name: ClassVar[str] = "equal_gain"

    contrasts: tuple[GainContrast, ...]
    margin: float | None = None

    def __post_init__(self) -> None:
        """Check that there are contrasts."""
        check("contrasts", len(self.contrasts), "at least one", lambda count: count > 0)

    @property
    def named(self) -> tuple[str, ...]:
        """The arms that are compared."""
        return tuple(name for one in self.contrasts for name in (one.arm, one.than))

    @property
    def suites(self) -> tuple[str, ...]:
        """None besides the headline."""
        return ()

    def lines(self, tables: Tables, margin: float) -> list[Line]:
        """Return a line for each contrast and model, without p_holm and verdict."""
        found = []
        for one in self.contrasts:
            what = f"forgetting of {one.arm} minus {one.than}, at equal gain"
            rows = list(_paired(tables, one.arm, one.than))
            if not rows:
                found.append(Line(what=what, where="", expect=one.expect, margin=margin, note="no such pair in the results"))
            metric, is_share = headline_metric(tables)
            for row, sign, where in rows:
                difference = numbers(row, "difference", "low", "high", "p_value")
                ends = sorted([sign * difference[1], sign * difference[2]])
                without = not_comparable(tables, row)
                note = re.sub(r"\b(tuning|objective|mitigation|data|arm|variant)=", "", without or text(row["note"]))
                line = Line(what=what, where=where, expect=one.expect, metric=metric, is_share=is_share, margin=margin, note=note)
                found.append(line if without else with_estimate(line, sign * difference[0], ends[0], ends[1], difference[3]))
        return found


def not_comparable(tables: Tables, row: pd.Series) -> str:
    """Return why a pair at equal gain is not compared, as on an experiment's page; empty if it is.

    Either a method has no gain that is shown, or most of the range is below its smallest volume.
    """
    for method in ("first", "second"):
        rows = tables.findings[tables.findings["cell"].isin(str(row[f"{method}_cell"]).split(","))]
        if not has_gained(rows, str(row["target_suite"])):
            return f"{text(row[method])}: no gain shown"
    return "most of the gains are below the smallest volume" if numbers(row, "extrapolated")[0] > MOST_EXTRAPOLATED else ""


def _paired(tables: Tables, arm: str, than: str) -> Iterator[tuple[pd.Series, int, str]]:
    """Yield rows of two arms, with the sign of their difference, and model and tuning."""
    cells = tables.findings.drop_duplicates("cell").set_index("cell")
    arms = {str(cell): text(name) for cell, name in cells["arm"].items()}
    found = []
    for _, row in tables.equal_gain.iterrows():
        sides = [set(row[name].split(",")) for name in ("first_cell", "second_cell")]
        names = [{arms.get(cell, "") for cell in side} for side in sides]
        if arm in names[0] and than in names[1]:
            sign = 1
        elif arm in names[1] and than in names[0]:
            sign = -1
        else:
            continue
        tunings = [{str(cells["tuning"][cell]) for cell in side if cell in cells.index} for side in sides]
        found.append((row, sign, tunings))
    alike = [one for one in found if one[2][0] == one[2][1]]
    for row, sign, tunings in alike or found:
        yield row, sign, ", ".join([str(row["model"]), " and ".join(sorted(tunings[0] | tunings[1]))])


@dataclass(frozen=True, kw_only=True)
class Contrast(Part):
    """The forgetting of an arm on a suite, or its difference from another arm's.

    Attributes:
        arm: its name; of a coefficient's own run, such as ``merge[coefficient=0.2]``.
        than: another arm; empty is no training.
        times: factor of the other arm's forgetting, such as 0.4 for the straight line to it.
        suite: a probe suite, or the target: positive is worse, there too.
        task: one task of it; by default their mean.
        expect: what the claim expects of the difference.
    """

    arm: str
    suite: str
    expect: Expect
    than: str = ""
    times: float = 1.0
    task: str = SUITE_TASK


@dataclass(frozen=True, kw_only=True)
class Change(Part):
    """Changes at the largest volume of each arm, whatever it has gained.

    The difference of two arms takes their errors as independent (Welch's t); both are measured on
    the same items, so that its interval is rather too wide.
    """

    name: ClassVar[str] = "change"

    contrasts: tuple[Contrast, ...]
    margin: float | None = None

    def __post_init__(self) -> None:
        """Check that there are contrasts."""
        check("contrasts", len(self.contrasts), "at least one", lambda count: count > 0)

    @property
    def named(self) -> tuple[str, ...]:
        """The arms that are compared."""
        return tuple(name for one in self.contrasts for name in (one.arm, one.than) if name)

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that are read."""
        return tuple(one.suite for one in self.contrasts)

    def lines(self, tables: Tables, margin: float) -> list[Line]:
        """Return a line for each contrast, model and tuning, without p_holm and verdict."""
        return [line for one in self.contrasts for line in _changed(tables, one, margin)]


def _changed(tables: Tables, one: Contrast, margin: float) -> list[Line]:
    subject = one.suite if one.task == SUITE_TASK else one.task
    what = f"loss on {subject} of {one.arm}" + (f" minus {_factor(one.times)}{one.than}" if one.than else "")
    first, second = (last_of(tables, arm, one.suite, one.task) for arm in (one.arm, one.than))
    found = []
    several = first.duplicated(["model", "tuning"], keep=False)
    for is_one_of_several, (_, row) in zip(several, first.iterrows(), strict=True):
        where = place(row) + (f", rate {row['learning_rate']:g}" if is_one_of_several else "")
        line = Line(what=what, where=where, expect=one.expect, metric=str(row["metric"]), is_share=is_share(row), margin=margin)
        others = second[second["model"] == row["model"]] if one.than else second
        others = others if len(others) else second
        alike = others[others["tuning"] == row["tuning"]]
        for other in [row for _, row in (alike if len(alike) else others).iterrows()] if one.than else [None]:
            shown = line if other is None or place(other) == place(row) else replace(line, where=f"{where}; {place(other)}")
            found.append(_welch(shown, row, other, one.times))
    if not found:
        found.append(Line(what=what, where="", expect=one.expect, margin=margin, note="no such arm or suite in the results"))
    return found


def _factor(times: float) -> str:
    return "" if times == 1 else f"{times:g} × "


def _welch(line: Line, row: pd.Series, other: pd.Series | None, times: float) -> Line:
    """Return a line with the loss of a row, minus a factor times that of another."""
    sides = [(row, 1.0)] if other is None else [(row, 1.0), (other, -times)]
    losses = [(factor, *loss(side)) for side, factor in sides]
    estimate = sum(factor * value for factor, value, _, _ in losses)
    errors, df = [abs(factor) * error for factor, _, error, _ in losses], [freedom for *_, freedom in losses]
    variance = sum(error**2 for error in errors)
    if math.isnan(estimate) or math.isnan(variance):
        return replace(line, note="no change was measured")
    shares = [error**4 / freedom for error, freedom in zip(errors, df, strict=True)]
    freedom = variance**2 / sum(shares) if sum(shares) > 0 else math.inf
    reach = two_level.quantile(0.975, freedom) * math.sqrt(variance)
    p_value = two_level.p_value(estimate, math.sqrt(variance), freedom) if variance else float(not estimate)
    least, most = _possible(row, other, times) if line.is_share else (-math.inf, math.inf)
    return with_estimate(line, estimate, max(estimate - reach, least), min(estimate + reach, most), p_value)


def _possible(row: pd.Series, other: pd.Series | None, times: float) -> tuple[float, float]:
    """Return the ends of the possible losses of a share, or of their difference."""
    ends = np.array([loss_ends(side) for side in (row, other) if side is not None])
    low, high = ends[0] if other is None else ends[0] - times * ends[1][::-1]
    return float(low), float(high)


def loss_ends(row: pd.Series) -> tuple[float, float]:
    """Return the smallest and the largest loss that a share can have, by its value before."""
    before = numbers(row, "before")[0]
    return (before - 1.0, before) if bool(row["higher_is_better"]) else (-before, 1.0 - before)


def loss(row: pd.Series) -> tuple[float, float, float]:
    """Return the loss of a finding (positive is worse), its standard error and its freedom."""
    delta, error, freedom = numbers(row, "delta", "stderr", "df")
    return (-delta if bool(row["higher_is_better"]) else delta), error, freedom if freedom > 0 else math.inf


def last_of(tables: Tables, arm: str, suite: str, task: str = SUITE_TASK) -> pd.DataFrame:
    """Return the findings of an arm on a suite, each cell at its largest volume with a change."""
    found = tables.findings
    found = found[(found["arm"] == arm) & (found["suite"] == suite) & (found["task"] == task)]
    return at_last(found)


def at_last(found: pd.DataFrame) -> pd.DataFrame:
    """Return rows at the largest volume of their cell that has a change, without controls."""
    known = found[found["delta"].notna() & ~found["is_control"].fillna(value=False).astype(bool)]
    return known[known["volume"] == known.groupby("cell")["volume"].transform("max")]


def headline_metric(tables: Tables) -> tuple[str, bool]:
    """Return the metric of the suite that is compared at equal gain, and whether it is a share."""
    suites = tables.equal_gain["headline_suite"].dropna()
    rows = tables.findings[(tables.findings["suite"] == (suites.iloc[0] if len(suites) else "")) & (tables.findings["task"] == SUITE_TASK)]
    return (str(rows["metric"].iloc[0]), is_share(rows.iloc[0])) if len(rows) else ("", False)


def is_share(row: pd.Series) -> bool:
    """Return whether a finding's metric is a share, which is shown in points."""
    counts = not pd.isna(row["lost"]) or not pd.isna(row["chance"])
    return (counts and str(row["metric"]) not in OWN_METRICS["likelihood"]) or row["metric"] == "agreement"


def place(row: pd.Series) -> str:
    """Return model and tuning of a finding."""
    return f"{row['model']}, {row['tuning']}"


def numbers(row: pd.Series, *names: str) -> list[float]:
    """Return numbers of a row, NaN where they are missing."""
    return [math.nan if pd.isna(row[name]) else float(row[name]) for name in names]


def text(value: Any) -> str:
    """Return a text, empty where it is missing."""
    return "" if pd.isna(value) else str(value)


def with_estimate(line: Line, estimate: float, low: float, high: float, p_value: float) -> Line:
    """Return a line with its numbers."""
    return replace(line, estimate=float(estimate), low=float(low), high=float(high), p_value=float(p_value))
