"""Power of the losses that `harness plan` prints, on planted sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.calibration.planted import Floats, World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.statistics import task_sums, two_level
from harness.analysis.statistics.design import smallest_loss, variation
from harness.analysis.statistics.pooled import SeedMeans, pooled
from harness.analysis.statistics.task_sums import TaskSums
from harness.analysis.statistics.two_level import MIN_SEEDS
from harness.core.seeds import stream

CELLS = 6
LOSS = 0.05
"""Loss of the earlier sweeps."""

DESIGNS = {
    "800 items, as many as in the earlier sweep": ([400, 400], [400, 400], World()),
    "800 items, a quarter of them in the earlier sweep": ([400, 400], [100, 100], World()),
    "200 items; seeds vary more than items": ([200], [200], World(seeds=0.2)),
    "800 items; seeds do not vary": ([400, 400], [400, 400], World(seeds=0.0)),
}
"""Items of the tasks planned, those of the earlier sweep, and its world."""


def power(count: int, seeds: Sequence[int] = (1, 3, 5), kinds: Sequence[str] = tuple(DESIGNS)) -> list[Seen]:
    """Return the share of cells in which a planted loss of the planned size is found.

    Sweeps have CELLS cells of one volume, and the variance between seeds is pooled over them. The
    size is that of an earlier sweep, another one each time, of three seeds, or of one where one is
    planned.
    """
    seen = []
    for name in kinds:
        items, earlier, world = DESIGNS[name]
        for k in seeds:
            of = replace(world, seeds=0.0) if k == 1 else world
            losses, found = [], list[list[bool]]()
            for number in range(-(-count // CELLS)):
                pilot = _sweep(f"pilot {name}", number, of, earlier, LOSS, 1 if k == 1 else 3)
                losses.append(smallest_loss(items, k, variation([[tasks] for tasks in pilot]), cells=CELLS))
                found.append(_found(_sweep(name, number, of, items, losses[-1], k)))
            where = f"losses as planned, median {np.median(losses):.3f}; {name}; {k} seed{'s' * (k > 1)}"
            error = float(np.std(np.mean(found, axis=1)) / np.sqrt(len(found)))
            remark = f"± {100 * error:.1f} by sweeps, whose {CELLS} cells share a loss"
            share, cells = float(np.mean(found)), CELLS * len(found)
            seen.append(Seen(what="planned loss found", planted=where, share=share, count=cells, least=0.8, remark=remark))
    return seen


def _sweep(name: str, number: int, world: World, items: Sequence[int], loss: float, seeds: int) -> list[list[TaskSums]]:
    """Return the sums of the tasks of each cell."""
    found = []
    for cell in range(CELLS):
        draw = stream(number, "calibration", "design", name, str(seeds), str(cell))
        before, after = answers(draw, world, items, [-loss], count=seeds)
        found.append([task_sums.task(_moved(old, new), binary=True) for old, new in zip(before, after[0], strict=True)])
    return found


def _moved(before: Floats, after: Floats) -> Floats:
    moved: Floats = after - before
    return moved


def _found(sweep: Sequence[Sequence[TaskSums]]) -> list[bool]:
    """Return whether each cell's interval is below 0, its seeds pooled as in findings."""
    spreads: list[list[two_level.Spread]] = [[] for _ in sweep]
    if len(sweep[0][0].seeds[0]) >= MIN_SEEDS:
        means = [np.mean([one.seeds[0] for one in tasks], axis=0)[None] for tasks in sweep]
        changed = [np.array([np.mean([one.changed / one.n for one in tasks])]) for tasks in sweep]
        of_cells = pooled([SeedMeans(*cell) for cell in zip(means, changed, strict=True)], sum(one.n for one in sweep[0]))
        spreads = [[of[0]] for of in of_cells]
    return [two_level.combined(tasks, spreads=of).high < 0 for tasks, of in zip(sweep, spreads, strict=True)]
