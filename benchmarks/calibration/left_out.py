"""A seed of a finished sweep, predicted from the others of its cell.

python -m benchmarks.calibration.left_out results/tiny
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from harness.analysis.findings.findings import findings
from harness.analysis.statistics import two_level
from harness.analysis.statistics.pooled import SeedMeans, Spread, pooled
from harness.analysis.table.changes import Changes
from harness.analysis.table.columns import SUITE_TASK
from harness.analysis.table.frame import table
from harness.records.store import Experiment


def left_out(experiment: Experiment) -> list[str]:
    """Return how well a seed is predicted by its cell's others, a line per suite.

    The interval of the left-out seed's mean on the same items is that of the others' mean ±
    t √(s² (1 + 1/(k − 1))), s² from the others alone, or pooled over the cells without that seed.
    """
    frame = findings(table(experiment), Changes(experiment), experiment.declared())
    frame = frame[(frame["task"] == SUITE_TASK) & (frame["seeds"] >= two_level.MIN_SEEDS)]
    lines = []
    for suite, of_suite in frame.groupby("suite", sort=False):
        hits, halves = [np.zeros(0)] * 2, [np.zeros(0)] * 2
        cells, items = _seed_means(of_suite, Changes(experiment), table(experiment))
        for seed in range(min(cell.means.shape[1] for cell in cells)):
            others = [SeedMeans(*(np.delete(values, seed, axis=1) for values in cell)) for cell in cells]
            others = [SeedMeans(cell.means, cell.changed.mean(axis=1)) for cell in others]
            for way, spreads in enumerate((_alone(others), pooled(others, items))):
                for cell, rest, of in zip(cells, others, spreads, strict=True):
                    count = rest.means.shape[1]
                    half = np.array([special.stdtrit(one.freedom, 0.975) * np.sqrt(one.variance * (1 + 1 / count)) for one in of])
                    hits[way] = np.append(hits[way], np.abs(cell.means[:, seed] - rest.means.mean(axis=1)) <= half)
                    halves[way] = np.append(halves[way], half)
        ways = [f"{hit.mean():.0%} at ± {np.mean(half):.3f}" for hit, half in zip(hits, halves, strict=True)]
        lines.append(f"{suite}: {ways[0]} with the others' spread, {ways[1]} with the pooled one ({len(hits[0])} predictions)")
    return lines


def _alone(cells: Sequence[SeedMeans]) -> list[tuple[Spread, ...]]:
    return [tuple(Spread(float(row.var(ddof=1)), len(row) - 1.0, pooled=False) for row in cell.means) for cell in cells]


def _seed_means(rows: pd.DataFrame, changes: Changes, tidy: pd.DataFrame) -> tuple[list[SeedMeans], float]:
    """Return the seed means of a suite's cells that have all seeds everywhere, and its items.

    ``changed`` has the share of each seed, shape (V, k).
    """
    suite = str(rows["suite"].iloc[0])
    tasks = [str(name) for name in tidy.loc[tidy["suite"] == suite, "task"].dropna().unique() if name != SUITE_TASK]
    cells, items = [], 0.0
    for _, of_cell in rows.groupby("cell", sort=False):
        runs = [str(names).split(",") for names in of_cell["run_ids"]]
        known = [
            [[changes.get(run, int(volume), suite, task) for task in tasks] for run in of]
            for of, volume in zip(runs, of_cell["volume"], strict=True)
        ]
        values = [[[one.values for one in seed if one is not None] for seed in seeds] for seeds in known]
        if len({len(seeds) for seeds in values}) == 1:
            means = np.array([[np.mean([one.mean() for one in seed]) for seed in seeds] for seeds in values])
            changed = np.array([[np.mean([(one**2).mean() for one in seed]) for seed in seeds] for seeds in values])
            cells.append(SeedMeans(means, changed))
            items = float(sum(map(len, values[0][0])))
    middle = float(np.mean(np.concatenate([cell.changed.ravel() for cell in cells])))
    is_share = all(set(np.unique(np.abs(one))) <= {0.0, 1.0} for one in values[0][0])
    return (cells if is_share else [SeedMeans(cell.means, cell.changed / middle) for cell in cells]), items


if __name__ == "__main__":
    sys.stdout.write("\n".join(left_out(Experiment(Path(sys.argv[1])))) + "\n")
