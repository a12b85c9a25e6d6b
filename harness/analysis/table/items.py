"""Items whose outcome changed: prompt, target, answer before and answer after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.table.columns import SUITE_TASK
from harness.core.errors import RecordError, explain
from harness.records.store import Experiment

COLUMNS = {
    "suite": "string",
    "task": "string",
    "prompt": "string",
    "target": "string",
    "answer_before": "string",
    "answer_after": "string",
    "confidence_before": "Float64",
    "confidence_after": "Float64",
    "confidence_lost": "Float64",
    "outcome": "string",
}
"""Column → dtype. Confidence is the right choice's share of the probability of all choices, in
0..1; empty for generated answers."""

OF_RUNS = {"run_id": "string", "volume": "Int64", "role": "string"}
"""Further columns of the items of several runs: column → dtype."""

MOST_NAMED = 8
"""Most runs or volumes that an error names."""

_KEYS = ["suite", "task", "doc_hash"]
_BY_LENGTH = "acc_norm"


def items_of_runs(experiment: Experiment, table: pd.DataFrame, *, run_id: str | None = None, volume: int | None = None) -> pd.DataFrame:
    """Return the items of recorded runs that were lost or gained.

    Args:
        experiment: its results folder.
        table: its tidy table.
        run_id: only this run.
        volume: only this volume; None is each run's largest.

    Returns:
        Columns as in OF_RUNS and COLUMNS, by run.

    Raises:
        RecordError: if there is no such run or volume, or if the prompt or target of an item
            differs between before and after.
    """
    rows = table[table["primary"].fillna(value=False) & (table["volume"] > 0).fillna(value=False) & table["delta"].notna()]
    rows = _chosen(_chosen(rows, "run_id", run_id), "volume", volume)
    parts = []
    for one, group in rows.groupby("run_id", sort=False):
        last = group[group["volume"] == group["volume"].max()]
        at, role_of = int(last["volume"].iloc[0]), dict(zip(last["suite"], last["role"], strict=True))
        found = items_of_point(experiment, str(one), at, last)
        parts.append(found.assign(run_id=str(one), volume=at, role=found["suite"].map(role_of)))
    types = OF_RUNS | COLUMNS
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: pd.Series(dtype=object) for name in types})
    return whole[list(types)].astype(types)


def _chosen(rows: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    if value is None:
        return rows
    found = rows[rows[column] == value]
    if found.empty:
        known = rows[column].drop_duplicates().astype(str).tolist()
        allowed = ", ".join(known[:MOST_NAMED]) + (f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else "")
        raise RecordError(explain(f"items: {column}", got=repr(value), allowed=allowed or "none: nothing is measured yet"))
    return found


def items_of_point(experiment: Experiment, run_id: str, volume: int, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the items of a point that were lost or gained; none if its run has no record.

    Args:
        experiment: its results folder.
        run_id: its run.
        volume: its volume, above 0.
        rows: its suites and tasks, with ``suite``, ``task``, ``metric`` and ``filter`` of the
            primary metric, from the tidy table or the findings.

    Returns:
        As ``changed_items``.
    """
    record, point = experiment.glance("runs", run_id, "record.json"), experiment.point(run_id, volume)
    ids = {suite: found for suite, found in record.get("evaluations", {}).items() if suite in set(rows["suite"].astype(str))}
    if point is not None:
        ids = {suite: found for suite, found in ids.items() if experiment.measurement(found, point.weights_sha256)}
    if not ids or point is None:
        return _typed([])
    before = pd.concat([experiment.measurement_samples(found, record["before_sha256"]) for found in ids.values()])
    after = pd.concat([experiment.measurement_samples(found, point.weights_sha256) for found in ids.values()])
    metric_of = dict(zip(rows["suite"].astype(str), rows["metric"].astype(str), strict=True))
    leaves = rows[rows["task"] != SUITE_TASK]
    filter_of = dict(zip(leaves["task"].astype(str), leaves["filter"].astype(str), strict=True))
    return changed_items(before, after, metric_of, filter_of)


def changed_items(
    before: pd.DataFrame, after: pd.DataFrame, metric_of: Mapping[str, str], filter_of: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return the items that were lost (1 to 0) or gained (0 to 1).

    Args:
        before: samples, columns as in schema.SAMPLE_COLUMNS.
        after: samples of the same items.
        metric_of: task, or suite, → its metric. Other tasks, and metrics that are not 0 or 1, are
            left out.
        filter_of: task, or suite, → its answer filter; by default the only one, or the first by
            name.

    Returns:
        Columns as in COLUMNS; the largest loss of confidence first, then by suite, task and item.

    Raises:
        RecordError: if the prompt or target of an item differs between before and after.
    """
    old, new = (_measured(samples, metric_of, filter_of or {}) for samples in (before, after))
    both = old.merge(new, on=_KEYS, suffixes=("_before", "_after"))
    for name in ("prompt_hash", "target_hash"):
        if count := int((both[f"{name}_before"] != both[f"{name}_after"]).sum()):
            got = f"another {name.removesuffix('_hash')} for {count} items"
            raise RecordError(explain("changed items", got=got, allowed="the same before and after", fix="evaluate both again"))
    both = both[both["_value_before"].isin([0.0, 1.0]) & both["_value_after"].isin([0.0, 1.0])]
    both = both[both["_value_before"] != both["_value_after"]].sort_values(_KEYS, kind="stable")
    found = _typed([_row(item) for item in both.astype(object).to_dict("records")])
    return found.sort_values("confidence_lost", ascending=False, kind="stable", na_position="last", ignore_index=True)


def _typed(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame({name: [row[name] for row in rows] for name in COLUMNS}, dtype=object).astype(COLUMNS)


def _measured(samples: pd.DataFrame, metric_of: Mapping[str, str], filter_of: Mapping[str, str]) -> pd.DataFrame:
    """Return the samples that have a value of their metric, with ``_value`` and ``_metric``."""
    parts = []
    for (suite, task), rows in samples.groupby(["suite", "task"], sort=True):
        metric = metric_of.get(str(task), metric_of.get(str(suite), ""))
        if f"metric.{metric}" not in rows.columns:
            continue
        kept = rows[rows[f"metric.{metric}"].notna()]
        wanted = filter_of.get(str(task), filter_of.get(str(suite), min(kept["filter"], default="")))
        kept = kept[kept["filter"] == wanted]
        parts.append(kept.assign(_value=kept[f"metric.{metric}"].astype(float), _metric=metric))
    names = [*_KEYS, "prompt_hash", "target_hash", "prompt", "target", "choices", "log_likelihoods", "text", "_value", "_metric"]
    return pd.concat(parts)[names] if parts else pd.DataFrame({name: pd.Series(dtype=object) for name in names})


def _row(item: Mapping[Any, Any]) -> dict[str, Any]:
    right = _right(item["choices_before"], item["target_before"])
    choices = item["choices_before"]
    sides = {side: _shares(item[f"log_likelihoods_{side}"]) for side in ("before", "after")}
    confidence = {side: None if right is None or shares is None else float(shares[right]) for side, shares in sides.items()}
    lost = None if confidence["before"] is None or confidence["after"] is None else confidence["before"] - confidence["after"]
    return {
        "suite": item["suite"],
        "task": item["task"],
        "prompt": item["prompt_before"],
        "target": str(choices[right]).strip() if right is not None else str(item["target_before"]).strip(),
        "answer_before": _answer(item, "before"),
        "answer_after": _answer(item, "after"),
        "confidence_before": confidence["before"],
        "confidence_after": confidence["after"],
        "confidence_lost": lost,
        "outcome": "lost" if item["_value_before"] == 1.0 else "gained",
    }


def _right(choices: Any, target: Any) -> int | None:
    """Return the number of the choice that the target names by number or text."""
    if not isinstance(choices, Sized) or len(choices) < 2:
        return None
    text = str(target).strip()
    if text.isdigit() and int(text) < len(choices):
        return int(text)
    return next((i for i, choice in enumerate(_texts(choices)) if choice.strip() == text), None)


def _texts(choices: Any) -> Sequence[str]:
    return [str(choice) for choice in choices]


def _shares(log_likelihoods: Any) -> npt.NDArray[np.float64] | None:
    """Return the choices' shares of probability, shape (choices,); None for fewer than two."""
    if not isinstance(log_likelihoods, Sized) or len(log_likelihoods) < 2:
        return None
    scores = np.asarray(log_likelihoods, dtype=np.float64)
    weights = np.exp(scores - scores.max())
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def _answer(item: Mapping[Any, Any], side: str) -> str | None:
    """Return the likeliest choice (per character for acc_norm), or the generated text."""
    scores, text = item[f"log_likelihoods_{side}"], item[f"text_{side}"]
    if not isinstance(scores, Sized) or not isinstance(item[f"choices_{side}"], Sized) or len(scores) < 2:
        return text.strip() if isinstance(text, str) else None
    choices, found = _texts(item[f"choices_{side}"]), np.asarray(scores, dtype=np.float64)
    if item["_metric_before"] == _BY_LENGTH:
        found = found / np.array([max(1, len(choice.lstrip())) for choice in choices])
    return choices[int(np.argmax(found))].strip()
