"""Runs on disk that are not asked for any more, and why: which of their inputs changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.identity import training_id
from harness.config.strict import plain
from harness.records.store import Experiment
from harness.run.preparation import Prepared


@dataclass(frozen=True, kw_only=True)
class Stale:
    """A run on disk that is not asked for any more.

    Attributes:
        superseded_by: the run that is asked for with the same labels and seed; empty where there is
            none.
        differs: what is different between the two, one ``key before -> after`` each.
    """

    id: str
    labels: Mapping[str, Any]
    seed: int
    superseded_by: str = ""
    differs: tuple[str, ...] = ()


def stale_runs(experiment: Experiment, asked: Sequence[Prepared]) -> list[Stale]:
    """Return the runs on disk that no command would touch again, each with the run that takes its place and how they differ."""
    stale = sorted({training_id(run_id) for run_id in experiment.run_ids()} - {prepared.run_id for prepared in asked})
    by_labels: dict[str, list[Prepared]] = {}
    for prepared in asked if stale else ():
        by_labels.setdefault(_same(plain(prepared.config.labels), prepared.config.seed), []).append(prepared)
    found = []
    for run_id in stale:
        record, config = experiment.glance("runs", run_id, "record.json"), experiment.config(run_id)
        labels = record.get("labels") or config.get("labels") or {}
        seed = int(record.get("seed", config.get("seed", 0)))
        candidates = [(_differences(record, config, one), one.run_id) for one in by_labels.get(_same(labels, seed), [])]
        differs, successor = min(candidates, key=lambda pair: len(pair[0]), default=((), ""))
        found.append(Stale(id=run_id, labels=labels, seed=seed, superseded_by=successor, differs=tuple(differs)))
    return found


def _same(labels: Mapping[str, Any], seed: int) -> str:
    return json.dumps([{key: value for key, value in labels.items() if value is not None}, seed], sort_keys=True)


def _differences(record: Mapping[str, Any], config: Mapping[str, Any], prepared: Prepared) -> list[str]:
    """Name what differs between a run on disk and one that is asked for: of what decides its numbers, else of its configuration."""
    if record:
        return differences(record["identity"], prepared.identity)
    asked = plain(prepared.config)
    return differences({key: config.get(key) for key in asked}, asked, "", skip=("results", "save_weights", "labels", "declared"))


def differences(before: Any, after: Any, where: str = "", skip: Sequence[str] = ()) -> list[str]:
    """Return what differs between plain values, one ``key before -> after`` each.

    Of hashes the key alone, they tell people nothing.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        dot = f"{where}." if where else ""
        keys = [key for key in dict.fromkeys((*before, *after)) if key not in skip]
        return [text for key in keys for text in differences(before.get(key), after.get(key), f"{dot}{key}")]
    if before == after or (isinstance(before, list | tuple) and list(before) == list(after or ())):
        return []
    is_hash = isinstance(before, str) and isinstance(after, str) and len(before) >= 12 and len(before) == len(after)
    return [where if is_hash else f"{where} {before} -> {after}"]
