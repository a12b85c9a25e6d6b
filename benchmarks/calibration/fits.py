"""Recovery of planted laws by fits, and coverage of their 90% intervals.

``python -m benchmarks.calibration.fits [--quick] [--sweeps N]`` prints a Markdown table. A run
(size, share of old data, seed) has an effect that all of its volumes share, and each point has an
error over items. The errors of neighbouring volumes are correlated (ALONG per doubling), and half
of their variance is common to all sizes. The share common to all seeds is the world's ``shared``.
No results folder is read.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.calibration.seen import Seen
from harness.analysis.fits import fitting
from harness.core.seeds import stream

SEEDS = (3, 5, 8)
VOLUMES = (64, 128, 256, 512, 1024)
NEW = 2048
SIZES = (145_536, 350_000, 801_384, 2_100_000)
SWEEPS = 300
ALONG = 0.7
AT_LEAST = 0.85


@dataclass(frozen=True)
class World:
    """Standard deviations of the planted sweeps.

    Attributes:
        name: name of the world.
        runs: effect of a run.
        own: error of each point that is not due to items.
        items: error of each point over items, which is its stderr.
        shared: share of the items' variance that is common to all seeds.
    """

    name: str
    runs: float = 0.0
    own: float = 0.0
    items: float = 0.0
    shared: float = 0.0


WORLDS = [
    World("runs 0.02, points 0.01", runs=0.02, own=0.01),
    World("items 0.02, none shared", items=0.02),
    World("items 0.02, 70% shared", items=0.02, shared=0.7),
    World("items 0.02, all shared", items=0.02, shared=1.0),
    World("runs 0.02, items 0.02, all shared", runs=0.02, items=0.02, shared=1.0),
]


@dataclass(frozen=True)
class Planted:
    """A law with its parameters, and sizes and shares of old data."""

    law: str
    name: str
    parameters: dict[str, float]
    sizes: tuple[int, ...] = SIZES
    fractions: tuple[float, ...] = (0.0,)


PLANTED = [
    Planted("power", "power, one cell", {"c": 0.006, "k": 0.5}, sizes=SIZES[:1]),
    Planted("linear", "linear", {"slope": -0.4, "intercept": 0.9}),
    Planted("kl", "kl", {"a": 0.5, "b": -0.2}),
    Planted("injection", "injection, nothing injected", {"A": 0.4, "b": 0.4, "a": 0.3, "E": 0.01}),
    Planted("injection", "injection, shares 0 to 5%", {"A": 0.4, "b": 0.4, "B": 829.0, "a": 0.3, "E": 0.01}, SIZES, (0.0, 0.01, 0.05)),
    Planted("shifted_power", "shifted_power", {"s": 0.8, "a": 20_000.0, "alpha": 0.5, "b": 4.0, "beta": 0.7}),
]


def design(planted: Planted, seeds: int) -> pd.DataFrame:
    """Return the points of a sweep without responses.

    They include one more seed and one more volume, which are predicted.
    """
    runs = [(size, fraction, seed) for size in planted.sizes for fraction in planted.fractions for seed in range(seeds + 1)]
    rows = [(f"{size}-{fraction}-{seed}", seed, size, fraction, volume) for size, fraction, seed in runs for volume in (*VOLUMES, NEW)]
    found = pd.DataFrame(rows, columns=["run_id", "seed", "params_total", "inject_fraction", "volume"])
    doublings = np.log2(found["volume"] / 64)
    return found.assign(
        params_trainable=found["params_total"],
        train_tokens=40 * found["volume"],
        steps=found["volume"] // 8,
        finetune_loss=2.0 - 0.25 * doublings - found["params_total"] / 1e7,
        kl=0.1 * 1.6**doublings + found["params_total"] / 1e7,
    )


def curve(planted: Planted, at: pd.DataFrame) -> np.ndarray:
    """Return the law at points, by formulas independent of the harness."""
    of = {"B": 0.0} | planted.parameters
    if planted.law == "power":
        found = of["c"] * at["volume"] ** of["k"]
    elif planted.law == "linear":
        found = of["slope"] * at["finetune_loss"] + of["intercept"]
    elif planted.law == "kl":
        found = of["a"] * at["kl"] + of["b"] * at["kl"] ** 2
    elif planted.law == "injection":
        effective = (1 + of["B"] * at["inject_fraction"]) * at["params_total"]
        found = of["A"] * at["train_tokens"] ** of["b"] / effective ** of["a"] + of["E"]
    else:
        found = of["s"] - (of["a"] / at["params_trainable"]) ** of["alpha"] - (of["b"] / at["steps"]) ** of["beta"]
    return found.to_numpy(dtype=float)


def measured(at: pd.DataFrame, truth: np.ndarray, world: World, draw: np.random.Generator) -> pd.DataFrame:
    """Return the points with effects of runs, noise and errors over items."""
    run, names = pd.factorize(at["run_id"])
    moved = world.runs * draw.normal(size=len(names))[run] + world.own * draw.normal(size=len(at))
    common = np.sqrt(0.5) * (_along(at, np.zeros(len(at), dtype=int), draw) + _along(at, pd.factorize(at["params_total"])[0], draw))
    alone = _along(at, run, draw)
    moved += world.items * (np.sqrt(world.shared) * common + np.sqrt(1.0 - world.shared) * alone)
    return at.assign(forgetting=truth + moved, stderr=world.items or world.own)


def _along(at: pd.DataFrame, of: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return for each point the value of its autocorrelated series over volumes.

    ``of`` has the number of each point's series. The variance is 1.
    """
    steps = draw.normal(size=(int(of.max()) + 1, len(VOLUMES) + 1))
    for i in range(1, steps.shape[1]):
        steps[:, i] = ALONG * steps[:, i - 1] + np.sqrt(1.0 - ALONG**2) * steps[:, i]
    return np.asarray(steps[of, np.log2(at["volume"].to_numpy() / VOLUMES[0]).astype(int)])


def recovery(planted: Planted, world: World, seeds: int, sweeps: int) -> list[dict[str, object]]:
    """Fit planted sweeps, and return one row per parameter and one for a new run.

    The new run is at twice the largest volume, on the same items. ``estimate`` is the median,
    ``coverage`` the share of intervals that contain the truth, and ``without`` the number of fits
    without an interval.
    """
    at = design(planted, seeds)
    truth, draw = curve(planted, at), stream(0, "calibration", planted.name, world.name, str(seeds))
    fitted, new = (at["seed"] < seeds) & (at["volume"] < NEW), int(np.flatnonzero((at["seed"] == seeds) & (at["volume"] == NEW))[0])
    found: dict[str, list[tuple[float | None, float | None, float | None, float]]] = {name: [] for name in [*planted.parameters, "new run"]}
    for _ in range(sweeps):
        points = measured(at, truth, world, draw)
        fit = fitting.fit(points[fitted], planted.law, judge=False)
        for name, true in planted.parameters.items():
            one = fit.parameters[name]
            found[name].append((one.value, one.low, one.high, true))
        columns = ["volume", "train_tokens", "params_total", "params_trainable", "inject_fraction", "steps", "finetune_loss", "kl"]
        prediction = fitting.predict(fit, {name: float(points[name].iloc[new]) for name in columns})
        found["new run"].append((prediction.value, prediction.low, prediction.high, float(points["forgetting"].iloc[new])))
    rows: list[dict[str, object]] = []
    for name, every in found.items():
        held = [low <= true <= high for _, low, high, true in every if low is not None and high is not None]
        rows.append(
            {
                **{"law": planted.name, "world": world.name, "seeds": seeds, "parameter": name},
                "planted": planted.parameters.get(name, float(truth[new])),
                "estimate": float(np.median([value for value, *_ in every if value is not None])),
                "coverage": float(np.mean(held)) if held else float("nan"),
                "without": len(every) - len(held),
                "sweeps": sweeps,
            }
        )
    return rows


def rows(sweeps: int = SWEEPS, *, quick: bool = False) -> pd.DataFrame:
    """Return the table of all laws, worlds and numbers of seeds.

    With ``quick``, it has 40 sweeps of the laws with two parameters.
    """
    laws, sweeps = ([one for one in PLANTED if len(one.parameters) == 2], 40) if quick else (PLANTED, sweeps)
    counts, worlds = (SEEDS[1:2], [WORLDS[0], WORLDS[3]]) if quick else (SEEDS, WORLDS)
    return pd.DataFrame([row for one in laws for world in worlds for seeds in counts for row in recovery(one, world, seeds, sweeps)])


def promises(found: pd.DataFrame) -> list[Seen]:
    """Return the promises of rows: coverage of at least AT_LEAST."""
    names = ["law", "world", "parameter", "seeds", "coverage", "sweeps"]
    return [
        Seen(what="90% interval holds", planted=f"{law}: {parameter}, {world}; {seeds} seeds", share=share, count=count, least=AT_LEAST)
        for law, world, parameter, seeds, share, count in found[names].itertuples(index=False, name=None)
    ]


def markdown(found: pd.DataFrame) -> str:
    """Return the rows as Markdown."""
    used = int(found["sweeps"].iloc[0])
    counts = sorted(found["seeds"].unique())
    chance = f"of {used} sweeps, chance alone moves a share of 90% by {_error(used):.1f} points"
    lines = [f"{used} planted sweeps each; how many of the 90% intervals hold the truth; {chance}.", ""]
    names = ["law", "what varies (forgetting)", "parameter", "planted", "median estimate", *(f"{seeds} seeds" for seeds in counts)]
    names.append("no interval")
    lines += ["| " + " | ".join(names) + " |", "|---|---|---|" + "--:|" * (len(names) - 3)]
    for (law, world, parameter), part in found.groupby(["law", "world", "parameter"], sort=False):
        shares = [f"{100 * share:.1f}%" for share in part.sort_values("seeds")["coverage"]]
        values = [f"{part['planted'].iloc[0]:.4g}", f"{part['estimate'].iloc[-1]:.4g}", *shares, str(int(part["without"].sum()))]
        lines.append("| " + " | ".join([str(law), str(world), str(parameter), *values]) + " |")
    low = found[found["coverage"] < AT_LEAST]
    lines += ["", f"Lowest coverage: {100 * found['coverage'].min():.1f}%; {len(low)} of {len(found)} lie below {100 * AT_LEAST:.0f}%."]
    return "\n".join(lines) + "\n"


def _error(sweeps: int) -> float:
    return 100.0 * float(np.sqrt(0.9 * 0.1 / sweeps))


def main(arguments: list[str]) -> int:
    """Print the table; return 1 if a promise fails by more than three standard errors."""
    start = time.process_time()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few laws and 40 sweeps")
    parser.add_argument("--sweeps", type=int, default=SWEEPS)
    options = parser.parse_args(arguments)
    found = rows(options.sweeps, quick=options.quick)
    sys.stdout.write(markdown(found))
    sys.stderr.write(f"{time.process_time() - start:.0f} seconds of processor time\n")
    return 0 if all(seen.holds(errors=3.0) for seen in promises(found)) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
