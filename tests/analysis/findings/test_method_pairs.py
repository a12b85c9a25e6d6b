"""The pairs of methods that are compared at equal gain: each once, under a name of its own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from harness.analysis.findings.method_pairs import names_of, pairs_of
from harness.analysis.findings.reading import METHOD, Arm


def cell(mitigation: str, trajectory: str, rate: float, epochs: int = 1) -> Arm:
    """Return a cell of full tuning without a path, named by its labels."""
    labels: dict[str, Any] = dict.fromkeys(METHOD) | {"tuning": "full", "objective": "sft", "mitigation": mitigation, "epochs": epochs}
    labels |= {"trajectory": trajectory, "learning_rate": rate, "lr_tuned": rate == 0.001}
    return Arm(f"{mitigation}-{trajectory}-{rate}-{epochs}", labels, seeds=(0, 1, 2))


def compared(arms: list[Arm], *, rates: bool) -> list[tuple[frozenset[str], tuple[str, ...]]]:
    """Return the cells and the names of each pair."""
    shown = pd.DataFrame([arm.labels for arm in arms], index=[arm.cell for arm in arms])[METHOD].astype(object)
    return [
        (frozenset(",".join(arm.cell for arm in side) for side in (first, second)), tuple(names_of(first, second, arms, shown)))
        for first, second in pairs_of(arms, rates=rates)
    ]


def test_each_pair_is_compared_once_in_either_order() -> None:
    """None and replay on both trajectories, at two rates, with one and three passes."""
    arms = [cell(*of) for of in product(("none", "replay"), ("shared", "independent"), (0.0003, 0.001), (1, 3))]
    for rates in (False, True):
        pairs = [cells for cells, _ in compared(arms, rates=rates)]
        assert len(pairs) == len(set(pairs)) > len(arms) / 2


def test_the_same_mitigation_on_two_trajectories_is_named_by_its_own() -> None:
    """No mitigation counts on both trajectories, so that its side is the same in two pairs."""
    arms = [cell(mitigation, trajectory, 0.001) for mitigation in ("none", "replay") for trajectory in ("shared", "independent")]
    plain = "mitigation=none, best of 2 trajectories"
    names = [name for _, name in compared(arms, rates=False)]
    assert names == [(plain, "mitigation=replay, shared trajectory"), (plain, "mitigation=replay, independent trajectory")]
    assert [name for _, name in compared([arms[0], arms[2]], rates=False)] == [("mitigation=none", "mitigation=replay")]
