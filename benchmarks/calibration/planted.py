"""Planted experiments: items with a known true change, in the form of a real experiment.

An item has a difficulty d ~ N(0, 1) and is right before where d < Φ⁻¹(p). After training with seed
s it is right where

    ρ d + √(1 − ρ²) (√ω e_i + √(1 − ω) e_si) < √(1 + τ²) Φ⁻¹(p + change) + τ A_s,     e, A ~ N(0,
    1),

so that over items and seeds the share of right items changes by exactly ``change``, for any values
of ρ (correlation of an item's answers before and after), ω (share of the moves that is common to
all seeds) and τ (size of a seed's move of all items of all tasks). With clusters, half of the
variance of difficulties and moves is the cluster's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from harness.analysis.table.columns import COLUMNS, SUITE_TASK
from harness.analysis.table.forgetting import Items, Pair, change
from harness.analysis.table.measure import TaskChange

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class World:
    """Variation of items and seeds.

    Attributes:
        right: p, the share of items that are right before.
        kept: ρ.
        alike: ω.
        seeds: τ, in standard deviations of difficulty.
        cluster: number of items in a cluster; 1: items are independent.
    """

    right: float = 0.6
    kept: float = 0.9
    alike: float = 0.5
    seeds: float = 0.1
    cluster: int = 1


def answers(
    draw: np.random.Generator,
    world: World,
    sizes: Sequence[int],
    changes: Sequence[float],
    *,
    count: int,
    seeds: Floats | None = None,
    asked: np.random.Generator | None = None,
) -> tuple[list[Floats], list[list[Floats]]]:
    """Draw the items of some tasks before, and after at several volumes.

    Args:
        draw: random numbers.
        world: variation of items and seeds.
        sizes: number of items of each task.
        changes: true change at each volume; items and seeds keep their moves over volumes.
        count: number of seeds.
        seeds: A_s, shape (count,); None: drawn.
        asked: separate random numbers for the difficulties, so that several methods have the same
            items.

    Returns:
        Before: for each task 0/1, shape (n,). After: for each volume and task 0/1, shape
        (count, n).
    """
    shift = world.seeds * (draw.normal(size=count) if seeds is None else seeds)
    bars = [np.sqrt(1 + world.seeds**2) * special.ndtri(world.right + change) + shift for change in changes]
    before, after = [], [list[Floats]() for _ in changes]
    for n in sizes:
        difficulty = _items(asked or draw, (n,), world)
        moves = np.sqrt(world.alike) * _items(draw, (n,), world) + np.sqrt(1 - world.alike) * _items(draw, (count, n), world)
        latent = world.kept * difficulty + np.sqrt(1 - world.kept**2) * moves
        before.append((difficulty < special.ndtri(world.right)).astype(np.float64))
        for found, bar in zip(after, bars, strict=True):
            found.append((latent < bar[:, None]).astype(np.float64))
    return before, after


def _items(draw: np.random.Generator, shape: tuple[int, ...], world: World) -> Floats:
    own = draw.normal(size=shape)
    if world.cluster == 1:
        return own
    shared = draw.normal(size=(*shape[:-1], -(-shape[-1] // world.cluster)))
    together: Floats = np.sqrt(0.5) * (own + np.repeat(shared, world.cluster, axis=-1)[..., : shape[-1]])
    return together


@dataclass
class Planted:
    """An experiment of planted cells, with tidy table and item changes like ``Changes``.

    Attributes:
        cluster: number of items in a cluster.
        tested: whether rows of cells with one seed have an interval and a p-value, which findings
            take from the table.
        rows: rows of the table.
        known: item changes by run, volume, suite and task.
    """

    cluster: int = 1
    tested: bool = True
    rows: list[dict[str, Any]] = field(default_factory=list)
    known: dict[tuple[str, int, str, str], TaskChange] = field(default_factory=dict)

    def add(
        self,
        model: str,
        tuning: str,
        volume: int,
        suite: str,
        role: str,
        before: Sequence[Floats],
        after: Sequence[Floats],
        items: str = "",
        **labels: Any,
    ) -> None:
        """Add one suite of a cell at a volume, with tasks t0, t1, ….

        Tasks have shape (n,) before and (seeds, n) after. Cells of other ``items`` share none.
        """
        seeds = len(after[0])
        for seed in range(seeds):
            run_id = "-".join(map(str, [model, tuning, *labels.values(), seed]))
            same = (
                _LABELS
                | labels
                | {
                    "run_id": run_id,
                    "model": model,
                    "tuning": tuning,
                    "volume": volume,
                    "seed": seed,
                    "suite": suite,
                    "role": role,
                }
            )
            pairs = [Pair(self._items(old), self._items(new[seed])) for old, new in zip(before, after, strict=True)]
            self.rows.append(same | {"task": SUITE_TASK} | _numbers(pairs, alone=seeds == 1 and self.tested))
            for number, pair in enumerate(pairs):
                self.rows.append(same | {"task": f"t{number}"} | _numbers([pair], alone=seeds == 1 and self.tested))
                change = TaskChange(f"{len(pair.after.values)} items {items}", pair.differences.values, pair.after.clusters)
                self.known[run_id, volume, suite, f"t{number}"] = change

    def _items(self, values: Floats) -> Items:
        names, clusters = np.arange(len(values)).astype(str).astype(object), np.arange(len(values)) // self.cluster
        return Items("planted", names, names, values, np.ones(len(values)), names, clusters=None if self.cluster == 1 else clusters)

    def get(self, run_id: str, volume: int, suite: str, task: str) -> TaskChange | None:
        """Return the changes of a task's items, like ``Changes.get``."""
        return self.known.get((run_id, volume, suite, task))

    def table(self) -> pd.DataFrame:
        """Return the tidy table."""
        return pd.DataFrame({name: [row.get(name) for row in self.rows] for name in COLUMNS}, dtype=object).astype(COLUMNS)


_LABELS: dict[str, Any] = {
    "experiment": "planted",
    "params_total": 1,
    "objective": "sft",
    "mitigation": "none",
    "data": "planted",
    "trajectory": "shared",
    "metric": "acc",
    "filter": "none",
    "primary": True,
    "higher_is_better": True,
    "status": "ok",
}


def _numbers(pairs: Sequence[Pair], *, alone: bool) -> dict[str, Any]:
    """Return the columns of a row that follow from its items.

    With several seeds they have no interval, since findings do not read it.
    """
    if alone:
        found = change(pairs)
        low, high = found.interval
        return {
            "n": found.n,
            "before": found.before,
            "delta": found.delta,
            "lost": found.lost,
            "gained": found.gained,
            "p_value": found.p_value,
            "p_mid": found.p_mid,
            "value": found.after,
            "delta_low": low,
            "delta_high": high,
        }
    moved = [pair.differences.values for pair in pairs]
    before = float(np.mean([pair.before.values.mean() for pair in pairs]))
    delta = float(np.mean([values.mean() for values in moved]))
    lost, gained = (sum(int(np.sum(sign * values > 0)) for values in moved) for sign in (-1, 1))
    return {"n": sum(map(len, moved)), "before": before, "delta": delta, "value": before + delta, "lost": lost, "gained": gained}
