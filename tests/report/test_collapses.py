"""Seeds that collapsed are named; what a few seeds cannot show is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.writer import ExperimentWriter
from harness.report import evidence
from harness.report.evidence import Evidence
from harness.report.sections import collapses, missing
from tests.support.experiments import Task, flipped, share, write_run
from tests.support.grids import ROLES, grid


def lost(folder: Path, counts: list[int]) -> Evidence:
    """Return runs of one method that lose these numbers of 36 right items, of 40 in all."""
    experiment = ExperimentWriter(folder / "e")
    before = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(36, 40))]
    for seed, count in enumerate(counts):
        after = [before[0], Task(suite="old", task="o", values=flipped(share(36, 40), lost=count, gained=0))]
        write_run(experiment, f"r{seed}", before=before, points={8: after}, roles=ROLES, labels={}, seed=seed)
    return evidence.measured(experiment)


def test_a_seed_far_below_the_others_is_named(tmp_path: Path) -> None:
    """Of 0.9, a quarter is 9 of 40 items: 2, 13 and 4 lost is a collapse, 2, 12 and 4 is none.

    The sentence is among the first of the page, and the limits of no collapse are then not stated.
    """
    found = lost(tmp_path / "a", [2, 13, 4])
    chance = found.table["chance"].dropna()
    there = 0.9 - (float(chance.iloc[0]) if len(chance) else 0.0)
    assert 9 / 40 >= 0.25 * there > 0
    (sentence,) = collapses.named(found)
    assert "seed 1 (old −32.5 points, the next seed −10.0)" in sentence
    assert sentence in missing.main_warnings(found)
    assert collapses.unseen(found) == ["Rare collapses: 3 seeds miss a collapse that hits one run in ten 73% of the time."]


@pytest.mark.parametrize("counts", [[2, 4, 3], [13, 13, 4], [30]])
def test_seeds_that_agree_or_are_alone_are_not_named(tmp_path: Path, counts: list[int]) -> None:
    """Where two of three seeds lost much, neither is an exception."""
    assert collapses.named(lost(tmp_path, counts)) == []


def test_where_it_is_unknown_what_there_was_to_lose_no_collapse_is_excluded(tmp_path: Path) -> None:
    """Nats without a level of guessing have no quarter of it, though one seed loses 5 nats more."""
    experiment = ExperimentWriter(tmp_path / "e")
    for seed, more in enumerate([0.1, 5.0, 0.2]):
        old, new = (
            Task(suite="old", task="o", values=[1.0 + add, 2.0 + add] * 20, metric="nats_per_token", higher_is_better=False, chance=None)
            for add in (0.0, more)
        )
        write_run(experiment, f"r{seed}", before=[old], points={8: [new]}, roles={"old": "probe"}, labels={}, seed=seed)
    found = evidence.measured(experiment)
    assert collapses.named(found) == []
    assert collapses.unseen(found) == ["Rare collapses: 3 seeds miss a collapse that hits one run in ten 73% of the time."]


def test_the_limits_are_those_of_no_collapse_in_so_many_runs(tmp_path: Path) -> None:
    """0.9³ = 73%; 1 − 0.05^(1/3) = 63% for a method, 1 − 0.05^(1/9) = 28% for three sizes of it."""
    (sentence,) = collapses.unseen(evidence.measured(grid(tmp_path / "g", models=3, seeds=3)))
    assert "3 seeds miss a collapse that hits one run in ten 73% of the time" in sentence
    assert "The 3 seeds of a method exclude only collapses of more than 63% of its runs (95% limit)" in sentence
    assert sentence.endswith("the 9 runs of full together, those of more than 28%.")
    (alone,) = collapses.unseen(lost(tmp_path, [3]))
    assert alone.endswith(
        "1 seed misses a collapse that hits one run in ten 90% of the time. One seed cannot show that it is an exception."
    )
