"""Variants: the settings in which runs with equal labels differ."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHOWN_ELSEWHERE = {"seed", "trajectory", "volumes", "training.learning_rate", "training.epochs"}
"""Settings that have a column of their own."""

SUITES = "suite_definitions"

LABELS = ["model", "tuning", "objective", "mitigation", "data", "anchor", "trajectory", "epochs", "learning_rate", "seed"]


def variants(runs: Mapping[str, Mapping[str, Any]], identities: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return, by run, the settings in which it differs from runs with equal labels.

    Args:
        runs: run id → its row of labels (the columns LABELS).
        identities: run id → the identity in its record.

    Returns:
        Run id → text such as ``weight_decay=0.1`` or, for equal labels on other rows,
        ``inputs.data=5f2c…``; empty where no other run has equal labels.
    """
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for run_id in identities:
        alike[tuple(runs[run_id].get(name) for name in LABELS)].append(run_id)
    alone = {group[0]: "" for group in alike.values() if len(group) == 1}  # not read: most runs are alone
    return alone | {name: text for group in alike.values() if len(group) > 1 for name, text in _texts(group, identities).items()}


def _texts(group: Sequence[str], identities: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    flat = {run_id: dict(_leaves(_with_suites_named(identities[run_id]))) for run_id in group}
    keys = sorted({key for values in flat.values() for key in values} - SHOWN_ELSEWHERE)
    differ = [key for key in keys if len({repr(values.get(key)) for values in flat.values()}) > 1]
    if {"target_suites", "probe_suites"} & set(differ):  # other suites imply other definitions
        differ = [key for key in differ if key != SUITES]
    return {run_id: ", ".join(f"{_short(key)}={_shown(values.get(key))}" for key in differ) for run_id, values in flat.items()}


def _with_suites_named(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the definitions of the suites by their names and one hash of the definitions."""
    inputs = dict(identity.get("inputs", {}))
    suites = {role: inputs.pop(role, {}) for role in ("target_suites", "probe_suites")}
    names = {role: "+".join(sorted(found)) or "none" for role, found in suites.items()}
    digest = hashlib.sha256(json.dumps(suites, sort_keys=True).encode()).hexdigest()
    return {**identity, "inputs": inputs, **names, SUITES: digest}


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
