"""Coverage of the interval of forgetting at equal gain, on planted pairs of methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from benchmarks.calibration.planted import Planted, World, answers
from benchmarks.calibration.seen import Seen
from harness.analysis.findings.equal_gain import equal_gain
from harness.analysis.findings.findings import findings
from harness.core.seeds import stream
from harness.records.schema import Declared

VOLUMES = (64, 256, 1024)
TARGET, PROBES = [200], [200, 200]

Curve = tuple[tuple[float, ...], tuple[float, ...]]

PAIRS: dict[str, dict[str, Curve]] = {
    "one learns and forgets more": {"full": ((0.15, 0.4, 0.6), (0.02, 0.1, 0.25)), "lora": ((0.1, 0.3, 0.5), (0.01, 0.04, 0.08))},
    "both alike": {"full": ((0.15, 0.4, 0.6), (0.02, 0.06, 0.1)), "lora": ((0.15, 0.4, 0.6), (0.02, 0.06, 0.1))},
    "gain that falls at last": {"full": ((0.3, 0.6, 0.45), (0.05, 0.15, 0.3)), "lora": ((0.1, 0.3, 0.5), (0.01, 0.04, 0.08))},
    "little gain": {"full": ((0.05, 0.1, 0.15), (0.02, 0.05, 0.1)), "lora": ((0.03, 0.06, 0.1), (0.01, 0.02, 0.04))},
}
"""Pair → method → gains and losses at VOLUMES."""

WHAT = "95% interval holds the difference at equal gain"
DECLARED = Declared(headline="probe")


def at_equal_gain(count: int, seeds: Sequence[int] = (1, 3, 5, 8), pairs: Sequence[str] = tuple(PAIRS)) -> list[Seen]:
    """Plant pairs of methods and return the coverage of their comparison at equal gain.

    The truth is the difference of the true paths at the gain that the analysis chose.
    """
    seen = []
    for name, k in product(pairs, seeds):
        planted = Planted(tested=False)
        for number in range(count):
            _add(planted, name, k, number)
        table = planted.table()
        found = equal_gain(table, planted, DECLARED, findings=findings(table, planted, DECLARED))
        known = found[found["gain"].notna()]
        full, lora = PAIRS[name]["full"], PAIRS[name]["lora"]
        truth = np.array([forgetting(full, gain) - forgetting(lora, gain) for gain in known["gain"].astype(float)])
        held = ((known["low"] <= truth) & (known["high"] >= truth)).fillna(False)
        for share, of in held.groupby(known["share"]):
            where = f"{name}; {k} seed{'s' * (k > 1)}; at {share:.0%} of the range"
            seen.append(Seen(what=WHAT, planted=where, share=float(of.mean()), count=len(of), least=0.93))
    return seen


def _add(planted: Planted, name: str, seeds: int, number: int) -> None:
    """Add a pair of methods, both measured on the same items.

    A seed moves the target and the probe of a method together.
    """
    world = World(seeds=0.0 if seeds == 1 else 0.1)
    for tuning, curve in PAIRS[name].items():
        where = ["calibration", "pair", name, str(seeds)]
        draw = stream(number, *where, tuning)
        moved = draw.normal(size=seeds)
        for suite, right, sizes, sign, means in (("target", 0.3, TARGET, 1.0, curve[0]), ("probe", 0.7, PROBES, -1.0, curve[1])):
            asked, changes = stream(number, *where, suite), [sign * mean for mean in means]
            of = replace(world, right=right)
            before, after = answers(draw, of, sizes, changes, count=seeds, seeds=sign * moved, asked=asked)
            for volume, at in zip(VOLUMES, after, strict=True):
                planted.add(f"m{number}", tuning, volume, suite, suite, before, at)


def forgetting(curve: Curve, gain: float) -> float:
    """Return the true forgetting where a true path first reaches a gain.

    Beyond its largest gain, return that at its largest gain.
    """
    gains, losses = np.array([0.0, *curve[0]]), np.array([0.0, *curve[1]])
    upper = int(np.argmax(gains >= gain)) or int(np.argmax(gains))
    share = (gain - gains[upper - 1]) / (gains[upper] - gains[upper - 1])
    return float(losses[upper - 1] + share * (losses[upper] - losses[upper - 1]))
