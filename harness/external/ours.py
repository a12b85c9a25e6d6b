"""This project's suites applied to tasks logged by lm-eval: metric and clusters of items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.config import paths
from harness.config.yaml_files import load_yaml
from harness.records.schema import cluster_field

GROUPS = ("blimp",)
"""Groups of lm-eval that a suite contains whole, and after which all their tasks are named."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The metric and filter by which a task is judged."""

    metric: str
    filter: str


def criterion(task: str, groups: Iterable[str]) -> Criterion | None:
    """Return the criterion of the suites with a task, or else with its group.

    None if no suite contains it, or if two suites have different criteria.
    """
    for name in (task, *groups):
        found = {Criterion(metric=str(suite.get("metric")), filter=str(suite.get("filter", "none"))) for suite in _suites_with(name)}
        if len(found) == 1:
            return found.pop()
    return None


def is_known(task: str, groups: Iterable[str]) -> bool:
    """Return whether a suite contains a task or its group: clusters are then known."""
    return any(_suites_with(name) for name in (task, *groups))


def cluster(task: str, groups: Iterable[str]) -> str | None:
    """Return the field by which the suites cluster a task's items.

    None if no suite does, or if two suites use different fields.
    """
    found = {field for name in (task, *groups) for suite in _suites_with(name) if (field := cluster_field(suite.get("cluster"), task))}
    return found.pop() if len(found) == 1 else None


def _suites_with(name: str) -> Sequence[Mapping[str, Any]]:
    """Return the suites that contain a task or group, or else the group of ``GROUPS`` of a task.

    Logs of single tasks of a group do not name the group.
    """
    known = _suites_by_task()
    return known.get(name) or known.get(next((group for group in GROUPS if name.startswith(f"{group}_")), ""), ())


@cache
def _suites_by_task() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return task or group → the suites that contain it, as in their files."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in paths.members("benchmarks/suites").values():
        suite = load_yaml(file)
        if suite.get("kind", "lm_eval") == "lm_eval":
            for task in suite.get("tasks") or ():
                found.setdefault(task, []).append(suite)
    return found
