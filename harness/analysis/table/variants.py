"""Variants: the settings, or measurements, in which runs with equal labels differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHOWN_ELSEWHERE = {"seed", "trajectory", "volumes", "training.learning_rate", "training.epochs"}
"""Settings that have a column of their own."""

LABELS = ["model", "tuning", "objective", "mitigation", "data", "anchor", "trajectory", "epochs", "learning_rate", "seed"]


def variants(
    runs: Mapping[str, Mapping[str, Any]], identities: Mapping[str, Mapping[str, Any]], evaluations: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Return, by run, the settings in which it differs from runs with equal labels.

    Args:
        runs: run id → its row of labels (the columns LABELS).
        identities: run id → the identity in its record.
        evaluations: run id → suite → evaluation id. Seeds of one cell that are measured in
            different ways must not be averaged.

    Returns:
        Run id → text such as ``weight_decay=0.1``, or ``inputs.data=5f2c…`` for equal labels on
        other rows, or ``tinyworld=5f2c…`` for a suite that other seeds are measured on in another
        way; empty where no other run has equal labels.
    """
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for run_id in identities:
        alike[tuple(runs[run_id].get(name) for name in LABELS)].append(run_id)
    found = {group[0]: "" for group in alike.values() if len(group) == 1}  # not read: most runs are alone
    found |= {name: text for group in alike.values() if len(group) > 1 for name, text in _texts(group, identities).items()}
    measured = _measured_otherwise(runs, evaluations)
    return {run_id: ", ".join(filter(None, [text, measured.get(run_id, "")])) for run_id, text in found.items()}


def _measured_otherwise(runs: Mapping[str, Mapping[str, Any]], evaluations: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return, by run, the suites that other seeds of its cell are measured on differently."""
    cells: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for run_id in evaluations:
        cells[tuple(runs[run_id].get(name) for name in LABELS if name != "seed")].append(run_id)
    found: dict[str, list[str]] = defaultdict(list)
    for cell in cells.values():
        for suite in dict.fromkeys(suite for run_id in cell for suite in evaluations[run_id]):
            ids = {run_id: evaluations[run_id][suite] for run_id in cell if suite in evaluations[run_id]}
            if len(set(ids.values())) > 1:
                for run_id, evaluation_id in ids.items():
                    found[run_id].append(f"{suite}={evaluation_id[:8]}…")
    return {run_id: ", ".join(texts) for run_id, texts in found.items()}


def _texts(group: Sequence[str], identities: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    flat = {run_id: dict(_leaves(identities[run_id])) for run_id in group}
    keys = sorted({key for values in flat.values() for key in values} - SHOWN_ELSEWHERE)
    differ = [key for key in keys if len({repr(values.get(key)) for values in flat.values()}) > 1]
    return {run_id: ", ".join(f"{_short(key)}={_shown(values.get(key))}" for key in differ) for run_id, values in flat.items()}


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, plain value) for every leaf of nested mappings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else str(key))
    else:
        yield where, value


def _short(key: str) -> str:
    return key if key.startswith("inputs.") else key.rsplit(".", 1)[-1]


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:8]}…" if len(text) > 40 else text
