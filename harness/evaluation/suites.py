"""Suites: ``benchmarks/suites/*.yaml`` and lm-eval's tasks; the items that a suite uses."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.config import paths
from harness.config.strict import Part, build, check, plain
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, EvaluationError, did_you_mean, explain
from harness.core.rows import Split
from harness.core.seeds import permutation
from harness.evaluation import task_index
from harness.records.schema import OWN_METRICS

NATS = "nats_per_token"
"""Metric of likelihood suites and of multiple choice: nats of the gold answer per token."""

ITEM_SEED = 0
"""One seed for the items of all experiments, so that their scores are on the same items."""


@dataclass(frozen=True, kw_only=True)
class Suite(Part):
    """A set of tasks with one primary metric.

    Attributes:
        kind: ``lm_eval``: lm-eval tasks; ``likelihood``: likelihood of gold answers;
            ``divergence``: divergence of the model from its base.
        tasks: lm-eval task or group names (``kind: lm_eval``); a group means its leaf tasks.
        data, split: rows that the other kinds score: a member of conf/data, or the run's own
            ``target`` or ``anchor``.
        text: answers that a divergence suite is on: ``gold``, or sampled by the ``base`` or
            ``tuned`` model.
        max_new_tokens: limit of sampled text, in tokens.
        num_fewshot: worked examples before each question; null for each task's own number.
        metric, filter: the primary metric, as named by lm-eval (or ``OWN_METRICS``); of multiple
            choice also ``acc_per_token`` and ``nats_per_token``.
        chance: ``choices`` (1 / number of choices of each item), a number in 0..1, or null if
            guessing has no level, or one that follows from metric and model (``nats_per_token``:
            ln(vocabulary)).
        report: number of reported items of a task, null for all; ``select``: number of further
            ones, on which choices may be made. Or leaf task → its number, if tasks differ; a task
            without an entry reports all and selects on none.
        overlap: ``expected`` if the suite asks for the rows that are taught.
        protocols: how each multiple-choice item is asked; ``generation``: also with an answer
            written by the model, reported apart.
        cluster: field of a task's documents, such as ``passage``: items with the same value form a
            cluster, which intervals take into account. A document without the field has none. Or
            leaf task → its field, if tasks differ; a task without an entry has no clusters.
    """

    name: str
    kind: Literal["lm_eval", "likelihood", "divergence"] = "lm_eval"
    tasks: tuple[str, ...] = ()
    data: str | None = None
    split: Split = "test"
    text: Literal["gold", "base", "tuned"] = "gold"
    max_new_tokens: int | None = None
    num_fewshot: int | None = 0
    metric: str
    filter: str = "none"
    higher_is_better: bool = True
    chance: Any = "choices"
    report: Any = None
    select: Any = 0
    overlap: Literal["report", "expected"] = "report"
    protocols: tuple[Literal["loglikelihood", "generation"], ...] = ("loglikelihood",)
    cluster: Any = None

    def __post_init__(self) -> None:
        """Check ranges, and the settings that the kind needs."""
        where = f"suite {self.name}"
        is_level = isinstance(self.chance, int | float) and not isinstance(self.chance, bool) and 0 <= self.chance <= 1
        check(f"{where}: chance", self.chance, "choices, null, or a number in [0, 1]", lambda v: v is None or v == "choices" or is_level)
        self._check_numbers(f"{where}: report", self.report, "null or an integer greater than 0", lambda v: v is None or _is_count(v, 1))
        self._check_numbers(f"{where}: select", self.select, "an integer of 0 or greater", lambda v: _is_count(v, 0))
        check(f"{where}: num_fewshot", self.num_fewshot, "null, or 0 or greater", lambda v: v is None or v >= 0)
        protocols = [["loglikelihood"], *([["loglikelihood", "generation"]] if self.kind == "lm_eval" else [])]
        allowed = " or ".join(f"[{', '.join(one)}]" for one in protocols)
        check(f"{where}: protocols", list(self.protocols), allowed, lambda value: value in protocols)
        check(f"{where}: cluster", self.cluster, "nothing for a suite that scores rows", lambda v: v is None or self.kind == "lm_eval")
        allowed = "the name of a field, or a mapping of leaf tasks to such names"
        check(f"{where}: cluster", self.cluster, allowed, lambda v: v is None or _is_cluster(v))
        if self.kind == "lm_eval" and not self.tasks:
            raise ConfigError(explain(f"{where}: tasks", got="none", allowed="at least one lm-eval task name"))
        if self.kind == "lm_eval" and self.metric == NATS:
            check(f"{where}: higher_is_better", self.higher_is_better, f"false for {NATS}", lambda value: not value)
            check(f"{where}: chance", self.chance, f"null for {NATS}, which has a level of itself", lambda value: value is None)
        if self.kind != "lm_eval":
            self._check_own(where)

    def _check_numbers(self, where: str, value: Any, allowed: str, accept: Callable[[Any], bool]) -> None:
        """Check a number of items, or one for each named task."""
        if self.kind == "lm_eval":
            allowed = f"{allowed}, or a mapping of leaf tasks to such numbers"
        named = value if isinstance(value, Mapping) and value and self.kind == "lm_eval" else {"": value}
        check(where, value, allowed, lambda _: all(accept(number) for number in named.values()))

    def numbers(self, task: str) -> tuple[int, int | None]:
        """Return how many ``select`` and ``report`` items a leaf task has; None for all others."""
        select, report = (part.get(task) if isinstance(part, Mapping) else part for part in (self.select, self.report))
        return select or 0, report

    def _check_own(self, where: str) -> None:
        """Check the settings of the kinds other than ``lm_eval``."""
        if not self.data:
            raise ConfigError(explain(f"{where}: data", got="nothing", allowed="a member of conf/data, target or anchor"))
        metrics = OWN_METRICS[self.kind]
        fix = did_you_mean(self.metric, metrics)
        check(f"{where}: metric", self.metric, ", ".join(metrics), lambda value: value in metrics, fix)
        higher = metrics[self.metric]
        check(f"{where}: higher_is_better", self.higher_is_better, f"{higher} for {self.metric}", lambda value: value is higher)
        check(f"{where}: text", self.text, "gold for a likelihood suite", lambda value: value == "gold" or self.kind == "divergence")
        samples = self.text != "gold"
        allowed = "greater than 0 for sampled text" if samples else "nothing for gold text"
        check(f"{where}: max_new_tokens", self.max_new_tokens, allowed, lambda v: v is not None and v > 0 if samples else v is None)

    @property
    def filter_name(self) -> str:
        """The filter in its scores: lm-eval's, or the ``text`` of a divergence suite."""
        return self.text if self.kind == "divergence" else self.filter

    def identity(self) -> dict[str, Any]:
        """Return what decides its scores next to its tasks as they are built, or its rows.

        That is how scores are computed from the items, and lm-eval's version.
        """
        unused = {"overlap", "report", "select", "tasks", "num_fewshot", "protocols", "data", "split"}
        unused |= set() if self.kind == "divergence" else {"text", "max_new_tokens"}
        unused |= set() if self.cluster else {"cluster"}
        values: dict[str, Any] = {key: value for key, value in plain(self).items() if key not in unused}
        if self.kind != "lm_eval":
            return values | {"metrics": list(OWN_METRICS[self.kind])}
        return values | {"lm_eval": importlib.metadata.version("lm_eval")}


def load(name: str) -> Suite:
    """Return a suite by name: a file of benchmarks/suites, or else a task, group or tag of lm-eval.

    Raises ConfigError with the known names, or if a task has no metric to pair items by.
    """
    known = paths.members("benchmarks/suites")
    values = load_yaml(known[name]) if name in known else task_index.criterion(name)
    if values is None:
        _, forced, task = name.rpartition(task_index.FORCED)
        near = did_you_mean(task, task_index.names(forced=True) if forced else [*known, *task_index.names()])
        allowed = f"{', '.join(known)}, or a task, group or tag of lm-eval (`harness list lm_eval`)"
        near = near.replace("'", f"'{task_index.FORCED}", 1) if forced else near
        near = paths.not_on_path("benchmarks/suites", name) or near
        fix = " or ".join(filter(None, [near, task_index.unreadable(task)])) or "one of your own: harness new suite NAME"
        raise ConfigError(explain("suite", got=repr(name), allowed=allowed, fix=fix))
    suite: Suite = build(Suite, values | {"name": name}, f"suite {name}")
    return suite


def _is_cluster(value: Any) -> bool:
    parts = [*value, *value.values()] if isinstance(value, Mapping) else [value]
    return bool(parts) and all(isinstance(part, str) and part for part in parts)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class Chosen(list[int]):
    """Ascending document numbers, and how many documents were skipped as they repeat another."""

    repeated: int = 0


def choose(
    suite: Suite,
    task: str,
    size: int,
    doc_hash: Callable[[int], str],
    role: Literal["report", "select"],
    limit: int | None = None,
    cluster: Callable[[int], str | None] | None = None,
) -> Chosen:
    """Choose the items of a task, seeded; ``select`` and ``report`` share no item and no cluster.

    A document that repeats another one is skipped, and counted. Where items cluster, the first
    clusters that hold enough items are kept for ``select``, and their other items are not used.

    Args:
        suite: gives the numbers of ``select`` and ``report`` items.
        task: name of a leaf task or data set.
        size: number of its documents.
        doc_hash: document number → content hash.
        role: one of the two sets.
        limit: most items; None for no limit. Those of a smaller limit are among those of a larger.
        cluster: document number → its cluster, or None for one by itself; None if none cluster.
    """
    select, report = suite.numbers(task)
    if role == "select" and not select:
        fix = f"set select in benchmarks/suites/{suite.name}.yaml"
        raise EvaluationError(explain(f"suite {suite.name}: select", got="0 items", allowed="at least one item to choose on", fix=fix))
    reported = min(size if report is None else report, size if limit is None else limit)
    order = permutation(ITEM_SEED, size, "items", task)
    own = _own_clusters(order, doc_hash, cluster, select) if cluster and select else None
    parts: dict[str, list[int]] = {"select": [], "report": []}
    seen: set[str] = set()
    repeated = 0
    for index in order:
        if len(parts["select"]) == select and len(parts["report"]) == reported:
            break
        if (content := doc_hash(index)) in seen:
            repeated += 1
            continue
        seen.add(content)
        to_select = len(parts["select"]) < select if own is None else index in own
        part, most = ("select", select) if to_select else ("report", reported)
        if len(parts[part]) < most:
            parts[part].append(index)
    chosen = parts[role][:limit]
    if not chosen:
        got = f"{len(seen)} distinct items"
        raise EvaluationError(
            explain(f"suite {suite.name}, task {task}", got=got, allowed=f"more than the {select} items kept for selection")
        )
    found = Chosen(sorted(chosen))
    found.repeated = repeated
    return found


def _own_clusters(order: Sequence[int], doc_hash: Callable[[int], str], cluster: Callable[[int], str | None], select: int) -> set[int]:
    """Return the documents of the first clusters, in the order given, that hold enough items."""
    members: dict[str, dict[str, list[int]]] = {}
    for index in order:
        content = doc_hash(index)
        members.setdefault(cluster(index) or content, {}).setdefault(content, []).append(index)
    found: set[int] = set()
    count = 0
    for copies in members.values():
        if count >= select:
            break
        count += len(copies)
        found.update(index for same in copies.values() for index in same)
    return found
