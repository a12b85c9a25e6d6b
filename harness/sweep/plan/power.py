"""The smallest losses that a sweep would find, by its items and seeds and by earlier results."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.statistics import design, task_sums
from harness.analysis.statistics.design import Variation
from harness.analysis.statistics.task_sums import TaskSums
from harness.analysis.statistics.two_level import MIN_SEEDS
from harness.analysis.table.measure import TaskChange
from harness.analysis.table.packing import ChangeKey
from harness.analysis.table.runs import RunReader
from harness.config.identity import training_id
from harness.core.errors import HarnessError
from harness.records.schema import OWN_METRICS
from harness.records.store import Experiment
from harness.run.preparation import Prepared
from harness.sweep.status import aligned

CONTINUOUS = frozenset(metric for metrics in OWN_METRICS.values() for metric in metrics)
"""Metrics whose items are not 0 or 1."""

RUNS = 300
"""Runs of an earlier experiment that are read."""

SEEDS, TIMES = (3, 5, 8), (1, 2, 4)
"""Designs that are compared: seeds of a cell, and multiples of the items."""

Changes = dict[ChangeKey, TaskChange]
"""Item changes by volume, suite and task."""

Sums = Sequence[Sequence[TaskSums]]
"""Sums of a cell's tasks, by volume."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A design and the smallest loss that it finds.

    Attributes:
        items: number of items of the suite.
        seeds: number of seeds of a cell.
        loss: in the metric's unit; None for fewer than two items.
    """

    items: int
    seeds: int
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Power:
    """The smallest loss on a probe suite that a sweep would find.

    Attributes:
        suite: the suite.
        is_headline: whether it is the declared headline; without one, every suite is.
        metric: its primary metric.
        planned: the sweep's own design; None where nothing is known of the metric.
        basis: where the assumed variation comes from, in words.
        variation: what is assumed.
        others: other numbers of items and seeds.
    """

    suite: str
    is_headline: bool
    metric: str
    planned: Design | None
    basis: str
    variation: Variation | None = None
    others: tuple[Design, ...] = ()


def power(ready: Sequence[Prepared], experiments: Iterable[Experiment]) -> tuple[Power, ...]:
    """Return the smallest losses on the probe suites of a sweep, the headline first.

    Args:
        ready: its runs.
        experiments: earlier results, the preferred ones first.
    """
    cells: dict[str, list[Prepared]] = defaultdict(list)
    for one in ready:
        cells[_cell(one.identity)].append(one)
    earlier = [_Earlier(experiment, ready[0].config.declared.control) for experiment in experiments] if ready else []
    found = []
    for name in dict.fromkeys(name for one in ready for name in one.config.probe_suites):
        own = [of for of in cells.values() if name in of[0].config.probe_suites]
        if own[0][0].workspace.suite(name).kind != "divergence":
            found.append(_of_suite(name, own, earlier))
    return tuple(sorted(found, key=lambda one: not one.is_headline))


def _of_suite(name: str, cells: Sequence[Sequence[Prepared]], earlier: Sequence[_Earlier]) -> Power:
    first = cells[0][0]
    suite, built = first.workspace.suite(name), first.workspace.suite_of(name, first.config)
    items = {task: len(chosen) for task, chosen in built.items.items() if not built.apart(task)}
    continuous, is_headline = suite.metric in CONTINUOUS, (first.config.declared.headline or name) == name
    known = (one.variation(name, list(items), continuous=continuous) for one in earlier)
    assumed, basis = next((one for one in known if one[0] is not None), (None, ""))
    if assumed is None and not continuous:
        assumed = design.guess()
        basis = f"a guess, since not measured yet: {assumed.changed:.0%} of items change, {_seed_words(assumed)}"
    if assumed is None:
        basis = "unknown: its items are not 0 or 1, and no earlier result has measured them"
        return Power(suite=name, is_headline=is_headline, metric=suite.metric, planned=None, basis=basis)
    counts = [len({one.config.seed for one in of}) for of in cells]
    seeds = statistics.median_low(counts)
    volumes = max(len({volume for one in of for volume in one.volumes}) for of in cells)

    def of(times: int, count: int) -> Design:
        alike = sum(own >= seeds for own in counts)
        losses = [
            design.smallest_loss([n * more for n in items.values()], count, assumed, cells=alike, volumes=volumes)
            for more in TIMES
            if more <= times  # the degrees of freedom of more items are fewer, by approximation: below 1% of a loss
        ]
        return Design(items=times * sum(items.values()), seeds=count, loss=None if math.isnan(losses[0]) else min(losses))

    return Power(
        suite=name,
        is_headline=is_headline,
        metric=suite.metric,
        planned=of(1, seeds),
        basis=basis,
        variation=assumed,
        others=tuple(of(times, count) for times in TIMES for count in SEEDS),
    )


def _cell(identity: Mapping[str, Any]) -> str:
    """Return what runs have in common that differ only in seed, or in volume."""
    return json.dumps({name: value for name, value in identity.items() if name not in {"seed", "volumes"}}, sort_keys=True, default=str)


def _seed_words(assumed: Variation) -> str:
    spread = math.sqrt(assumed.between)
    return f"seeds differ by {100 * spread:.1f} points" if assumed.binary else f"seeds differ by {spread:.2g}"


class _Earlier:
    """Finished runs of an experiment, by cell, without its controls; read on first use."""

    def __init__(self, experiment: Experiment, control: Mapping[str, str]) -> None:
        self._experiment, self._control = experiment, control
        self._reader = RunReader(experiment)
        self._cells: dict[str, dict[int, Changes]] | None = None

    def variation(self, suite: str, tasks: Sequence[str], *, continuous: bool) -> tuple[Variation | None, str]:
        """Return the variation of a suite's items, and its source in words.

        None where no cell has measured these tasks.
        """
        try:
            cells = self._by_cell()
        except HarnessError:  # damaged results: `harness report` names them
            return None, ""
        found = [sums for seeds in cells.values() if (sums := _sums(list(seeds.values()), suite, tasks, continuous=continuous))]
        most = max((_seeds(sums) for sums in found), default=0)
        found = [sums for sums in found if _seeds(sums) >= min(most, MIN_SEEDS)]
        if not found:
            return None, ""
        least, seeds = min(map(_seeds, found)), f"{most} seed{'s' * (most > 1)}"
        assumed, items = design.variation(found), sum(one.n for one in found[0][-1])
        changed = f"{assumed.changed:.0%} of {items:,} items changed" if assumed.binary else f"{items:,} items"
        guessed = "a guess: " if assumed.freedom is None else ""
        where = f"{len(found)} cell{'s' * (len(found) > 1)} of {f'{least} to ' * (least < most)}{seeds} in {self._experiment.name}"
        return assumed, f"as in {where}: {changed}, {guessed}{_seed_words(assumed)}"

    def _by_cell(self) -> dict[str, dict[int, Changes]]:
        """Return cell → seed → item changes, of the first RUNS runs with a valid summary."""
        if self._cells is None:
            self._cells = defaultdict(lambda: defaultdict(dict))
            for run_id in [one for one in self._experiment.run_ids() if training_id(one) == one][:RUNS]:
                record = self._experiment.glance("runs", run_id, "record.json")
                labels = record.get("labels", {})
                is_control = bool(self._control) and all(str(labels.get(name)) == value for name, value in self._control.items())
                if record and not is_control and self._reader.kept(run_id) is not None:
                    self._cells[_cell(record["identity"])][int(record["seed"])].update(self._reader.changes(run_id))
        return self._cells


def _seeds(sums: Sums) -> int:
    return len(sums[-1][0].seeds[0])


def _sums(of_seeds: Sequence[Changes], suite: str, tasks: Sequence[str], *, continuous: bool) -> Sums:
    """Return the sums of a cell's tasks at the volumes that all its seeds have."""
    found = []
    for volume in sorted({volume for volume, of, _ in of_seeds[0] if of == suite}):
        measured = {task for at, of, task in of_seeds[0] if (at, of) == (volume, suite)}
        changes = [[of[volume, suite, task] for of in of_seeds if (volume, suite, task) in of] for task in tasks]
        if measured != set(tasks) or any(len(of) < len(of_seeds) or len({one.items for one in of}) > 1 for of in changes):
            continue
        binary = False if continuous else None
        stacks = [(np.stack([one.values for one in of]).astype(np.float64), of[0].clusters) for of in changes]
        found.append([task_sums.task(values, None, clusters, binary) for values, clusters in stacks])
    return found


def lines(found: Sequence[Power]) -> list[str]:
    """Return the smallest losses as text: every suite, then items and seeds of the first one."""
    if not found:
        return []
    rows = [(f"{one.suite}{' (headline)' * (one.is_headline and len(found) > 1)}", *_cells(one), one.basis) for one in found]
    text = ["", "smallest loss found with a probability of 80%, of one cell, as a mean over a suite's tasks", *aligned(rows)]
    first = next((one for one in found if one.others), None)
    if first is None:
        return text
    by_items = {one.items: [other for other in first.others if other.items == one.items] for one in first.others}
    head = (f"{first.suite}, {_unit(first)}", *(f"{count} seeds" for count in SEEDS))
    table = [head, *((f"{items:,} items", *(_amount(first, one.loss) for one in of)) for items, of in by_items.items())]
    note = "  More items: as many times those of every task, where it has them."
    few = "  Fewer than 3 seeds: a loss of these runs (over items alone), not of the method."
    return [*text, "", *aligned(table), note, *([few] if any(one.planned and one.planned.seeds < MIN_SEEDS for one in found) else [])]


def _cells(one: Power) -> tuple[str, str]:
    if one.planned is None:
        return "?", ""
    whose = "" if one.planned.seeds >= MIN_SEEDS else f" (th{'ese runs' if one.planned.seeds > 1 else 'is run'})"
    seeds = f"{one.planned.seeds} seed{'s' * (one.planned.seeds > 1)}{whose}"
    return f"{_amount(one, one.planned.loss)} {_unit(one)}", f"{one.planned.items:,} items, {seeds}"


def _unit(one: Power) -> str:
    return one.metric if one.variation is None or not one.variation.binary else "points"


def _amount(one: Power, loss: float | None) -> str:
    if loss is None:
        return "?"
    if _unit(one) != "points":
        return f"{loss:.3g}"
    return "none" if loss > 1 else f"{100 * loss:.1f}"
