"""Runs on disk that no command asks for any more, and the inputs that changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.identity import training_id
from harness.config.strict import plain
from harness.core.display import OUTPUT
from harness.core.errors import DamagedError
from harness.records.store import Experiment
from harness.run.preparation import Prepared


@dataclass(frozen=True, kw_only=True)
class Stale:
    """A run on disk that is no longer asked for.

    Attributes:
        superseded_by: the run that is asked for with the same labels and seed; empty if there is
            none.
        differs: the differences between the two, one ``key before -> after`` each.
    """

    id: str
    labels: Mapping[str, Any]
    seed: int
    superseded_by: str = ""
    differs: tuple[str, ...] = ()


def stale_runs(experiment: Experiment, asked: Sequence[Prepared]) -> list[Stale]:
    """Return the stale runs on disk, each with its successor and their differences."""
    stale = sorted({training_id(run_id) for run_id in experiment.run_ids()} - {prepared.run_id for prepared in asked})
    by_labels: dict[str, list[Prepared]] = {}
    for prepared in asked if stale else ():
        by_labels.setdefault(_same(plain(prepared.config.labels), prepared.config.seed), []).append(prepared)
    found = []
    for run_id in stale:
        try:
            record, config = experiment.glance("runs", run_id, "record.json"), experiment.config(run_id)
        except DamagedError as error:
            OUTPUT.error(f"harness: {error}")
            continue
        labels = record.get("labels") or config.get("labels") or {}
        seed = int(record.get("seed", config.get("seed", 0)))
        candidates = [(_differences(record, config, one), one.run_id) for one in by_labels.get(_same(labels, seed), [])]
        differs, successor = min(candidates, key=lambda pair: len(pair[0]), default=((), ""))
        found.append(Stale(id=run_id, labels=labels, seed=seed, superseded_by=successor, differs=tuple(differs)))
    return found


def _same(labels: Mapping[str, Any], seed: int) -> str:
    return json.dumps([{key: value for key, value in labels.items() if value is not None}, seed], sort_keys=True)


def _differences(record: Mapping[str, Any], config: Mapping[str, Any], prepared: Prepared) -> list[str]:
    """Return the differences between a run on disk and one that is asked for.

    Identities are compared if the run has a record, else configurations.
    """
    if record:
        return differences(record["identity"], prepared.identity)
    asked = plain(prepared.config)
    return differences({key: config.get(key) for key in asked}, asked, "", skip=("results", "save_weights", "labels", "declared"))


def differences(before: Any, after: Any, where: str = "", skip: Sequence[str] = ()) -> list[str]:
    """Return the differences between plain values, one ``key before -> after`` each.

    For a hash that is the key alone, since people cannot read it.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        dot = f"{where}." if where else ""
        keys = [key for key in dict.fromkeys((*before, *after)) if key not in skip]
        return [text for key in keys for text in differences(before.get(key), after.get(key), f"{dot}{key}")]
    if before == after or (isinstance(before, list | tuple) and list(before) == list(after or ())):
        return []
    is_hash = isinstance(before, str) and isinstance(after, str) and len(before) >= 12 and len(before) == len(after)
    return [where if is_hash else f"{where} {before} -> {after}"]
