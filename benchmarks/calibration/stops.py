"""Trainings that a callback stops, on planted measurements of one model as it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.calibration.planted import Floats, World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.statistics.stats import LEVEL
from harness.analysis.table.measure import TaskChange
from harness.core.seeds import stream
from harness.external.checkpoints.stopping import Rule, Tested, of_numbers
from harness.external.gate import ALPHA
from harness.external.judge import SHARE, Aggregate


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Planted trainings.

    Attributes:
        suites: for each suite the items of its tasks.
        limit: of each suite, in its unit.
        measurements: planned, and made unless the training is stopped.
        nats: whether items are losses in nats per token instead of right or wrong.
        own: share of the variance of an item's change that is drawn anew at each measurement.
        skewed: 0 for normal changes in nats, 1 where few items lose much, -1 where few gain much.
        cluster: number of items in a cluster.
        follows: whether a suite is tested by the numbers of ``forgetting.json``.
    """

    suites: Sequence[Sequence[int]]
    limit: float
    measurements: int
    nats: bool = False
    own: float = 0.3
    skewed: int = 0
    cluster: int = 1
    follows: bool = False


SPREAD = 0.2
"""Standard deviation of an item's change, in nats per token."""

PLANTED = {
    "500 items, right or wrong, limit 0.05, 10 measurements": Trainings(suites=[[500]], limit=0.05, measurements=10),
    "500 items, right or wrong, limit 0.05, 100 measurements": Trainings(suites=[[500]], limit=0.05, measurements=100),
    "100 items, right or wrong, limit 0.05, 10 measurements": Trainings(suites=[[100]], limit=0.05, measurements=10),
    "500 items in clusters of 4, limit 0.05, 10 measurements": Trainings(suites=[[500]], limit=0.05, measurements=10, cluster=4),
    "3 suites of 500 items, right or wrong, limit 0.05, 10 measurements": Trainings(suites=[[500]] * 3, limit=0.05, measurements=10),
    "4 tasks of 200 items, right or wrong, limit 0.05, 10 measurements": Trainings(suites=[[200] * 4], limit=0.05, measurements=10),
    "500 items, right or wrong, followed, limit 0.05, 10 readings": Trainings(suites=[[500]], limit=0.05, measurements=10, follows=True),
    "512 texts, limit 0.05 nats, 10 measurements": Trainings(suites=[[512]], limit=0.05, measurements=10, nats=True),
    "100 texts, limit 0.05 nats, 100 measurements": Trainings(suites=[[100]], limit=0.05, measurements=100, nats=True),
    "64 texts, few of which lose much, limit 0.05 nats, 10 measurements": Trainings(
        suites=[[64]], limit=0.05, measurements=10, nats=True, skewed=1
    ),
    "64 texts, few of which gain much, limit 0.05 nats, 10 measurements": Trainings(
        suites=[[64]], limit=0.05, measurements=10, nats=True, skewed=-1
    ),
}


def stopped(count: int, kinds: Sequence[str] = tuple(PLANTED)) -> list[Seen]:
    """Return the shares of trainings stopped at a loss of the limit, and of twice the limit.

    The loss is the same at each measurement: at the limit, every one of them is a chance to err.
    """
    seen = []
    for name in kinds:
        for times, what, most in (
            (1, "training stopped at a loss of exactly its limit", ALPHA),
            (2, "training stopped at twice its limit", None),
        ):
            share = sum(_stops(f"{name} {times}", number, PLANTED[name], times) for number in range(count)) / count
            seen.append(Seen(what=what, planted=name, share=share, count=count, most=most))
    return seen


def _stops(name: str, number: int, of: Trainings, times: int) -> bool:
    """Return whether any measurement of a training stops it."""
    rule = Rule(limits={f"s{suite}": of.limit for suite in range(len(of.suites))}, measurements=of.measurements)
    draws = [stream(number, "calibration", "stops", name, str(suite)) for suite in range(len(of.suites))]
    changes = [[_moves(draw, of, n, of.limit * times) for n in sizes] for draw, sizes in zip(draws, of.suites, strict=True)]
    return any(
        one.exceeds
        for at in range(of.measurements)
        for one in _tested(rule, of, [_suite(s, of, changes[s], at) for s in range(len(of.suites))])
    )


def _tested(rule: Rule, of: Trainings, suites: Sequence[Aggregate]) -> list[Tested]:
    """Return the tests of suites at one measurement."""
    if not of.follows:
        return rule.test(suites)
    found = {suite.name: suite.estimate(LEVEL) for suite in suites}
    numbers = {name: {"unit": SHARE, "loss": -one.value, "stderr": one.stderr, "df": one.df} for name, one in found.items()}
    return [of_numbers(name, numbers[name], of.limit, rule.alpha) for name in numbers]


def _moves(draw: np.random.Generator, of: Trainings, items: int, loss: float) -> Floats:
    """Return the changes of the items of a task, shape (measurements, items)."""
    if not of.nats:
        world = World(seeds=0.0, alike=1 - of.own, cluster=of.cluster)
        before, after = answers(draw, world, [items], [-loss], count=of.measurements)
        return after[0][0] - before[0]
    kept, anew = (_noise(draw, shape, of.skewed) for shape in ((items,), (of.measurements, items)))
    moved: Floats = loss + SPREAD * (np.sqrt(1 - of.own) * kept + np.sqrt(of.own) * anew)
    return moved


def _noise(draw: np.random.Generator, shape: tuple[int, ...], skewed: int) -> Floats:
    """Return values of mean 0 and variance 1."""
    return skewed * (draw.exponential(size=shape) - 1) if skewed else draw.normal(size=shape)


def _suite(suite: int, of: Trainings, tasks: Sequence[Floats], at: int) -> Aggregate:
    """Return a suite at one measurement."""
    changes = {
        f"{suite}-{task}": TaskChange("planted", moved[at], None if of.cluster == 1 else np.arange(moved.shape[1]) // of.cluster)
        for task, moved in enumerate(tasks)
    }
    unit = "nats_per_token" if of.nats else SHARE
    return Aggregate(name=f"s{suite}", unit=unit, higher_is_better=not of.nats, changes=changes, is_binary=not of.nats)
