"""Best learning rates, from a sweep evaluated on ``select`` items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.analysis.findings import rate_file
from harness.config.resolution import SearchedRate
from harness.config.strict import plain
from harness.core.errors import RecordError, explain
from harness.core.files import write_text
from harness.records.store import Experiment

HEADER = "# Learning rates found by `make search-lr` on the target's select items, never on those reported. One line a combination.\n"
KEYS = ["model", "tuning", "objective", "data", "mitigation"]


def require_select(experiment: Experiment) -> None:
    """Raise RecordError unless every current run was scored on ``select`` items.

    Reported items must never choose a rate.
    """
    for run_id in sorted(experiment.current()):
        items = experiment.config(run_id).get("evaluation", {}).get("items")
        if items != "select":
            fix = "sweep with evaluation.items=select"
            raise RecordError(explain(f"learning-rates: run {run_id}", got=f"{items} items", allowed="select items", fix=fix))


def best(table: pd.DataFrame) -> list[SearchedRate]:
    """Return the best rate of each combination of labels.

    It is the rate with the best mean over seeds of the target suite's primary metric at the largest
    volume. In a tie the smaller rate is chosen.

    Args:
        table: tidy table of a sweep over ``training.learning_rate`` with
            ``evaluation.items=select``.

    Raises:
        RecordError: if the table has no target suite, or no combination was run with two rates.
    """
    rows = table[(table["role"] == "target") & (table["task"] == "*") & (table["status"] == "ok") & (table["volume"] > 0)]
    found = [_best_of(group) for _, group in rows.groupby(KEYS, sort=True) if group["learning_rate"].nunique() > 1]
    if not found:
        fix = "harness sweep experiment=tiny_lr"
        raise RecordError(explain("learning-rates", got="no combination with two rates and a target suite", fix=fix))
    return found


def _best_of(group: pd.DataFrame) -> SearchedRate:
    last = group[group["volume"] == group["volume"].max()]
    suite = sorted(last["suite"].unique())[0]
    last = last[last["suite"] == suite]
    seeds = last.groupby("learning_rate")["seed"].nunique()
    complete = last["learning_rate"].isin(seeds[seeds == seeds.max()].index)  # a rate that failed on a seed is not a candidate
    means = last[complete].groupby("learning_rate")["value"].mean().astype(float).sort_index()
    rate = means.idxmax() if bool(last["higher_is_better"].iloc[0]) else means.idxmin()
    first = last.iloc[0]
    return SearchedRate(
        **{key: str(first[key]) for key in KEYS},
        learning_rate=float(rate),
        candidates=tuple(float(value) for value in means.index),
        suite=str(suite),
        metric=str(first["metric"]),
        score=round(float(means.loc[rate]), 6),
        volume=int(first["volume"]),
        seeds=tuple(sorted(int(seed) for seed in last["seed"].unique())),
    )


def as_yaml(rates: Sequence[SearchedRate]) -> str:
    """Return rates as the text of ``conf/learning_rates.yaml``, one JSON object per line."""
    entries = [plain(rate) for rate in rates]
    return HEADER + "rates:\n" + "".join(f"  - {json.dumps(entry)}\n" for entry in entries)


def merge(rates: Sequence[SearchedRate], file: Path) -> None:
    """Write rates into a file, replacing its entries for the same combinations only."""
    if file.exists():
        rate_file.merge(rates, file)
    else:
        write_text(file, as_yaml(rates).rstrip("\n"))
