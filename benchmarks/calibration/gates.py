"""Decisions of the gate over many suites, on planted pairs of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from benchmarks.calibration.planted import World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.table.measure import TaskChange
from harness.core.seeds import stream
from harness.external import gate, mean
from harness.external.judge import SHARE, Aggregate
from harness.external.limits import Limits

MAX_LOSS = 0.02
MOST_FAILED, MOST_AT_LIMIT, MOST_PASSED = 0.06, 0.10, 0.065
"""Promises: of fails without any change; of fails where everything is at the limit, where the
mean's test and Holm's have 5% each; and of passes there."""

SLACK = 0.03
"""Passes that may be missing from those that the mean's interval allows."""

TWENTY = [[60]] * 20
ITEMS = World(seeds=0.0)
LIMITS = Limits(overall=MAX_LOSS)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Planted pairs of models.

    Attributes:
        suites: for each suite the items of its tasks.
        change: true change of all suites.
        world: variation of items.
        of: suite → its own change.
        graded: number of suites, from the first, whose items have values from 0 to 1; only without
            a change.
        least, most: decision → bounds of its share.
    """

    suites: Sequence[Sequence[int]] = field(default_factory=lambda: TWENTY)
    change: float = 0.0
    world: World = ITEMS
    of: Mapping[int, float] = field(default_factory=dict)
    graded: int = 0
    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)

    @property
    def truth(self) -> float:
        """The true mean change over suites."""
        return float(np.mean([self.of.get(number, self.change) for number in range(len(self.suites))]))


NO_CHANGE = {"lost more": MOST_FAILED}
SIZES = [[n] for n in (20, 40, 60, 80, 100, 200, 300, 500, 700, 1000) * 2]
GROUPS = [[60], [500], [30] * 4, [25] * 8]

PLANTED = {
    "20 suites of 60 items, no change": Pairs(most=NO_CHANGE),
    "20 suites of 60 items of which fewer change, no change": Pairs(world=World(seeds=0.0, kept=0.95), most=NO_CHANGE),
    "20 suites of 20 to 1,000 items, no change": Pairs(suites=SIZES, most=NO_CHANGE),
    "suites of 1, 1, 4 and 8 tasks, no change": Pairs(suites=GROUPS, most=NO_CHANGE),
    "20 suites of 60 items in clusters of 4, no change": Pairs(world=World(seeds=0.0, cluster=4), most=NO_CHANGE),
    "18 suites of 60 items that are right or wrong, 2 of graded ones, no change": Pairs(graded=2, most=NO_CHANGE),
    "20 suites of 60 items, all lose 1 point": Pairs(change=-0.01, most=NO_CHANGE),
    "20 suites of 60 items, one loses 10 points": Pairs(of={0: -0.1}),
    "20 suites of 500 items, one loses 10 points": Pairs(suites=[[500]] * 20, of={0: -0.1}, least={"lost more": 0.9}),
    "20 suites of 60 items, all lose 2 points": Pairs(change=-0.02, most={"lost more": MOST_AT_LIMIT, "not lost": MOST_PASSED}),
    "20 suites of 20 to 1,000 items, all lose 2 points": Pairs(
        suites=SIZES, change=-0.02, most={"lost more": MOST_AT_LIMIT, "not lost": MOST_PASSED}
    ),
    "suites of 1, 1, 4 and 8 tasks, all lose 2 points": Pairs(
        suites=GROUPS, change=-0.02, most={"lost more": MOST_AT_LIMIT, "not lost": MOST_PASSED}
    ),
    "20 suites of 60 items in clusters of 4, all lose 2 points": Pairs(
        change=-0.02, world=World(seeds=0.0, cluster=4), most={"lost more": MOST_AT_LIMIT, "not lost": MOST_PASSED}
    ),
    "20 suites of 60 items, all lose 4 points": Pairs(change=-0.04),
}

WORDS = {"lost more": "gate over suites fails", "not lost": "gate over suites passes"}


def aggregates(name: str, number: int, pairs: Pairs) -> list[Aggregate]:
    """Return the suites of a planted pair of models."""
    found = []
    for suite, sizes in enumerate(pairs.suites):
        draw = stream(number, "calibration", "gates", name, str(suite))
        before, after = answers(draw, pairs.world, sizes, [pairs.of.get(suite, pairs.change)], count=1)
        moved = [new[0] - old for old, new in zip(before, after[0], strict=True)]
        graded = suite < pairs.graded
        if graded:  # by how much an answer's grade changes varies from item to item
            moved = [values * draw.uniform(0.4, 1.0, size=len(values)) for values in moved]
        of = pairs.world.cluster
        changes = {
            f"{suite}-{task}": TaskChange("planted", values, None if of == 1 else np.arange(len(values)) // of)
            for task, values in enumerate(moved)
        }
        found.append(Aggregate(name=f"s{suite}", unit=SHARE, higher_is_better=True, changes=changes, is_binary=not graded))
    return found


def over_suites(count: int, kinds: Sequence[str] = tuple(PLANTED)) -> list[Seen]:
    """Return the shares of planted pairs that fail and that pass.

    The mean's interval allows Φ((M + change) / sd − 1.645) of them to pass, sd over the pairs.
    """
    seen = []
    for name in kinds:
        pairs = PLANTED[name]
        decisions = [gate.decide(aggregates(name, number, pairs), LIMITS) for number in range(count)]
        of_mean = [one.mean.change for one in decisions if one.mean is not None]
        allowed = float(special.ndtr((MAX_LOSS + pairs.truth) / np.std(of_mean) - special.ndtri(1 - gate.ALPHA)))
        for decision, what in WORDS.items():
            passes, least = decision == "not lost", pairs.least.get(decision)
            if passes and not pairs.of and decision not in pairs.most and allowed > SLACK:
                least = allowed - SLACK
            remark = f"the mean's interval allows {allowed:.0%}" if passes else ""
            share = sum(one.decision == decision for one in decisions) / count
            seen.append(Seen(what=what, planted=name, share=share, count=count, least=least, most=pairs.most.get(decision), remark=remark))
    return seen


def further_items(count: int) -> list[Seen]:
    """Return the share of pairs that are decided with the number of items that the gate states.

    The number is that for the true change, with the median half-width of 60 pilots.
    """
    seen = []
    for change in (0.0, -0.01, -0.04):
        name = f"pilots {change}"
        pairs = Pairs(change=change)
        pilots = [mean.of_suites(aggregates(name, number, pairs), gate.LEVEL) for number in range(60)]
        reach = float(np.median([(pilot.high - pilot.low) / 2 for pilot in pilots]))
        items = gate.items_to_decide(mean.Change(change, change - reach, change + reach), MAX_LOSS, 1200)
        assert items is not None
        enough = Pairs(change=change, suites=[[-(-items // 20)]] * 20)
        wanted = "not lost" if change > -MAX_LOSS else "lost more"
        decided = [gate.decide(aggregates(f"{name} again", number, enough), LIMITS).mean for number in range(count)]
        share = sum(one is not None and one.decision == wanted for one in decided) / count
        where = f"20 suites, change {change}: {items:,} items in place of 1,200"
        seen.append(Seen(what="mean decided with the items stated", planted=where, share=share, count=count, least=0.77, remark=wanted))
    return seen
