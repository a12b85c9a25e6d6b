"""Verdicts, power and coverage of changes on planted experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats as distributions

from benchmarks.calibration.planted import Planted, World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.findings.findings import findings
from harness.analysis.statistics import metrics, stats
from harness.analysis.table.columns import SUITE_TASK
from harness.core.seeds import stream
from harness.records.schema import Declared

SEEDS = (1, 3, 5, 8)
LOSS = 0.05
SIZES = [200, 200, 100, 100]
"""Items of the four tasks of nulls."""

MOST_FALSE = 0.065
LEAST_COVERED = 0.93
"""Promises of 5% tests and of 95% intervals."""

_BATCH = 250

NULL = Declared(headline="probe", margin=1e-9)
"""Declarations with a margin of almost 0, so that ``kept`` does not hide false calls."""


def found(
    name: str, world: World, sizes: Sequence[int], change: float, seeds: int, count: int, declared: Declared = NULL
) -> Iterator[pd.DataFrame]:
    """Yield the findings of ``count`` planted cells, in batches.

    With one seed, seeds do not vary, since one seed cannot show it.
    """
    world = replace(world, seeds=0.0 if seeds == 1 else world.seeds)
    for start in range(0, count, _BATCH):
        planted = Planted(cluster=world.cluster)
        for number in range(start, min(start + _BATCH, count)):
            draw = stream(number, "calibration", name, str(seeds))
            before, after = answers(draw, world, sizes, [change], count=seeds)
            planted.add(f"m{number}", "full", 1, "probe", "probe", before, after[0])
        yield findings(planted.table(), planted, declared)


NULLS = {
    "items and seeds vary": World(),
    "items in clusters of 4": World(cluster=4),
    "all seeds move the same items": World(alike=1.0),
    "seeds vary by far more than items": World(seeds=0.4),
}
"""Worlds without a mean change over items and seeds."""

OF_SEEDS = ("all seeds move the same items", "seeds vary by far more than items")
"""Worlds that equal the first one if there is one seed."""

COVERED = {
    "600 items of 4 tasks": (World(), SIZES, -LOSS),
    "1,020 items of 2 tasks, 20 and 1,000; all seeds move the same": (World(alike=1.0, seeds=0.0), [20, 1000], -LOSS),
    "60 items of one task": (World(), [60], -LOSS),
    "240 items in clusters of 4": (World(cluster=4), [240], -LOSS),
    "200 items, hardly any of which change": (World(kept=0.999, alike=0.9, seeds=0.02), [200], -0.01),
    "800 items, seeds vary by far more than items": (World(seeds=0.4), [400, 400], -LOSS),
}
"""Worlds, items of their tasks, and the true change."""


def nulls(count: int, seeds: Sequence[int] = SEEDS, kinds: Sequence[str] = tuple(NULLS)) -> list[Seen]:
    """Return the share of headlines and of families of tasks falsely called lost or gained.

    Nothing changes in the planted worlds. A family is four tasks, adjusted by Holm.
    """
    seen = []
    for name, k in product(kinds, seeds):
        if k == 1 and name in OF_SEEDS:
            continue
        rows = pd.concat(found(f"null {name}", NULLS[name], SIZES, 0.0, k, count), ignore_index=True)
        called = rows["verdict"].isin(["lost", "gained"])
        headline = called[rows["task"] == SUITE_TASK]
        family = called[rows["task"] != SUITE_TASK].groupby(rows["model"]).any()
        for what, calls in {"false lost or gained, headline": headline, "false lost or gained in any of 4 tasks": family}.items():
            seen.append(Seen(what=what, planted=f"{name}; {_seeds(k)}", share=float(calls.mean()), count=count, most=MOST_FALSE))
    return seen


def hidden_seeds(count: int) -> list[Seen]:
    """Return the share of false calls with one seed where seeds vary.

    Intervals over items alone cannot show the variation between seeds.
    """
    planted = Planted()
    for number in range(count):
        before, after = answers(stream(number, "calibration", "hidden"), World(), SIZES, [0.0], count=1)
        planted.add(f"m{number}", "full", 1, "probe", "probe", before, after[0])
    rows = findings(planted.table(), planted, NULL)
    calls = rows.loc[rows["task"] == SUITE_TASK, "verdict"].isin(["lost", "gained"])
    where, remark = "no change over seeds, which vary; 1 seed", "true of that seed, not of the method"
    return [Seen(what="lost or gained, headline", planted=where, share=float(calls.mean()), count=count, remark=remark)]


def power(count: int, seeds: Sequence[int] = SEEDS) -> list[Seen]:
    """Return the share of planted losses found, for a detectable loss and for LOSS.

    The detectable loss is that of a pilot's findings.
    """
    seen = []
    for k in seeds:
        pilot = _headlines("pilot", -LOSS, k, min(count, 400))
        least = float(pilot["detectable"].astype(float).median())
        for loss in (least, LOSS):
            rows = _headlines(f"power {loss:.4f}", -loss, k, count)
            promised = promised_power(_median(rows, "stderr"), _median(rows, "df"), loss)
            where = f"a loss of {loss:.3f}{', detectable by the median of a pilot' if loss == least else ''}; 800 items; {_seeds(k)}"
            remark = f"{promised:.0%} by its median standard error"
            calls, bound = rows["verdict"] == "lost", (0.8 if loss == least else promised) - 0.03
            seen.append(Seen(what="planted loss found", planted=where, share=float(calls.mean()), count=count, least=bound, remark=remark))
    return seen


def _headlines(name: str, change: float, seeds: int, count: int) -> pd.DataFrame:
    rows = pd.concat(found(name, World(), [400, 400], change, seeds, count), ignore_index=True)
    return rows[rows["task"] == SUITE_TASK]


def _median(rows: pd.DataFrame, name: str) -> float:
    return float(rows[name].astype(float).median())


def promised_power(stderr: float, freedom: float, effect: float) -> float:
    """Return P(T > t) of a noncentral t, the power of a two-sided 5% test."""
    bar = distributions.t.ppf(0.975, freedom)
    return (
        float(distributions.nct.sf(bar, freedom, effect / stderr))
        if np.isfinite(freedom)
        else float(distributions.norm.sf(bar - effect / stderr))
    )


def coverage(count: int, seeds: Sequence[int] = SEEDS, kinds: Sequence[str] = tuple(COVERED)) -> list[Seen]:
    """Return the share of 95% intervals of the change that contain a planted loss."""
    seen = []
    for name, k in product(kinds, seeds):
        world, sizes, change = COVERED[name]
        rows = pd.concat(found(f"coverage {name}", world, sizes, change, k, count), ignore_index=True)
        at = rows[rows["task"] == SUITE_TASK]
        held = ((at["delta_low"] <= change) & (at["delta_high"] >= change)).fillna(False)
        where = f"{name}; {_seeds(k)}"
        seen.append(Seen(what="95% interval holds the change", planted=where, share=float(held.mean()), count=count, least=LEAST_COVERED))
    return seen


def chance_adjusted(count: int) -> list[Seen]:
    """Return the coverage of the interval of forgetting beyond chance.

    Items with 2 to 5 choices are known or guessed.
    """
    seen = []
    for n in (50, 200, 1000):
        choices = np.resize([2, 3, 4, 5], n)
        for known, lost in ((0.6, 0.1), (0.1, 0.05), (0.5, 0.0)):
            held = 0
            guess = metrics.guessing(1 / choices)
            assert guess is not None
            truth = _true_forgetting(choices, known, lost, guess)
            for number in range(count):
                draw = stream(number, "calibration", "chance", str(n), str(known), str(lost))
                before, after = _guessed(draw, choices, known, lost)
                counts = (int((before & ~after).sum()), int((~before & after).sum()), int((before & after).sum()))
                interval = metrics.forgetting_true([metrics.Outcomes(*counts, n - sum(counts), guess)])
                held += interval.low <= truth <= interval.high
            where = f"{n} items of 2 to 5 choices, {known:.0%} known, {lost:.0%} lost"
            seen.append(
                Seen(what="95% interval holds forgetting beyond chance", planted=where, share=held / count, count=count, least=0.91)
            )
    return seen


def _guessed(draw: np.random.Generator, choices: np.ndarray, known: float, lost: float) -> tuple[np.ndarray, np.ndarray]:
    knows = draw.random(len(choices)) < known
    still = knows & (draw.random(len(choices)) >= lost / known)
    guesses = draw.random((2, len(choices))) < 1 / choices
    return knows | guesses[0], still | guesses[1]


def _true_forgetting(choices: np.ndarray, known: float, lost: float, guess: float) -> float:
    """Return the expected F minus g (1 − ā)(1 − ā′) at the expected accuracies."""
    chance = 1 / choices
    after = known - lost
    right = [known + (1 - known) * chance.mean(), after + (1 - after) * chance.mean()]
    falls = (lost + (1 - known) * chance) * (1 - chance)  # knew and lost it, or guessed right; then guesses wrong
    return float(falls.mean() - guess * (1 - right[0]) * (1 - right[1]))


def gate(count: int) -> list[Seen]:
    """Return the share of gates decided at a true change of exactly −max_loss.

    A gate is decided if the 90% interval is entirely on one side of −max_loss.
    """
    seen = []
    for n in (100, 500, 2000):
        below = above = 0
        for number in range(count):
            before, after = answers(stream(number, "calibration", "gate", str(n)), World(seeds=0.0), [n], [-0.02], count=1)
            moved = after[0][0][0] - before[0]
            low, high = stats.difference_interval([int((moved < 0).sum())], [int((moved > 0).sum())], [n], 0.9)
            below, above = below + (high < -0.02), above + (low > -0.02)
        for what, hits in (("gate fails at a loss of exactly max_loss", below), ("gate passes at a loss of exactly max_loss", above)):
            seen.append(Seen(what=what, planted=f"{n} items, change −0.02", share=hits / count, count=count, most=MOST_FALSE))
    return seen


def _seeds(count: int) -> str:
    return f"{count} seed" + "s" * (count > 1)
