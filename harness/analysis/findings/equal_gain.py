"""Forgetting at equal gain: a comparison of methods that have learned equally much.

It is the fair comparison of methods that learn at different speeds, such as LoRA and full tuning.
Every method has a path over its volumes (``harness.analysis.findings.paths``). Two methods are
compared over the gains that both reach, from a tenth of the smaller of their largest gains to all
of it, never beyond. The one number of a pair is the area between their curves of forgetting against
gain, divided by the width of that range: the mean difference of forgetting at equal gain.

Without a mitigation, a lower learning rate or more epochs may forget less. Where there are several
such cells, of shared or independent trajectories, others are compared with the least that any of
them forgets at each gain (``harness.analysis.findings.envelope``). All else is compared within one
kind of trajectory.

The interval takes gain and forgetting together, since a seed that learns more often forgets more.
Items are paired. Seeds are not: runs of one seed and two methods have little in common, and pairing
would cost degrees of freedom. The variance between seeds is pooled over all methods and models that
were measured on the same items.
With fewer than three seeds the interval is over items alone, as its column ``varies`` states.

Source: Biderman et al. 2024, arXiv 2405.09673, section 4.3; Shenfeld et al. 2025, arXiv 2509.04259
(comparison at matched accuracy). The linearised interval is this project's; benchmarks/METHOD.md
has its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.findings import validity
from harness.analysis.findings.arms import named_by_arm
from harness.analysis.findings.envelope import LOW, Over, over
from harness.analysis.findings.estimates import ItemChanges
from harness.analysis.findings.findings import findings as findings_of
from harness.analysis.findings.frontier import first_target, headline
from harness.analysis.findings.method_pairs import FEW, Cells, comparable, names_of, pairs_of
from harness.analysis.findings.paths import Path, linearised
from harness.analysis.findings.reading import METHOD, SAME, Reader
from harness.analysis.findings.verdicts import GAINED, SIGNIFICANT
from harness.analysis.statistics import task_sums, two_level
from harness.analysis.statistics.multiple import holm
from harness.analysis.statistics.pooled import SeedMeans, Spread, pooled
from harness.analysis.statistics.stats import LEVEL, Floats
from harness.analysis.table.columns import SUITE_TASK, specified
from harness.records.schema import Declared

ALIKE, FIRST_MORE, SECOND_MORE, UNKNOWN = "alike", "first forgets more", "second forgets more", "not enough evidence"

PAIR = ["first", "second", "data", "trajectory", "dtype"]
"""Columns that are equal in a family of tests: one pair of methods, over models."""

_SPECIFICATION = """
model             string   start model
params_total      Int64    number of parameters of the model
data              string   target data of both methods
trajectory        string   trajectory of both methods: shared or independent; of no mitigation with several cells, both may count
dtype             string   floating-point type of the forward pass in training, of both methods
first             string   first method, named by the labels in which the two differ
second            string   second method, named by the labels in which the two differ
first_cell        string   ids of the first method's compared cells, with commas; of several, the one that forgets least at each gain counts
second_cell       string   ids of the second method's cells, as first_cell
target_suite      string   suite whose change is the gain
headline_suite    string   suite whose change is the forgetting
first_reach       Float64  largest gain on the first method's paths, in the target metric's unit
second_reach      Float64  largest gain on the second method's paths, in the target metric's unit
range_low         Float64  lower end of the range of gains that is compared: a tenth of range_high
range_high        Float64  upper end of that range: the smaller of the two reaches; empty where one method never gains
extrapolated      Float64  share of that range, 0..1, below the smallest volume of a method, where its path is a straight line from (0, 0)
first_forgetting  Float64  mean forgetting of the first method over the range, in the headline metric's unit; positive is worse
second_forgetting Float64  mean forgetting of the second method over the range, in the headline metric's unit; positive is worse
difference        Float64  first_forgetting minus second_forgetting: area between the curves per width; positive: the first forgets more
stderr            Float64  standard error of difference; with several cells, of the upper end's
df                Float64  degrees of freedom of the t interval of difference
low               Float64  lower end of the interval of difference
high              Float64  upper end of the interval of difference
level             Float64  confidence level of the interval, in 0..1
varies            string   samples that the interval is over: items, or seeds and items
seeds             Int64    number of seeds, of the method with fewer
p_value           Float64  p-value of no difference, by Student's t of difference / stderr; with several cells, of the end nearer to 0
p_holm            Float64  p_value adjusted by Holm over the models on which this pair of methods is compared
tests             Int64    number of tests that p_holm adjusts for
non_monotone      boolean  whether the gain of either method falls from one volume to a larger one
no_common_range   boolean  whether one of the two methods never gains, so that there is no difference
margin            Float64  margin of the headline suite (declared, or 0.02), in its metric's unit: a difference within ±margin is negligible
verdict           string   alike: interval inside ±margin; else first or second forgets more: p_holm below 0.05; else not enough evidence
note              string   reason why there is no difference, or remarks on it
"""
COLUMNS, DESCRIPTIONS = specified(_SPECIFICATION)
"""Column → dtype, in order, and column → description with unit and sign."""

Row = dict[str, Any]


def equal_gain(
    table: pd.DataFrame,
    changes: ItemChanges,
    declared: Declared,
    level: float = LEVEL,
    *,
    findings: pd.DataFrame | None = None,
    targets: Sequence[str] = (),
) -> pd.DataFrame:
    """Compare the forgetting of pairs of methods at equal gain.

    Args:
        table: the tidy table.
        changes: item changes of the same experiment.
        declared: declarations with the headline suite, whose change is the forgetting, and its
            margin.
        level: confidence level of the intervals.
        findings: findings of the same table, if they exist already.
        targets: target suites in the order of the experiment (``first_target``).

    Returns:
        Columns as in COLUMNS: one row for each model and pair of methods, without numbers where
        its note gives a reason. Empty where no headline is declared or there is no target suite.
        Up to ALL_PAIRS methods, all pairs are compared. Beyond, each method is compared with the
        plain ones that differ only in mitigation, learning rate, epochs and trajectory, and the
        plain ones with each other. Where any rate is asked for (``declared.any_rate``), each plain
        rate is also compared with the searched one, or with the lowest. Controls, methods that did
        not act and cells whose learning rate is too high are left out (``validity.ranked``).
    """
    found = findings_of(table, changes, declared) if findings is None else findings
    target, probe = first_target(found, targets), headline(found)
    rows: list[Row] = []
    if target is not None and probe is not None:
        place = {str(cell): number for number, cell in enumerate(found["cell"].drop_duplicates())}
        shown = named_by_arm(found).drop_duplicates("cell").set_index("cell")[METHOD].astype(object)
        shown = shown.where(shown.notna(), None)
        pairs = [
            _compared(first, second, names_of(first, second, arms, shown))
            for arms in Reader(table, changes, target, probe).alike(found[validity.ranked(found, any_rate=declared.any_rate)])
            for first, second in pairs_of(arms, rates=declared.any_rate)
        ]
        rows = [row | {"target_suite": target, "headline_suite": probe, "level": level} for row in _with_intervals(pairs, level)]
        rows.sort(key=lambda row: tuple(place[row[name].split(",")[0]] for name in ("first_cell", "second_cell")))
    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}, dtype=object).astype(COLUMNS)
    return _judged(frame, float(declared.margins.get(probe or "", declared.margin)))


def _judged(frame: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Add margins, p-values over models, and verdicts."""
    low, high, difference, p_value = (
        frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("low", "high", "difference", "p_value")
    )
    adjusted, tests = holm(p_value, frame.groupby(PAIR, dropna=False).ngroup().to_numpy(dtype=np.int64))
    verdict = np.where(adjusted < SIGNIFICANT, np.where(difference > 0, FIRST_MORE, SECOND_MORE), UNKNOWN).astype(object)
    verdict[(low >= -margin) & (high <= margin)] = ALIKE
    verdict[np.isnan(low) | np.isnan(high)] = None
    return frame.assign(
        margin=pd.array([margin] * len(frame), dtype="Float64"),
        p_holm=pd.array(adjusted, dtype="Float64"),
        tests=pd.Series(tests, dtype="Int64", index=frame.index).where(tests > 0),
        verdict=pd.array(verdict, dtype="string"),
    )


@dataclass(frozen=True)
class _Pair:
    """A pair of methods before its seeds' variance is pooled.

    Attributes:
        row: columns known so far.
        sums: sums of each task of the numbers whose mean varies like the difference, for the lower
            and the upper end of its interval, which differ where a method has several cells; empty
            without a difference.
        ends: difference, for the lower and the upper end.
        items: hashes of the items; the variance is pooled over pairs of equal ones.
        counted: number of items of each headline task, as in ``Path``.
        n: number of items of the headline.
        changed: share of the headline's items that each method changed.
    """

    row: Row
    sums: Sequence[Sequence[task_sums.TaskSums]] = ()
    ends: tuple[float, float] = (math.nan, math.nan)
    items: tuple[str, ...] = ()
    counted: Sequence[int] = ()
    n: int = 0
    changed: tuple[float, ...] = ()

    def cells(self) -> list[tuple[str, Floats, float]]:
        """Return both methods with their seeds' means and the share of changed items."""
        if not self.sums:
            return []
        means = [np.mean(of, axis=0) for of in zip(*(one.seeds for one in self.sums[0]), strict=True)]
        return list(zip((self.row["first_cell"], self.row["second_cell"]), means, self.changed, strict=True))


def _compared(first: Cells, second: Cells, names: Sequence[str]) -> _Pair:
    """Return the comparison of two methods, without its interval."""
    row: Row = {name: first[0].labels[name] for name in SAME} | {"no_common_range": False, "first": names[0], "second": names[1]}
    row |= {"first_cell": ",".join(arm.cell for arm in first), "second_cell": ",".join(arm.cell for arm in second)}
    row["trajectory"] = " and ".join(sorted({arm.labels["trajectory"] for arm in (*first, *second)}, reverse=True))
    for cells, name in zip((first, second), names, strict=True):
        if all(arm.path is None for arm in cells):
            return _Pair(row | {"note": f"{name}: {cells[0].reason}"})
    sides = [_Side(name, cells) for name, cells in zip(names, (first, second), strict=True)]
    row |= {f"{place}_cell": ",".join(arm.cell for arm in side.arms) for place, side in zip(("first", "second"), sides, strict=True)}
    one = sides[0].arms[0]
    if any(arm.items != one.items for side in sides for arm in side.arms):
        within = [side.name for side in sides if len({arm.items for arm in side.arms}) > 1]
        note = f"{within[0]}: its cells" if within else "the two methods"
        return _Pair(row | {"note": f"{note} were measured on different items"})
    row |= {"first_reach": sides[0].reach, "second_reach": sides[1].reach, "non_monotone": any(side.falls for side in sides)}
    reach = min(side.reach for side in sides)
    if reach <= 0:
        flat = " and ".join(side.name for side in sides if side.reach <= 0)
        return _Pair(row | {"no_common_range": True, "note": f"{flat}: no gain at any volume, so no gain that both reach"})
    row["extrapolated"] = max(side.extrapolated(reach) for side in sides)
    row |= {"range_low": LOW * reach, "range_high": reach, "seeds": min(len(arm.seeds) for side in sides for arm in side.arms)}
    several = any(len(side.paths) > 1 for side in sides)
    ends = [
        [over(side.paths, one.clusters, reach, by_others=of) for side, of in zip(sides, by, strict=True)] for by in _CHOICES[: 1 + several]
    ]
    lost = [float(np.mean([end[side].value for end in ends])) for side in (0, 1)]
    row |= {"first_forgetting": lost[0], "second_forgetting": lost[1], "difference": lost[0] - lost[1]}
    row |= {"note": "; ".join(note for side in sides for note in side.notes(reach)) or None}
    sums = [[task_sums.task(a, b, of, binary=False) for a, b, of in zip(*_numbers(sides, end), one.clusters, strict=True)] for end in ends]
    apart = [first.value - second.value for first, second in ends]
    path = sides[0].paths[0]
    items = sum(values.shape[1] for values in path.forgetting[0])
    changed = tuple(of.changed for of in ends[0])
    return _Pair(row, sums, (apart[0], apart[-1]), one.items, path.counted, items, changed)


MOST_EXTRAPOLATED = 0.5
"""Largest share of the range of gains without a measured volume at which a verdict is given."""


def has_gained(rows: pd.DataFrame, suite: str) -> bool:
    """Return whether findings of a method have a gain on a suite at any volume.

    A method that does not learn has no gain to compare at.
    """
    found = rows[(rows["suite"] == suite) & (rows["task"] == SUITE_TASK)]
    return bool((found["verdict"] == GAINED).fillna(value=False).any())


_CHOICES = ((False, True), (True, False))
"""Whether the path of the first and of the second method is chosen by other numbers than are read,
for the lower end of the difference's interval and for the upper one."""


def _numbers(sides: Sequence[_Side], found: Sequence[Over]) -> list[list[Floats]]:
    """Return the numbers of both methods, the variation of the range's end included.

    The end is the reach of the method that gains less.
    """
    numbers = [one.numbers for one in found]
    shorter = 0 if sides[0].reach <= sides[1].reach else 1
    moved = sides[shorter].top((found[0].by_reach - found[1].by_reach) * (1 if shorter == 0 else -1))
    numbers[shorter] = [a + b[: len(a)] for a, b in zip(numbers[shorter], moved, strict=True)]
    return numbers


def _with_intervals(pairs: Sequence[_Pair], level: float) -> list[Row]:
    """Return the rows of all pairs, with the variance between seeds pooled over them.

    A method is one cell of the pool. The ranges that it is compared over are its volumes: they are
    numbers of the same runs.
    """
    cells: dict[tuple[str, ...], dict[str, list[tuple[Floats, float]]]] = {}
    for pair in pairs:
        for cell, means, changed in pair.cells():
            cells.setdefault(pair.items, {}).setdefault(cell, []).append((means, changed))
    spreads = {}
    for items, of in cells.items():
        of_cells = [SeedMeans(np.stack([means for means, _ in each]), np.array([share for _, share in each])) for each in of.values()]
        found = pooled(of_cells, next(pair.n for pair in pairs if pair.items == items))
        spreads[items] = {cell: iter(each) for cell, each in zip(of, found, strict=True)}
    return [pair.row | _interval(pair, [next(spreads[pair.items][cell]) for cell, _, _ in pair.cells()], level) for pair in pairs]


def _interval(pair: _Pair, spreads: Sequence[Spread], level: float) -> Row:
    """Return the interval and p-value of a pair; nothing without a difference."""
    if not pair.sums:
        return {}
    least = two_level.unchanged(pair.counted, level) if pair.counted else 0.0
    found = []
    for sums, apart in zip((pair.sums[0], pair.sums[-1]), pair.ends, strict=True):
        of = two_level.combined(sums, level, spreads)
        # Where hardly any item was forgotten, the spread alone is too small.
        half = math.hypot(np.nan_to_num((of.high - of.low) / 2), least) or math.nan
        stderr = half / two_level.quantile(0.5 + level / 2, of.df)
        found.append((of, apart, half, stderr, two_level.p_value(apart, stderr, of.df)))
    (of, low, below, _, _), (_, high, above, stderr, _) = found = sorted(found, key=lambda one: one[1])
    p_value = found[0][-1] if low > 0 else found[1][-1] if high < 0 else 1.0
    ends = {"stderr": stderr, "df": of.df, "low": low - below, "high": high + above, "p_value": p_value}
    return {name: None if value != value else float(value) for name, value in ends.items()} | {"varies": of.varies}


class _Side:
    """A method in a pair: its name, and its cells that have a path."""

    def __init__(self, name: str, cells: Cells) -> None:
        self.name = name
        self.arms = comparable(cells)
        self.paths: list[Path] = [arm.path for arm in self.arms if arm.path is not None]
        self.reach = max(path.reach for path in self.paths)
        self.falls = any(path.falls for path in self.paths)
        self._lacking = [arm for arm in cells if arm not in self.arms]

    def top(self, by: float) -> list[Floats]:
        """Return the numbers that vary like ``by`` times the reach."""
        longest = max(self.paths, key=lambda path: path.reach)
        by_gain = np.zeros(len(longest.gains))
        by_gain[int(np.argmax(longest.gains))] = by
        return linearised(longest, np.zeros_like(by_gain), by_gain)

    def _is_gain_clear(self) -> bool:
        """Return whether the largest gain has an interval above 0."""
        arm, path = next((arm, arm.path) for arm in self.arms if arm.path is not None and arm.path.reach == self.reach)
        most = path.gain[int(np.argmax(path.gains)) - 1]
        return two_level.estimate(most, arm.clusters[-len(most) :], binary=False).low > 0

    def extrapolated(self, reach: float) -> float:
        """Return the share of the range up to a gain that is below the smallest volume."""
        first = min(min(float(path.gains[1]), reach) for path in self.paths)
        return max(0.0, (first / reach - LOW) / (1 - LOW))

    def notes(self, reach: float) -> list[str]:
        """Return remarks on seeds and cells left out, the gain, and the shape of a single path."""
        notes = [arm.missing for arm in self.arms if arm.missing]
        if self._lacking:
            notes.append(f"{len(self._lacking)} of {len(self._lacking) + len(self.arms)} cells left out: {self._lacking[0].reason or FEW}")
        if not self._is_gain_clear():
            notes.append(f"its largest gain, {self.reach:.3g}, is not clearly above 0")
        if len(self.arms) == 1:
            notes += [f"gain falls from volume {a} to {b}" for a, b in self.paths[0].falls]
            if (below := self.extrapolated(reach)) > 0:
                notes.append(f"{below:.0%} of the range is below its smallest volume, on a straight line from (0, 0)")
        return [f"{self.name}: {note}" for note in notes]
