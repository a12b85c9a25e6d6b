"""Fabricated searches of learning rates: a target, and a same-data control at every rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records.writer import ExperimentWriter
from tests.support.experiments import Task, config_of, share, write_run

N = 400
"""Items of the target and of the probe."""

Tried = Mapping[float, Sequence[Sequence[float]]]
"""Rate → the values of the target's items, for each seed."""


def search(
    folder: Path,
    tried: Tried,
    *,
    lost: Mapping[float, int | Sequence[int] | None] | None = None,
    higher: bool = True,
    items: str = "select",
    **labels: Any,
) -> ExperimentWriter:
    """Write a search; at each rate its control loses that many of the N items of the probe.

    Args:
        folder: of the experiment.
        tried: what each rate scores; before training, the target's items are all 0.
        lost: rate → items lost by its control, or by each of its seeds; None: not measured on the
            probe. No controls without it.
        higher: whether higher values of the target are better.
        items: the items that the runs were scored on.
        labels: further labels of the runs.
    """
    experiment = ExperimentWriter(folder)
    roles, kept = {"new": "target", "old": "probe"}, Task(suite="old", task="o", values=share(N, N))
    before = [Task(suite="new", task="n", values=share(0, N), higher_is_better=higher, chance=None), kept]

    def write(name: str, rate: float, seed: int, tasks: Sequence[Task], **more: Any) -> None:
        named = {**labels, **more}
        write_run(experiment, name, before=before, points={64: tasks}, roles=roles, labels=named, seed=seed, learning_rate=rate)
        config = {**config_of(named, roles, seed), "evaluation": {"items": items}}
        experiment.write_config(name, config, {})

    for rate, seeds in tried.items():
        for seed, values in enumerate(seeds):
            write(f"r{rate}s{seed}", rate, seed, [Task(suite="new", task="n", values=values, higher_is_better=higher, chance=None), kept])
            if lost is not None:
                of = lost[rate]
                count = of if of is None or isinstance(of, int) else of[seed]
                after = [] if count is None else [Task(suite="old", task="o", values=share(N - count, N))]
                write(f"c{rate}s{seed}", rate, seed, [before[0], *after], data="base", objective="clm")
    if lost is not None:
        declared = {"declared": {"control": {"data": "base"}}}
        experiment.write_manifest(dict.fromkeys(experiment.run_ids(), declared), keep=False)
    return experiment
