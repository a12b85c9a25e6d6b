"""Metrics of change and forgetting, as pure functions of values and counts.

The direction of a metric is always an argument, never assumed.

| metric | unit or sign | source |
|---|---|---|
| absolute, relative change | the metric's own sign | |
| gain | positive is better | arXiv 2510.18874 |
| FG over volumes | positive is worse | arXiv 2308.08747, equation 1 |
| sample-wise forgetting, backward transfer | shares of items, 0 to 1 | arXiv 2510.17776 |
| the same beyond chance | shares of items, negative where guessing predicts more | the same |
| their ceilings | shares of items, 0 to 1 | the same |
| share of pretraining progress lost | positive is worse | arXiv 2502.06042 |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from harness.analysis.statistics.stats import LEVEL, Floats

NEAR_CHANCE = 2.0
"""Standard errors above chance up to which a score may be due to guessing, so that its relative
drop would be noise."""

SMOOTHING = 1.0
"""Items added to each of the four outcomes, over all tasks together, in the intervals of the
metrics adjusted for chance."""


def absolute_change(before: float, after: float) -> float:
    """Return after minus before, in the metric's own unit and sign.

    Source: arXiv 2411.00640, equation 7, before averaging.
    """
    return after - before


def gain(before: float, after: float, *, higher_is_better: bool) -> float:
    """Return the change in the metric's unit, positive for better.

    Source: arXiv 2510.18874.
    """
    return after - before if higher_is_better else before - after


def relative_change(before: float, after: float) -> float | None:
    """Return (after − before) / before, a share in the metric's own sign.

    None where before is 0.
    """
    return None if before == 0 else (after - before) / before


def near_chance(before: float, stderr: float | None, chance: float, *, higher_is_better: bool = True) -> bool:
    """Return whether a score is at most NEAR_CHANCE standard errors better than guessing.

    True where its standard error is unknown.

    Args:
        before: the score, in its unit.
        stderr: its standard error over items; None where there is one item.
        chance: value of uniform guessing, in the same unit.
        higher_is_better: direction of the metric.
    """
    return stderr is None or gain(chance, before, higher_is_better=higher_is_better) <= NEAR_CHANCE * stderr


def fg_over_volumes(before: float, after: Sequence[float], *, higher_is_better: bool = True, near: bool = False) -> float | None:
    """Return FG of one task, in percent; positive is worse.

    FG = 100 · mean over m of (R_o − R_m) / R_o. The paper averages over the stages of a sequence of
    tasks; here the stages are the volumes of one run. A suite's FG is the mean of its tasks' FG
    (the outer sum of the equation). For a metric where lower is better, the sign is reversed.

    Args:
        before: R_o, the value at volume 0.
        after: R_m, the values at volumes 1 … m.
        higher_is_better: direction of the metric.
        near: whether before is near chance.

    Returns:
        None where before is near chance or 0, and where there is no volume.

    Source: Luo et al. 2023, arXiv 2308.08747, equation 1.
    """
    if near or before == 0 or not after:
        return None
    return 100.0 * math.fsum(-gain(before, value, higher_is_better=higher_is_better) / before for value in after) / len(after)


def samplewise_forgetting(lost: int, n: int) -> float:
    """Return F = (1/N) Σ 1{right before, wrong after}, a share of the n items.

    Source: arXiv 2510.17776, its definition of F.
    """
    return lost / n


def backward_transfer(gained: int, n: int) -> float:
    """Return BT = (1/N) Σ 1{wrong before, right after}, a share of the n items.

    F − BT is the drop of accuracy. Source: as for F.
    """
    return gained / n


class Outcomes(NamedTuple):
    """Counts of the four outcomes of the items of one task.

    Attributes:
        lost: items right before and wrong after.
        gained: items wrong before and right after.
        kept: items right before and after.
        neither: items wrong before and after.
        guessing: as returned by ``guessing``.
        inflation: factor by which clusters of items (a passage, a person) raise the variance: 1
            without clusters, NaN with too few clusters to estimate it.
    """

    lost: int
    gained: int
    kept: int
    neither: int
    guessing: float
    inflation: float = 1.0


class Adjusted(NamedTuple):
    """A share of items adjusted for guessing, not clipped, with its interval.

    Both ends are NaN where the data do not determine them.
    """

    value: float
    low: float
    high: float


def guessing(chances: Floats) -> float | None:
    """Return g, the factor of chance in ``forgetting_true``.

    g = mean_i c_i(1 − c_i) / (1 − c̄)². If all items have k choices, g = 1 / (k − 1).

    Args:
        chances: c_i, level of uniform guessing of each item (one over its number of choices), shape
            (n,).

    Returns:
        None where guessing has no level, or is always right.
    """
    mean = float(np.mean(chances))
    return None if math.isnan(mean) or mean >= 1 else float(np.mean(chances * (1 - chances))) / (1 - mean) ** 2


def known(accuracy: float, chance: float) -> float:
    """Return κ, the share of items known if all others are guessed.

    κ = (ā − c̄) / (1 − c̄). If all items have k choices, κ = (kā − 1) / (k − 1).
    """
    return (accuracy - chance) / (1 - chance)


def forgetting_ceiling(before: float, chance: float) -> float:
    """Return F_max = max(κ_before, 0), the share of items that could be forgotten.

    Source: arXiv 2510.17776, its ceilings.
    """
    return max(known(before, chance), 0.0)


def transfer_ceiling(before: float, chance: float) -> float:
    """Return BT_max = 1 − F_max, the share of items that could be learned.

    Derived here from F_max: the paper names it without a formula.
    """
    return 1.0 - forgetting_ceiling(before, chance)


def forgetting_true(tasks: Sequence[Outcomes], level: float = LEVEL) -> Adjusted:
    """Return F_true = F − F_chance, the mean over tasks, with its interval over items.

    It is negative where fewer items were lost than guessing predicts.

    An item is known with probability κ or else guessed right with probability c_i, before and after
    independently. Then F_chance = mean_i c_i(1 − c_i) · (1 − κ_before)(1 − κ_after)
    = g (1 − ā_before)(1 − ā_after). If all items have k choices, this is the paper's
    (1 − ā_before)(1 − ā_after) / (k − 1). The paper clips F_true at 0. Here it is not clipped, so
    that the interval stays valid; readers may clip it.

    The interval is the delta method's over the four outcome counts, after adding SMOOTHING / T
    items to each outcome of each of the T tasks. It is widened to contain the value where the added
    items moved it out. It has width where no item changed. It was chosen by simulation over no
    smoothing, smoothing by one half, and draws from a Dirichlet posterior, for 24 populations of 2
    and 4 choices. At 95 % it covered 91.2 % or more for 20 and 50 items and 94 % or more for 200
    and 1,000, where the plain delta method fell to 30 % (few items change) and the posterior to
    less than 1 % (no item changes). Means over 2 to 20 tasks of 20 and 100 items covered 92.9 % or
    more, means over 57 tasks of 20 items 83 %.

    Args:
        tasks: outcomes of each task, with equal weight.
        level: confidence level.

    Source: Harmon et al. 2025, arXiv 2510.17776, F_chance and F_true; the formula for several
    numbers of choices is derived above.
    """
    return _adjusted([(task, task.lost, task.gained) for task in tasks], level)


def transfer_true(tasks: Sequence[Outcomes], level: float = LEVEL) -> Adjusted:
    """Return BT_true = BT − BT_chance, as ``forgetting_true`` does.

    The two chance terms are equal. Source: as there.
    """
    return _adjusted([(task, task.gained, task.lost) for task in tasks], level)


def _adjusted(tasks: Sequence[tuple[Outcomes, int, int]], level: float) -> Adjusted:
    """Return an outcome's share adjusted for guessing, the mean over tasks, with its interval.

    For each task it is p_1 − g (p_2 + p_4)(p_1 + p_4), where p_1 is the share of the outcome, p_2
    that of its opposite, and p_4 that of items wrong both times.
    """
    value = center = variance = 0.0
    for task, one, opposite in tasks:
        n = task.lost + task.gained + task.kept + task.neither
        value += one / n - task.guessing * (opposite + task.neither) * (one + task.neither) / n**2
        added = SMOOTHING / len(tasks)
        total = n + 4 * added
        first, second, fourth = ((count + added) / total for count in (one, opposite, task.neither))
        wrong_one, wrong_other = first + fourth, second + fourth
        center += first - task.guessing * wrong_one * wrong_other
        slopes = (1 - task.guessing * wrong_other, -task.guessing * wrong_one, -task.guessing * (wrong_one + wrong_other))
        mean = slopes[0] * first + slopes[1] * second + slopes[2] * fourth
        square = slopes[0] ** 2 * first + slopes[1] ** 2 * second + slopes[2] ** 2 * fourth
        variance += task.inflation * (square - mean**2) / total
    value, center = value / len(tasks), center / len(tasks)
    if math.isnan(variance):
        return Adjusted(value, math.nan, math.nan)
    width = float(special.ndtri(0.5 + level / 2)) * math.sqrt(variance) / len(tasks)
    return Adjusted(value, min(center - width, value), max(center + width, value))


def progress_lost(before: float, after: float, chance: float) -> float | None:
    """Return the share of pretraining progress lost, (after − before) / (chance − before).

    Progress is how far the loss at volume 0 is below the loss of uniform guessing. 0: nothing lost;
    1: as before any training; below 0: further progress. In nats per token, guessing is the
    logarithm of the vocabulary's size, which an untrained model is close to.

    Args:
        before: loss at volume 0.
        after: loss now, in the same unit.
        chance: loss of uniform guessing, in the same unit.

    Returns:
        None where before is no better than chance.

    Source: Béthune et al. 2025, arXiv 2502.06042, the share of pretraining progress lost, with its
    reference point stated.
    """
    return None if before >= chance else (after - before) / (chance - before)
