"""Forgetting at equal gain: a comparison of methods that have learned equally much.

It is the fair comparison of methods that learn at different speeds, such as LoRA and full tuning.
Every method has a path over its volumes (``harness.analysis.findings.paths``). Two methods are
compared at gains inside the range that both reach, from 0 to the smaller of their largest gains,
never beyond. The interval takes gain and forgetting together, since a seed that learns more often
forgets more. Items are paired, and so are seeds that both methods were run with. With fewer than
three such seeds the interval is over items alone, as its column ``varies`` states. The compared
gain counts as known.

Source: Biderman et al. 2024, arXiv 2405.09673, section 4.3; Shenfeld et al. 2025, arXiv 2509.04259
(comparison at matched accuracy). The linearised interval is this project's; benchmarks/METHOD.md
has its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from harness.analysis.findings.arms import named_by_arm
from harness.analysis.findings.estimates import ItemChanges
from harness.analysis.findings.findings import findings as findings_of
from harness.analysis.findings.frontier import first_target, headline
from harness.analysis.findings.pairing import Stacked, Tasks, difference, stacked, together
from harness.analysis.findings.paths import Path, crossing, linearised
from harness.analysis.statistics import two_level
from harness.analysis.statistics.clustered import Ints
from harness.analysis.statistics.stats import LEVEL
from harness.analysis.table.columns import SUITE_TASK, specified
from harness.records.schema import Declared

SHARES = (0.25, 0.5, 0.75)
"""The compared gains, as shares of the range that both methods reach."""

METHOD = ["tuning", "objective", "mitigation", "anchor", "epochs", "variant"]
"""Labels that define a method. Cells that differ in none of them, such as those that differ only in
learning rate, are not compared."""

SAME = ["model", "params_total", "data", "trajectory", "dtype"]
"""Labels that are equal within a pair."""

ALL_PAIRS = 6
"""Largest number of methods for which all pairs are compared: 15 pairs. With 26 methods there would
be 325, and one in twenty could be false."""

PLAIN = "none"
"""The label of no mitigation. With many methods, the others are compared with the plain ones."""

WITHOUT_MITIGATION = ["tuning", "objective", "epochs", "variant"]
"""Labels that a method shares with the plain one that it is compared with. The anchor belongs to
the mitigation."""

_SPECIFICATION = """
model             string   start model
params_total      Int64    number of parameters of the model
data              string   target data of both methods
trajectory        string   trajectory of both methods: shared or independent
dtype             string   floating-point type of the forward pass in training, of both methods
first             string   first method, named by the labels in which the two differ
second            string   second method, named by the labels in which the two differ
first_cell        string   id of the first method's cell in the findings
second_cell       string   id of the second method's cell in the findings
target_suite      string   suite whose change is the gain
headline_suite    string   suite whose change is the forgetting
first_reach       Float64  largest gain on the first method's path, in the target metric's unit
second_reach      Float64  largest gain on the second method's path, in the target metric's unit
range_high        Float64  upper end of the range of gains that both methods reach, which starts at 0; empty without such a range
share             Float64  position of the compared gain in that range, in 0..1
gain              Float64  compared gain: share times range_high, in the target metric's unit
first_forgetting  Float64  forgetting of the first method where its path first reaches the gain; positive is worse
second_forgetting Float64  forgetting of the second method where its path first reaches the gain; positive is worse
difference        Float64  first_forgetting minus second_forgetting; positive: the first method forgets more
stderr            Float64  standard error of difference
df                Float64  degrees of freedom of the t interval of difference
low               Float64  lower end of the interval of difference
high              Float64  upper end of the interval of difference
level             Float64  confidence level of the interval, in 0..1
varies            string   samples that the interval is over: items, or seeds and items
seeds             Int64    number of paired seeds; where seeds are not paired, the number of the method with fewer
first_between     string   volumes between which the first method reaches the gain; 0 is before training
second_between    string   volumes between which the second method reaches the gain; 0 is before training
non_monotone      boolean  whether the gain of either method falls from one volume to a larger one
no_common_range   boolean  whether the two methods reach no common gain, so that there is no difference
margin            Float64  margin of the headline suite (declared, or 0.02), in its metric's unit: a difference within ±margin is negligible
verdict           string   alike, first forgets more, second forgets more, or not enough evidence; not adjusted for several pairs
note              string   reason why there is no difference, or remarks on it
"""
COLUMNS, DESCRIPTIONS = specified(_SPECIFICATION)
"""Column → dtype, in order, and column → description with unit and sign."""

Row = dict[str, Any]


def equal_gain(
    table: pd.DataFrame, changes: ItemChanges, declared: Declared, level: float = LEVEL, *, findings: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Compare the forgetting of pairs of methods at equal gain.

    Args:
        table: the tidy table.
        changes: item changes of the same experiment.
        declared: declarations with the headline suite, whose change is the forgetting, and its
            margin.
        level: confidence level of the intervals.
        findings: findings of the same table, if they exist already.

    Returns:
        Columns as in COLUMNS: for each model and pair of methods one row for each of SHARES, or one
        row without numbers, with the reason in its note. Empty where no headline is declared or
        there is no target suite. Up to ALL_PAIRS methods, all pairs are compared. Beyond, each
        method is compared with the plain one that differs only in mitigation, and the plain ones
        with each other. Methods that did not act are left out.
    """
    found = findings_of(table, changes, declared) if findings is None else findings
    target, probe = first_target(found), headline(found)
    rows: list[Row] = []
    if target is not None and probe is not None:
        margin = float(declared.margins.get(probe, declared.margin))
        place = {str(cell): number for number, cell in enumerate(found["cell"].drop_duplicates())}
        shown = named_by_arm(found).drop_duplicates("cell").set_index("cell")[METHOD].astype(object)
        shown = shown.where(shown.notna(), None)
        for arms in _Reader(table, changes, target, probe).alike(found):
            rows += [row for first, second in _pairs(arms) for row in _compared(first, second, level, margin, shown)]
        rows.sort(key=lambda row: (place[row["first_cell"]], place[row["second_cell"]]))
        rows = [row | {"target_suite": target, "headline_suite": probe} for row in rows]
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in COLUMNS}, dtype=object).astype(COLUMNS)


@dataclass(frozen=True)
class Arm:
    """A cell as one side of a comparison.

    Attributes:
        cell: id of the cell.
        labels: its SAME and METHOD labels and its learning rate.
        seeds: seeds that have every volume, in the order of the path's arrays.
        path: its path; None where there is none.
        items, clusters: those of each task, the headline's first.
        missing: note on seeds that were left out.
        reason: reason why there is no path, else empty.
    """

    cell: str
    labels: Mapping[str, Any]
    seeds: tuple[int, ...] = ()
    path: Path | None = None
    items: tuple[str, ...] = ()
    clusters: tuple[Ints | None, ...] = ()
    missing: str = ""
    reason: str = ""


class _Reader:
    """Reader of the paths of cells, from the changes of their runs."""

    def __init__(self, table: pd.DataFrame, changes: ItemChanges, target: str, probe: str) -> None:
        runs = table.drop_duplicates("run_id").set_index("run_id")
        self.seed_of = {str(run_id): int(seed) for run_id, seed in runs["seed"].dropna().items()}
        self.changes, self.target, self.probe = changes, target, probe

    def alike(self, found: pd.DataFrame) -> Iterator[list[Arm]]:
        """Yield groups of cells that differ only in method, in the order of the findings.

        Only the items of one group are in memory at a time. Controls, cells that did not act, and
        groups of one cell are left out.
        """
        ranked = ~found["is_control"].fillna(False) & found["acted"].fillna(value=True)
        wanted = found[found["suite"].isin([self.target, self.probe]) & ranked]
        wanted = wanted[[*SAME, *METHOD, "learning_rate", "cell", "volume", "suite", "task", "run_ids", "higher_is_better"]]
        for _, group in wanted.groupby(SAME, dropna=False, sort=False):
            if group["cell"].nunique() > 1:
                yield [self._arm(str(cell), rows) for cell, rows in group.groupby("cell", sort=False)]

    def _arm(self, cell: str, rows: pd.DataFrame) -> Arm:
        first = rows[[*SAME, *METHOD, "learning_rate"]].iloc[0]
        labels: dict[str, Any] = {str(name): None if pd.isna(value) else value for name, value in first.items()}
        leaves = rows[rows["task"] != SUITE_TASK]
        tasks = [(suite, str(task)) for suite in (self.probe, self.target) for task in leaves[leaves["suite"] == suite]["task"].unique()]
        if {suite for suite, _ in tasks} != {self.probe, self.target}:
            return Arm(cell, labels, reason="no change of the target or of the headline suite")
        runs = self._runs(rows)
        volumes = sorted({volume for _, volume in runs})
        everyone = sorted({seed for seed, _ in runs})
        seeds = tuple(seed for seed in everyone if all(self._has(runs.get((seed, volume)), volume, tasks) for volume in volumes))
        if not seeds:
            return Arm(cell, labels, reason="no seed has a change at every volume")
        points = [stacked(self.changes, [runs[seed, volume] for seed in seeds], volume, tasks) for volume in volumes]
        known = [point for point in points if isinstance(point, Stacked)]
        if len(known) < len(points) or any(point.items != known[0].items for point in known):
            return Arm(cell, labels, reason="its points were measured on different items")
        left_out = ", ".join(str(seed) for seed in everyone if seed not in seeds)
        missing = f"seed {left_out} left out, which lacks a volume" if left_out else ""
        return Arm(cell, labels, seeds, self._path(volumes, known, tasks, rows), known[0].items, known[0].clusters, missing)

    def _runs(self, rows: pd.DataFrame) -> dict[tuple[int, int], str]:
        """Return (seed, volume) → run."""
        named = rows[["volume", "run_ids"]].dropna().drop_duplicates().itertuples(index=False)
        pairs = ((int(volume), run_id) for volume, run_ids in named for run_id in str(run_ids).split(","))
        return {(self.seed_of[run_id], volume): run_id for volume, run_id in pairs if run_id in self.seed_of}

    def _has(self, run_id: str | None, volume: int, tasks: Sequence[tuple[str, str]]) -> bool:
        return run_id is not None and all(self.changes.get(run_id, volume, suite, task) is not None for suite, task in tasks)

    def _path(self, volumes: Sequence[int], points: Sequence[Stacked], tasks: Sequence[tuple[str, str]], rows: pd.DataFrame) -> Path:
        better = {suite: bool(group["higher_is_better"].iloc[0]) for suite, group in rows.groupby("suite")}
        signs = {self.target: 1.0 if better[self.target] else -1.0, self.probe: -1.0 if better[self.probe] else 1.0}

        def of(suite: str) -> list[Tasks]:
            numbers = [number for number, (name, _) in enumerate(tasks) if name == suite]
            return [[signs[suite] * point.values[number] for number in numbers] for point in points]

        return Path(tuple(volumes), of(self.target), of(self.probe))


@dataclass(frozen=True)
class _Side:
    """One side of a pair: its name, its path over the seeds used, and notes."""

    name: str
    path: Path
    notes: tuple[str, ...]

    def between(self, upper: int) -> str:
        """Return the volumes before and after a crossing."""
        ends = [0, *self.path.volumes]
        return f"{ends[upper - 1]}–{ends[upper]}"


def _pairs(arms: Sequence[Arm]) -> Iterator[tuple[Arm, Arm]]:
    """Yield the pairs of cells to compare.

    They are all pairs that differ in method; of more than ALL_PAIRS cells, only pairs with a plain
    one.
    """
    pairs = list(combinations(arms, 2)) if len(arms) <= ALL_PAIRS else _with_plain(arms)
    for first, second in pairs:
        if any(first.labels[name] != second.labels[name] for name in METHOD):
            yield first, second


def _with_plain(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Return pairs of plain arms, and each other arm with its plain one.

    Its plain arm differs only in mitigation. Of several, one with the same learning rate is
    preferred. Without a plain arm, the first arm that differs only in mitigation replaces it.
    """
    plain = [arm for arm in arms if arm.labels["mitigation"] == PLAIN]
    others = [arm for arm in arms if arm.labels["mitigation"] != PLAIN]
    reference: dict[tuple[Any, ...], Arm] = {}
    for arm in plain:
        reference.setdefault((*_but_for_mitigation(arm), arm.labels["learning_rate"]), arm)
    for arm in [*plain, *others]:
        reference.setdefault(_but_for_mitigation(arm), arm)
    pairs = list(combinations(plain, 2))
    for arm in others:
        alike = _but_for_mitigation(arm)
        pairs.append((reference.get((*alike, arm.labels["learning_rate"]), reference[alike]), arm))
    return [(first, second) for first, second in pairs if first is not second]


def _but_for_mitigation(arm: Arm) -> tuple[Any, ...]:
    return tuple(arm.labels[name] for name in WITHOUT_MITIGATION)


def _compared(first: Arm, second: Arm, level: float, margin: float, shown: pd.DataFrame) -> list[Row]:
    """Return the rows of a pair; ``shown``: cell → METHOD labels as its name has them."""
    one_labels, other_labels = (shown.loc[[arm.cell]].iloc[0] for arm in (first, second))
    differ = [name for name in METHOD if one_labels[name] != other_labels[name]]
    names = [_named(labels, differ) for labels in (one_labels, other_labels)]
    row: Row = {name: first.labels[name] for name in SAME} | {"no_common_range": False, "margin": margin, "level": level}
    row |= {"first": names[0], "second": names[1], "first_cell": first.cell, "second_cell": second.cell}
    for arm, name in zip((first, second), names, strict=True):
        if arm.path is None:
            return [row | {"note": f"{name}: {arm.reason}"}]
    if first.items != second.items:
        return [row | {"note": "the two methods were measured on different items"}]
    common = together(first.seeds, second.seeds)
    one, other = _side(first, names[0], common), _side(second, names[1], common)
    row |= {"first_reach": one.path.reach, "second_reach": other.path.reach, "non_monotone": bool(one.path.falls or other.path.falls)}
    reach = min(one.path.reach, other.path.reach)
    if reach <= 0:
        flat = " and ".join(side.name for side in (one, other) if side.path.reach <= 0)
        return [row | {"no_common_range": True, "note": f"{flat}: no gain at any volume, so no level that both reach"}]
    row |= {"range_high": reach, "seeds": len(common) if common else min(len(first.seeds), len(second.seeds))}
    at = [_at(one, other, share * reach, first.clusters, level, margin, paired=common is not None) for share in SHARES]
    return [row | {"share": share} | found for share, found in zip(SHARES, at, strict=True)]


def _named(labels: pd.Series, differ: Sequence[str]) -> str:
    """Return a method's name in a pair, such as ``lora`` or ``lora, mitigation=replay``."""
    return ", ".join(str(labels[name]) if name == "tuning" else f"{name}={labels[name]}" for name in differ)


def _side(arm: Arm, name: str, common: Sequence[int] | None) -> _Side:
    assert arm.path is not None
    path = arm.path if common is None or tuple(common) == arm.seeds else arm.path.only([arm.seeds.index(seed) for seed in common])
    alone = ", ".join(str(seed) for seed in arm.seeds if common is not None and seed not in common)
    notes = [arm.missing, f"seed {alone} left out, which the other lacks" if alone else ""]
    return _Side(name, path, tuple(f"{name}: {note}" for note in notes if note))


def _at(one: _Side, other: _Side, gain: float, clusters: Sequence[Ints | None], level: float, margin: float, *, paired: bool) -> Row:
    """Return the comparison at one level of gain."""
    here, there = crossing(one.path, gain), crossing(other.path, gain)
    found = difference(linearised(one.path, here), linearised(other.path, there), clusters, level, paired=paired, binary=False)
    apart = here.forgetting - there.forgetting
    # Where hardly any item was forgotten, the spread alone gives an interval that is too narrow.
    least = two_level.unchanged(one.path.counted, level) if one.path.counted else 0.0
    below, above = (_widened(end - found.value, least) for end in (found.low, found.high))
    low, high = apart - below, apart + above
    notes = [note for side, at in ((one, here), (other, there)) for note in _notes(side, at.upper)]
    return {
        "gain": gain,
        "first_forgetting": here.forgetting,
        "second_forgetting": there.forgetting,
        "difference": apart,
        "stderr": _or_none((below + above) / 2 / two_level.quantile(0.5 + level / 2, found.df)),
        "df": _or_none(found.df),
        "low": _or_none(low),
        "high": _or_none(high),
        "varies": found.varies,
        "first_between": one.between(here.upper),
        "second_between": other.between(there.upper),
        "verdict": _verdict(low, high, margin),
        "note": "; ".join(notes) or None,
    }


def _widened(distance: float, least: float) -> float:
    """Return the distance of an end of the interval from its middle; NaN if unknown."""
    if math.isnan(distance):
        return least or math.nan
    return math.hypot(distance, least)


def _notes(side: _Side, upper: int) -> list[str]:
    falls = [f"{side.name}: gain falls from volume {a} to {b}" for a, b in side.path.falls]
    below = [f"{side.name}: below its smallest volume, so on a straight line from (0, 0)"] if upper == 1 else []
    return [*side.notes, *falls, *below]


def _verdict(low: float, high: float, margin: float) -> str | None:
    if low != low or high != high:
        return None
    if -margin <= low and high <= margin:
        return "alike"
    if low > 0:
        return "first forgets more"
    return "second forgets more" if high < 0 else "not enough evidence"


def _or_none(value: float) -> float | None:
    return None if value != value else float(value)
