"""Columns of changes, recomputed from samples with pandas, NumPy and SciPy alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from harness.analysis.table.frame import table
from harness.core.seeds import stream
from harness.records.store import Experiment
from harness.records.writer import ExperimentWriter
from tests.support.experiments import Task, write_run

ROLES = {"new": "target", "old": "probe"}
SIZES = {"facts": 60, "sums": 40, "guesses": 50}
CHOICES = {"facts": [4] * 60, "sums": [2, 3, 4, 5] * 10, "guesses": [4] * 50}
VOLUMES = (8, 16, 32)
OVER_TASKS = [
    "fg_over_volumes",
    "samplewise_forgetting",
    "backward_transfer",
    "samplewise_forgetting_true",
    "backward_transfer_true",
    "forgetting_ceiling",
    "progress_lost",
]
INTERVALS = [f"{name}_true_{end}" for name in ("samplewise_forgetting", "backward_transfer") for end in ("low", "high")]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment with two runs of three volumes.

    It has nats with a level of guessing, facts with chosen and generated answers, sums with 2 to 5
    choices, and a task near chance.
    """
    found = ExperimentWriter(tmp_path_factory.mktemp("results") / "exp")
    draws = stream(0, "test-columns")
    rates = {"facts": 0.8, "sums": 0.7, "guesses": 0.26}
    right = {task: (draws.random(n) < rates[task]).astype(float) for task, n in SIZES.items()}
    nats, weights = draws.gamma(4.0, 0.7, 30), draws.integers(3, 20, 30).astype(float)

    def tasks(values: dict[str, Any], nats: Any) -> list[Task]:
        loss: dict[str, Any] = {"metric": "nats_per_token", "higher_is_better": False, "chance": math.log(512)}
        old = [Task(suite="old", task=task, values=values[task], chances=[1 / k for k in CHOICES[task]]) for task in SIZES]
        other = Task(suite="old", task="facts_generated", values=values["written"], metric="exact_match", primary=False, chance=None)
        return [Task(suite="new", task="math", values=nats, weights=weights.tolist(), **loss), *old, other]

    before = tasks(right | {"written": right["facts"] * (draws.random(60) < 0.9)}, nats)
    for seed in (0, 1):
        points = {}
        for volume in VOLUMES:
            after = {task: np.where(draws.random(n) < 0.05 * math.log2(volume), 1 - right[task], right[task]) for task, n in SIZES.items()}
            written = after["facts"] * (draws.random(60) < 0.85)
            points[volume] = tasks(after | {"written": written}, nats * draws.uniform(0.7, 1.2, 30))
        write_run(found, f"r{seed}", before=before, points=points, roles=ROLES, seed=seed)
    return found


def derived(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """Yield the columns of every run, volume and task, computed from samples."""
    for folder in sorted((experiment.folder / "runs").iterdir()):
        record = json.loads((folder / "record.json").read_text())
        ids = record["evaluations"].values()
        old = pd.concat([experiment.measurement_samples(one, record["before_sha256"]) for one in ids])
        for volume in VOLUMES:
            weights = {v: json.loads((folder / "points" / str(v) / "point.json").read_text())["weights_sha256"] for v in VOLUMES}
            measured = {v: pd.concat([experiment.measurement_samples(one, weights[v]) for one in ids]) for v in VOLUMES}
            points = [(v, measured[v]) for v in VOLUMES if v <= volume]
            leaves = []
            for place, rows in old.groupby(["suite", "task"]):
                suite, task = map(str, place)
                metric = {"new": "nats_per_token", "old": "acc"}[suite] if not task.endswith("_generated") else "exact_match"
                series = [one[one["task"] == task].set_index("doc_hash").loc[rows["doc_hash"]] for _, one in points]
                row = leaf(rows.set_index("doc_hash"), series, metric)
                if metric == "exact_match":
                    chosen = points[-1][1].query("task == 'facts'").set_index("doc_hash")["metric.acc"]
                    row["protocol_agreement"] = float((chosen.loc[rows["doc_hash"]] == series[-1]["metric.exact_match"]).mean())
                leaves.append({"suite": suite, "task": task, "primary": metric != "exact_match"} | row)
            suites = [whole([row for row in leaves if row["suite"] == suite and row["primary"]]) for suite in ROLES]
            for row in [*leaves, *suites]:
                yield {"run_id": folder.name, "volume": volume} | row


def leaf(before: pd.DataFrame, series: list[pd.DataFrame], metric: str) -> dict[str, Any]:
    """Return the columns of one task.

    ``series`` has its items at the volumes so far, in the order of the items before.
    """
    weights = before[f"weight.{metric}"].to_numpy() if f"weight.{metric}" in before and metric != "acc" else np.ones(len(before))
    if np.isnan(weights).all():
        weights = np.ones(len(before))
    first, last = before[f"metric.{metric}"].to_numpy(), series[-1][f"metric.{metric}"].to_numpy()
    value, chance, n = np.sum(weights * first) / weights.sum(), before["chance"].mean(), len(first)
    error = math.sqrt(np.sum(weights**2 * (first - value) ** 2) * n / (n - 1)) / weights.sum()
    now = [np.sum(weights * one[f"metric.{metric}"].to_numpy()) / weights.sum() for one in series]
    sign = -1 if metric == "nats_per_token" else 1
    known = metric != "exact_match"
    near = bool(sign * (value - chance) <= 2 * error) if known else None
    row: dict[str, Any] = {"near_chance": near, "before": value, "error": error, "chance": chance if known else None, "n": n}
    row["delta"] = now[-1] - value
    row["delta_relative"] = None if near else (now[-1] - value) / value
    row["fg_over_volumes"] = None if near else 100 * np.mean([sign * (value - one) / value for one in now])
    if metric == "nats_per_token":
        return row | {"progress_lost": (now[-1] - value) / (chance - value)}
    counts = np.array([np.sum((first == a) & (last == b)) for a, b in [(1, 0), (0, 1), (1, 1), (0, 0)]], dtype=float)
    row |= {"samplewise_forgetting": counts[0] / n, "backward_transfer": counts[1] / n}
    smaller, total = int(counts[:2].min()), int(counts[:2].sum())
    row["p_mid"] = min(1.0, 2 * scipy_stats.binom.cdf(smaller, total, 0.5) - scipy_stats.binom.pmf(smaller, total, 0.5)) if total else 1.0
    if counts[0] == counts[1]:
        row["p_mid"] = 1 - scipy_stats.binom.pmf(smaller, total, 0.5) / 2
    if known:
        c = before["chance"].to_numpy()
        row |= {"counts": counts, "known": (value - chance) / (1 - chance), "chances": c}
        row["forgetting_ceiling"] = max(row["known"], 0.0)
        row |= beyond_chance([row])
    return row


def beyond_chance(tasks: list[dict[str, Any]]) -> dict[str, float]:
    """Return the columns adjusted for chance, with intervals by a numerical gradient."""

    def of(shares: np.ndarray, c: np.ndarray, which: int) -> float:
        guessed_before = 1 - (shares[0] + shares[2] - c.mean()) / (1 - c.mean())
        guessed_after = 1 - (shares[1] + shares[2] - c.mean()) / (1 - c.mean())
        return float(shares[which] - np.mean(c * (1 - c) * guessed_before * guessed_after))

    found: dict[str, float] = {}
    for which, name in enumerate(["samplewise_forgetting_true", "backward_transfer_true"]):
        values, centers, variances = [], [], []
        for task in tasks:
            counts, c, n = task["counts"], task["chances"], task["n"]
            shares = (counts + 1 / len(tasks)) / (n + 4 / len(tasks))
            step = 1e-6 * np.eye(4)
            slope = np.array([(of(shares + one, c, which) - of(shares - one, c, which)) / 2e-6 for one in step])
            # The four shares sum to one, so a common part of the slopes has no effect; the
            # covariance removes it.
            variances.append(slope @ (np.diag(shares) - np.outer(shares, shares)) @ slope / (n + 4 / len(tasks)))
            values.append(of(counts / n, c, which))
            centers.append(of(shares, c, which))
        half = scipy_stats.norm.ppf(0.975) * math.sqrt(sum(variances)) / len(tasks)
        value, center = float(np.mean(values)), float(np.mean(centers))
        found |= {name: value, f"{name}_low": min(center - half, value), f"{name}_high": max(center + half, value)}
    return found


def whole(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the columns of a suite: means over tasks, empty where one is empty."""
    row: dict[str, Any] = {"suite": tasks[0]["suite"], "task": "*"}
    for name in OVER_TASKS:
        values = [task.get(name) for task in tasks]
        row[name] = None if any(value is None for value in values) else np.mean([float(value) for value in values if value is not None])
    before, chance = np.mean([task["before"] for task in tasks]), np.mean([task["chance"] for task in tasks])
    error = math.sqrt(sum(task["error"] ** 2 for task in tasks)) / len(tasks)
    sign = -1 if row["suite"] == "new" else 1
    row["near_chance"] = bool(sign * (before - chance) <= 2 * error)
    row["delta_relative"] = np.mean([task["delta"] for task in tasks]) / before
    return row | (beyond_chance(tasks) if row["suite"] == "old" else {})


def test_the_columns_agree_with_the_samples(experiment: Experiment) -> None:
    """Each column of tasks and suites has the right value, or is rightly empty."""
    found = table(experiment).query("volume > 0").set_index(["run_id", "volume", "suite", "task"])
    names = [*OVER_TASKS, *INTERVALS, "delta_relative", "near_chance", "p_mid", "protocol_agreement"]
    seen = dict.fromkeys(names, 0)
    rows = list(derived(experiment))
    assert len(rows) == len(found) == 2 * 3 * 7
    for row in rows:
        place = row["run_id"], row["volume"], row["suite"], row["task"]
        for name in names:
            expected, value = row.get(name), found.loc[place, name]
            if expected is None:
                assert pd.isna(value), (place, name)
            else:
                seen[name] += 1
                assert value == pytest.approx(float(expected), rel=1e-6, abs=1e-9), (place, name)
    assert all(seen.values()), seen


def test_a_task_near_chance_has_no_relative_drop(experiment: Experiment) -> None:
    """The task that was guessed before is flagged, and its columns are empty.

    Its suite has no FG either, though the suite's own value is above chance.
    """
    found = table(experiment).query("volume > 0")
    guesses, suite = found[found["task"] == "guesses"], found[(found["task"] == "*") & (found["suite"] == "old")]
    assert guesses["near_chance"].all()
    assert guesses[["delta_relative", "fg_over_volumes"]].isna().all(axis=None)
    assert not suite["near_chance"].any()
    assert suite["fg_over_volumes"].isna().all()
    assert suite["delta_relative"].notna().all()
