"""Numbers of findings, frontier and equal gain, recomputed by NumPy and SciPy.

The code below ``# Plain`` does not use harness.analysis: it reads samples and follows the formulas
of METHOD.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from scipy import stats as distributions

from harness.analysis.findings.equal_gain import equal_gain
from harness.analysis.findings.findings import findings
from harness.analysis.findings.frontier import frontier
from harness.analysis.table.changes import Changes
from harness.analysis.table.frame import table
from harness.records.schema import Declared
from harness.records.store import Experiment
from harness.records.writer import ExperimentWriter
from tests.support.experiments import BEFORE as WEIGHTS_BEFORE
from tests.support.experiments import Task, weights_of, write_run
from tests.support.pooling import Expected, expected

ROLES = {"people": "target", "known": "probe", "text": "probe"}
VOLUMES, SEEDS, TUNINGS = (64, 256), (0, 1, 2), ("full", "lora")
SIZES = {("people", "city"): 60, ("known", "age"): 50, ("known", "job"): 80, ("text", "lines"): 40}
CHANCE = {"people": 0.25, "known": 0.25, "text": math.log(256)}
SPREAD = {"people": None, "known": 0.01, "text": None}
BEFORE = {"people": 0.3, "known": 0.8}
AFTER = {  # share of right items of people and known after each volume; nats per token more
    ("full", 64): (0.5, 0.7, 0.1),
    ("full", 256): (0.9, 0.45, 0.5),
    ("lora", 64): (0.45, 0.78, 0.05),
    ("lora", 256): (0.7, 0.7, 0.2),
}
DECLARED = Declared(headline="known", margins={"text": 0.3})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment with three seeds, full and LoRA, and two volumes.

    Items have difficulties, seeds differ, and one metric is a ratio with weights.
    """
    made = ExperimentWriter(Path(tmp_path_factory.mktemp("results")) / "made")
    draw = np.random.default_rng(11)
    hard = {key: draw.normal(size=n) for key, n in SIZES.items()}
    weights = draw.integers(5, 20, SIZES["text", "lines"]).astype(float)
    nats = draw.normal(2.0, 0.3, SIZES["text", "lines"])

    def tasks(values: Mapping[tuple[str, str], np.ndarray], *, before: bool) -> list[Task]:
        return [
            Task(
                suite=suite,
                task=task,
                values=list(values[suite, task]),
                chance=CHANCE[suite],
                moved=SPREAD[suite] if before else None,
                metric="nats_per_token" if suite == "text" else "acc",
                weights=list(weights) if suite == "text" else None,
                higher_is_better=suite != "text",
            )
            for suite, task in SIZES
        ]

    def right(key: tuple[str, str], share: float, shift: float, kept: float) -> np.ndarray:
        latent = kept * hard[key] + math.sqrt(1 - kept**2) * draw.normal(size=SIZES[key])
        return (latent < distributions.norm.ppf(share) + shift).astype(float)

    base = {key: right(key, BEFORE[key[0]], 0.0, 1.0) for key in SIZES if key[0] != "text"} | {("text", "lines"): nats}
    for tuning in TUNINGS:
        for seed in SEEDS:
            points = {}
            for volume in VOLUMES:
                gained, kept, rise = AFTER[tuning, volume]
                shift = 0.15 * draw.normal()
                values = {key: right(key, gained if key[0] == "people" else kept, shift, 0.9) for key in SIZES if key[0] != "text"}
                values["text", "lines"] = nats + rise + 0.1 * draw.normal(size=len(nats)) + 0.05 * draw.normal()
                points[volume] = tasks(values, before=False)
            before = tasks(base, before=True)
            write_run(made, f"{tuning}{seed}", before=before, points=points, roles=ROLES, labels={"tuning": tuning}, seed=seed)
    return made


@pytest.fixture(scope="module")
def found(experiment: Experiment) -> pd.DataFrame:
    return findings(table(experiment), Changes(experiment), DECLARED)


# Plain.


class Items:
    """Items of a suite's tasks before and after, by seed, from samples alone."""

    def __init__(self, experiment: Experiment, tuning: str, volume: int, suite: str, tasks: list[str]) -> None:
        metric = "metric.nats_per_token" if suite == "text" else "metric.acc"
        self.before, self.after, self.weights = [], [], []
        baseline = experiment.measurement_samples(f"tiny-a-{suite}", WEIGHTS_BEFORE)
        for task in tasks:
            old = _of(baseline, suite, task)
            new = [
                _of(experiment.measurement_samples(f"tiny-a-{suite}", weights_of(f"{tuning}{seed}", volume)), suite, task) for seed in SEEDS
            ]
            assert all(list(one.index) == list(old.index) for one in new)
            self.before.append(old[metric].to_numpy(float))
            self.after.append(np.array([one[metric].to_numpy(float) for one in new]))
            self.weights.append(old["weight.nats_per_token"].to_numpy(float) if suite == "text" else np.ones(len(old)))

    @property
    def changes(self) -> list[np.ndarray]:
        """Linearised changes of each task, shape (seeds, items).

        Their plain mean is the weighted mean change, and their spread is that of the ratio.
        """
        found = []
        for old, new, w in zip(self.before, self.after, self.weights, strict=True):
            change = new - old
            mean = (change * w).sum(axis=1, keepdims=True) / w.sum()
            found.append(mean + len(w) * w * (change - mean) / w.sum())
        return found

    def means(self, side: str) -> np.ndarray:
        """Weighted means, shape (tasks, seeds) after or (tasks, 1) before."""
        values = self.after if side == "after" else [old[None] for old in self.before]
        return np.array([(one * w).sum(axis=1) / w.sum() for one, w in zip(values, self.weights, strict=True)])


def _of(samples: pd.DataFrame, suite: str, task: str) -> pd.DataFrame:
    return samples[(samples["suite"] == suite) & (samples["task"] == task)].set_index("doc_hash").sort_index()


def unchanged(sizes: list[int]) -> float:
    """Return the half-width of the score interval of the mean over tasks without changes.

    At the maximum of the likelihood given the mean, each task's Δ_t solves
    n_t Δ_t = λ Δ_t (1 − Δ_t) / T, so Δ_t = max(0, 1 − n_t T / λ), and λ is where the statistic
    reaches z.
    """
    n, count, z2 = np.array(sizes, dtype=float), len(sizes), distributions.norm.ppf(0.975) ** 2

    def means(multiplier: float) -> np.ndarray:
        return np.maximum(0.0, 1 - n * count / multiplier)

    def excess(multiplier: float) -> float:
        delta = means(multiplier)
        return float(np.sum(delta * (1 - delta) / (n * count**2)) * multiplier**2 - z2)

    return float(means(optimize.brentq(excess, n.min() * count, 1e9, xtol=1e-9, rtol=1e-14)).mean())


def interval(tasks: list[np.ndarray], *, binary: bool, spread: Expected | None = None) -> dict[str, float]:
    """Return the two-level interval of the mean over tasks, section 4 of METHOD.md."""
    k, count, z2 = len(tasks[0]), len(tasks), distributions.norm.ppf(0.975) ** 2
    own = np.mean([one.mean(axis=1) for one in tasks], axis=0).var(ddof=1)
    seed, of_seeds = (own / k, k - 1.0) if spread is None else (spread.variance / k, spread.freedom)
    times = 2 if of_seeds < k else 1
    items = [one.mean(axis=0).var(ddof=1) / one.shape[1] / count**2 for one in tasks]
    rests = []
    for one in tasks:
        n = one.shape[1]
        rest = one - one.mean(axis=0) - one.mean(axis=1, keepdims=True) + one.mean()
        rests.append((rest**2).sum() / ((k - 1) * (n - 1)) / (k * n) / count**2)
    item, rest = sum(items), sum(rests)
    variance, twice = max(seed + item - rest, seed, item), max(times * seed + item - rest, times * seed, item)
    below = (times * seed) ** 2 / of_seeds
    below += sum(part**2 / (one.shape[1] - 1) for part, one in zip(items, tasks, strict=True))
    below += sum(part**2 / ((k - 1) * (one.shape[1] - 1)) for part, one in zip(rests, tasks, strict=True))
    freedom, alone = twice**2 / below, unchanged([one.shape[1] for one in tasks])
    n = z2 * (1 - alone) / alone
    changed = sum((one**2).sum() / k / one.shape[1] ** 2 for one in tasks) / count**2
    worth = (changed * n**2 + z2) / (item * n**2 + z2)
    least = z2 / (n * worth + z2) if binary else 0.0
    t = distributions.t.ppf(0.975, freedom)
    width, value = math.hypot(t * math.sqrt(variance), least), float(np.mean([one.mean() for one in tasks]))
    p_value = 2 * distributions.t.sf(abs(value) / (width / t), freedom)
    return {"delta": value, "stderr": width / t, "df": freedom, "delta_low": value - width, "delta_high": value + width, "p_value": p_value}


def spreads(experiment: Experiment, suite: str, task: str) -> dict[tuple[str, int], Expected]:
    """Return the variances between seeds, pooled over both tunings, by tuning and volume."""
    tasks = [name for of, name in SIZES if of == suite and task in ("*", name)]
    cells = []
    for tuning in TUNINGS:
        at = [Items(experiment, tuning, volume, suite, tasks).changes for volume in VOLUMES]
        means = np.array([np.mean([one.mean(axis=1) for one in changes], axis=0) for changes in at])
        cells.append((means, np.array([np.mean([(one**2).mean() for one in changes]) for changes in at])))
    if suite == "text":
        middle = np.mean([changed for _, changed in cells])
        cells = [(means, changed / middle) for means, changed in cells]
    found = expected(cells, sum(SIZES[suite, name] for name in tasks))
    return {(tuning, volume): one for tuning, of in zip(TUNINGS, found, strict=True) for volume, one in zip(VOLUMES, of, strict=True)}


def rederived(experiment: Experiment, tuning: str, volume: int, suite: str, task: str, spread: Expected) -> dict[str, Any]:
    """Return the numbers of a finding that do not depend on other findings."""
    tasks = [name for of, name in SIZES if of == suite and task in ("*", name)]
    items, binary = Items(experiment, tuning, volume, suite, tasks), suite != "text"
    before, after = items.means("before")[:, 0], items.means("after")
    row: dict[str, Any] = interval(items.changes, binary=binary, spread=spread) | {"seed_spread_pooled": math.sqrt(spread.pool)}
    row |= {"seed_spread_used": math.sqrt(spread.variance)}
    row |= {"n": sum(map(len, items.before)), "before": before.mean(), "after": after.mean(), "seeds": 3, "missing": 0, "level": 0.95}
    row |= {"seed_spread": (after - before[:, None]).mean(axis=0).std(ddof=1), "chance": CHANCE[suite], "numeric_spread": SPREAD[suite]}
    row |= {"delta_relative": ((after.mean(axis=0) - before.mean()) / before.mean()).mean(), "margin": 0.3 if suite == "text" else 0.02}
    earlier = [Items(experiment, tuning, one, suite, tasks).means("after") for one in VOLUMES if one <= volume]
    drops = np.mean([(before[:, None] - one) / before[:, None] for one in earlier]) * 100 * (1 if binary else -1)
    row |= {"fg_over_volumes": drops, "near_chance": False}
    steps = {"steps": volume / 8, "train_tokens": 10 * volume, "supervised_tokens": 4 * volume, "anchor_tokens": 0, "flops": 1e6 * volume}
    steps |= {"generated_tokens": 0, "extra_tokens": 0, "anchor_supervised_tokens": 0, "anchor_loss_share": 0}
    row |= steps | {"wall_seconds": 2.0, "peak_memory_bytes": 3e8, "train_loss": 1.5, "agreement": None}
    if not binary:
        return row | {"progress_lost": ((after[0] - before[0]) / (CHANCE["text"] - before[0])).mean()}
    near = (before.mean() - 0.25) <= 2 * math.sqrt(sum(old.var(ddof=1) / len(old) for old in items.before)) / len(before)
    row |= {"near_chance": near} | ({"delta_relative": None} if near else {})
    lost = np.array([((new - old) < 0).sum(axis=1) for old, new in zip(items.before, items.after, strict=True)])
    gained = np.array([((new - old) > 0).sum(axis=1) for old, new in zip(items.before, items.after, strict=True)])
    sizes = np.array([[len(old)] for old in items.before])
    by_chance = (1 - before[:, None]) * (1 - after) / 3  # four choices each
    return row | {
        "lost": lost.sum(axis=0).mean(),
        "gained": gained.sum(axis=0).mean(),
        "samplewise_forgetting": (lost / sizes).mean(),
        "backward_transfer": (gained / sizes).mean(),
        "samplewise_forgetting_true": (lost / sizes - by_chance).mean(),
        "backward_transfer_true": (gained / sizes - by_chance).mean(),
        "forgetting_ceiling": np.maximum((4 * before - 1) / 3, 0).mean(),
        **({"fg_over_volumes": None} if near else {}),
    }


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    ordered, highest, adjusted = sorted(p_values, key=lambda key: p_values[key]), 0.0, {}
    for rank, key in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p_values[key]))
        adjusted[key] = highest
    return adjusted


def detectable(half: float, freedom: float, tests: int) -> float:
    bar = distributions.t.ppf(1 - 0.025 / tests, freedom)
    shift = optimize.brentq(lambda nc: distributions.nct.sf(bar, freedom, nc) - 0.8, 0.0, 200.0)
    upper = math.sqrt(freedom / distributions.chi2.ppf(0.2, freedom)) if math.isfinite(freedom) else 1.0  # upper 80% limit of the error
    return float(shift * upper * half / distributions.t.ppf(0.975, freedom))


def every() -> Iterator[tuple[str, int, str, str]]:
    for tuning in TUNINGS:
        for volume in VOLUMES:
            for suite in ROLES:
                yield from ((tuning, volume, suite, task) for task in ["*", *(name for of, name in SIZES if of == suite)])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def close(got: Any, want: Any) -> bool:
    if want is None or pd.isna(want):
        return bool(pd.isna(got))
    return not pd.isna(got) and math.isclose(float(got), float(want), rel_tol=1e-6, abs_tol=1e-9)


def test_every_number_of_the_findings_follows_from_the_samples(experiment: Experiment, found: pd.DataFrame) -> None:
    """All numeric columns and verdicts of all rows agree.

    Holm's family is the three probe tasks of a point.
    """
    pools = {key: spreads(experiment, *key) for key in {where[2:] for where in every()}}
    plain = {where: rederived(experiment, *where, pools[where[2:]][where[:2]]) for where in every()}
    for tuning, volume, suite, task in plain:
        row = plain[tuning, volume, suite, task]
        family = {key: one["p_value"] for key, one in plain.items() if key[:2] == (tuning, volume) and key[2] != "people" and key[3] != "*"}
        leaf = (tuning, volume, suite, task) in family
        row["p_holm"] = holm(family)[tuning, volume, suite, task] if leaf else None
        row["tests"] = len(family) if leaf else None
        row["detectable"] = detectable((row["delta_high"] - row["delta_low"]) / 2, row["df"], len(family) if leaf else 1)
    assert len(found) == len(plain)
    wrong, seen = [], set()
    for row in records(found):
        where = (row["tuning"], row["volume"], row["suite"], row["task"])
        seen |= {name for name in plain[where] if plain[where][name] is not None}
        wrong += [(where, name, row[name], want) for name, want in plain[where].items() if not close(row[name], want)]
        decisive = plain[where]["p_holm"] or plain[where]["p_value"]
        inside = max(abs(plain[where]["delta_low"]), abs(plain[where]["delta_high"])) <= plain[where]["margin"]
        way = "gained" if (plain[where]["delta"] > 0) == (row["suite"] != "text") else "lost"
        assert row["spread_used"] == ("pooled" if pools[where[2:]][where[:2]].is_pooled else "own")
        assert row["verdict"] == ("kept" if inside else way if decisive < 0.05 else "not enough evidence")
    assert wrong == []
    labels = {"params_total", "params_trainable", "epochs", "learning_rate", "volume"}
    columns = [str(name) for name in found]
    one_seed = {name for name in columns if name.endswith(("_true_low", "_true_high"))} | {"p_mid"}
    unmeasured = {"control_delta", "agreement", "train_penalty", "coefficient"}
    unmeasured |= {"contrast", *(f"contrast_{name}" for name in ("low", "high", "p", "p_holm"))}
    unmeasured |= {"acceptance", "edit_rate", "target_nats"}
    numeric = {name for name in columns if pd.api.types.is_numeric_dtype(found[name]) and found[name].dtype != "boolean"}
    assert numeric - labels - one_seed - unmeasured - seen == set()
    assert found[sorted(one_seed | unmeasured)].isna().all(axis=None)


def points_of(experiment: Experiment, tuning: str) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Return gain and forgetting by volume and task, each by seed and item."""
    gain = [Items(experiment, tuning, volume, "people", ["city"]).changes for volume in VOLUMES]
    forgetting = [[-one for one in Items(experiment, tuning, volume, "known", ["age", "job"]).changes] for volume in VOLUMES]
    return gain, forgetting


def whole(tasks: list[np.ndarray]) -> float:
    return float(np.mean([one.mean() for one in tasks]))


def test_the_frontier_follows_from_the_samples(experiment: Experiment, found: pd.DataFrame) -> None:
    """Gain, forgetting and their intervals agree; nothing is off the frontier of the estimates."""
    plain, pools = {}, [spreads(experiment, suite, "*") for suite in ("people", "known")]
    for tuning in TUNINGS:
        gain, forgetting = points_of(experiment, tuning)
        for volume, up, down in zip(VOLUMES, gain, forgetting, strict=True):
            used = [pool[tuning, volume] for pool in pools]
            plain[tuning, volume] = (interval(up, binary=True, spread=used[0]), interval(down, binary=True, spread=used[1]))
    got = frontier(found, Changes(experiment))
    for row in records(got):
        here = (row["tuning"], row["volume"])
        gained, lost = plain[here]
        want = [side[name] for side in (gained, lost) for name in ("delta", "delta_low", "delta_high")]
        names = ["gain", "gain_low", "gain_high", "forgetting", "forgetting_low", "forgetting_high"]
        assert [row[name] for name in names] == pytest.approx(want)
        others = [(one["delta"], other["delta"]) for key, (one, other) in plain.items() if key != here] + [(0.0, 0.0)]
        assert row["frontier"] != "off" or any(g > gained["delta"] - 0.02 and f < lost["delta"] + 0.02 for g, f in others)
        assert (row["flops"], row["train_tokens"], row["steps"]) == (1e6 * here[1], 10 * here[1], here[1] / 8)
    assert len(got) == len(plain)


def test_equal_gain_follows_from_the_samples(experiment: Experiment, found: pd.DataFrame) -> None:
    """Reaches, means over many levels of gain, and their difference agree."""
    (row,) = records(equal_gain(table(experiment), Changes(experiment), DECLARED, findings=found))
    arms = [points_of(experiment, tuning) for tuning in TUNINGS]
    paths = [([0.0, *map(whole, gain)], [0.0, *map(whole, forgetting)]) for gain, forgetting in arms]
    reach = [max(gains) for gains, _ in paths]
    assert (row["first_reach"], row["second_reach"]) == pytest.approx(tuple(reach))
    assert (row["range_low"], row["range_high"]) == pytest.approx((min(reach) / 10, min(reach)))
    levels = min(reach) * (0.1 + 0.9 * (np.arange(20_000) + 0.5) / 20_000)
    means = []
    for gains, losses in paths:
        upper = np.array([next(i for i in range(1, 3) if gains[i] >= level) for level in levels])
        g, f = np.array(gains), np.array(losses)
        means.append(float(np.mean(f[upper - 1] + (f[upper] - f[upper - 1]) * (levels - g[upper - 1]) / (g[upper] - g[upper - 1]))))
    assert (row["first_forgetting"], row["second_forgetting"]) == pytest.approx(tuple(means), abs=1e-6)
    assert row["difference"] == pytest.approx(means[0] - means[1], abs=1e-6)
    half = (row["high"] - row["low"]) / 2
    assert (row["low"] + half, row["stderr"]) == pytest.approx((row["difference"], half / distributions.t.ppf(0.975, row["df"])))
    assert row["p_value"] == pytest.approx(2 * distributions.t.sf(abs(row["difference"]) / row["stderr"], row["df"]))
    assert (row["seeds"], row["level"], row["margin"], row["varies"]) == (3, 0.95, 0.02, "seeds and items")
