"""What the suites of this harness say of a task that lm-eval logged: how it is judged, and which of its items belong together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.config import composition, paths
from harness.records.schema import cluster_field


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a task is judged by."""

    metric: str
    filter: str


def judged(task: str, groups: Iterable[str]) -> Judged | None:
    """Return how our suites that ask for a task, or else for a group of it, judge it.

    None where none asks or two do not agree.
    """
    for name in (task, *groups):
        found = {Judged(metric=str(suite.get("metric")), filter=str(suite.get("filter", "none"))) for suite in _of(name)}
        if len(found) == 1:
            return found.pop()
    return None


def is_known(task: str, groups: Iterable[str]) -> bool:
    """Say whether a suite of ours asks for a task, or for a group of it: it then says whether items of it belong together."""
    return any(_of(name) for name in (task, *groups))


def cluster(task: str, groups: Iterable[str]) -> str | None:
    """Return the field by which our suites cluster a task's items.

    None where none does, or two by other fields.
    """
    found = {field for name in (task, *groups) for suite in _of(name) if (field := cluster_field(suite.get("cluster"), task))}
    return found.pop() if len(found) == 1 else None


def _of(name: str) -> Sequence[Mapping[str, Any]]:
    return _asking().get(name, ())


@cache
def _asking() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return task or group → the suites that ask for it, as their files have them."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in paths.members("benchmarks/suites").values():
        suite = composition.load_yaml(file)
        if suite.get("kind", "lm_eval") == "lm_eval":
            for task in suite.get("tasks") or ():
                found.setdefault(task, []).append(suite)
    return found
