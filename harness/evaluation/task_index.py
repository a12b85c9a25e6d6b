"""lm-eval's tasks by name: the index of their files, and what a suite of one is made of.

A task's settings are read from its file, so its data need not be there.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import paths
from harness.config.yaml_files import LimitedLoader
from harness.core.errors import ConfigError, explain
from harness.models.weights import first_line

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

FORCED = "lm_eval:"
"""Before a name: the task of lm-eval, not our suite or task of the same name."""

ITEM_MEANS = frozenset({"mean", "nanmean", "bits_per_byte"})
"""Aggregations of lm-eval that are means, or ratios of sums, over items."""

GUESSABLE = frozenset({"acc", "acc_norm", "acc_bytes"})
"""Metrics of multiple choice for which guessing scores 1 / number of choices."""


@dataclass(frozen=True)
class Leaf:
    """A task of lm-eval, from its settings.

    Attributes:
        metrics: those whose score is a mean over items, in order → whether higher is better.
        others: metrics whose score is not.
        filters: names of its answer filters, in order.
        is_choice: whether guessing one of its choices is right once in their number.
    """

    name: str
    metrics: Mapping[str, bool]
    others: Sequence[str]
    filters: Sequence[str]
    is_choice: bool


def task_folders() -> list[Path]:
    """Return the folders of our lm-eval task files and the user's."""
    return paths.folders("benchmarks/tasks")


@functools.cache
def _ours() -> TaskManager:
    """Index our task files and the user's, which takes no time."""
    return _manager(include_path=[str(folder) for folder in task_folders()], include_defaults=False)


@functools.cache
def _theirs() -> TaskManager:
    """Index lm-eval's thousands of task files, which takes about six seconds."""
    return _manager()


def _both() -> TaskManager:
    """Return the index of all task files; as in lm-eval, ours replace its own of the same name."""
    both = copy.copy(_theirs())
    both._index = {**both.task_index, **_ours().task_index}
    return both


def _manager(**arguments: Any) -> TaskManager:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval import utils
    from lm_eval.tasks import TaskManager, _yaml_loader

    from harness.core.sandbox import LimitedEnvironment, limited

    if not isinstance(utils.env, LimitedEnvironment):
        utils.env = limited(utils.env)
        _yaml_loader._Base = type("Loader", (LimitedLoader, _yaml_loader._Base), {})
    try:
        return TaskManager(**arguments)
    except Exception as error:
        where = ", ".join(arguments.get("include_path", ["lm-eval's tasks"]))
        allowed, fix = "task files that lm-eval can read", "correct their yaml"
        raise ConfigError(explain(where, got=first_line(error), allowed=allowed, fix=fix)) from error


def manager_for(name: str, *, forced: bool = False) -> TaskManager | None:
    """Return the smallest index with a task, group or tag; None if there is none.

    Args:
        name: of the task, group or tag.
        forced: only lm-eval's own files count.
    """
    if not forced and name in _ours().task_index and _is_whole(_ours().task_index, name):
        return _ours()
    everything = _theirs() if forced else _both()
    return everything if name in everything.task_index else None


def _is_whole(index: Mapping[str, Any], name: str, above: Sequence[str] = ()) -> bool:
    """Return whether an index has all tasks that a group of it names.

    Raises ConfigError for a group inside itself; ``above`` are the groups that it is in.
    """
    entry = index[name]
    if name in above:
        raise ConfigError(
            explain(f"group {name}", got=f"itself as a member ({' > '.join([*above, name])})", allowed="tasks and other groups")
        )
    if entry.kind.name == "TAG":
        return all(_is_whole(index, task, [*above, name]) for task in entry.tags)
    return entry.kind.name != "GROUP" or _has_members(index, entry.cfg, [*above, name])


def _has_members(index: Mapping[str, Any], group: Mapping[str, Any], above: Sequence[str]) -> bool:
    for item in group.get("task") or []:
        name = _name_of(item)
        inline = not isinstance(item, str) and "group" in item
        if not (_is_whole(index, name, above) if name in index else inline and _has_members(index, item, above)):
            return False
    return True


def _name_of(item: Any) -> str:
    """Return the name of an entry of a group's list."""
    return str(item if isinstance(item, str) else item.get("group", item.get("task")))


def names(*, forced: bool = False) -> Mapping[str, str]:
    """Return every task, group and tag by name → its kind; with ``forced``, lm-eval's alone."""
    kinds = {"PY_TASK": "task"}
    index = (_theirs() if forced else _both()).task_index
    return {name: kinds.get(index[name].kind.name, index[name].kind.name.lower()) for name in sorted(index)}


def unreadable(name: str) -> str:
    """Return advice on a task file that lm-eval leaves out, first one of this name; or nothing."""
    _ours()
    from lm_eval.tasks import _yaml_loader

    files = (file for folder in task_folders() for file in folder.rglob("*.yaml"))
    for file in sorted(files, key=lambda file: (file.stem != name, file)):
        try:
            _yaml_loader.load_yaml(file, resolve_func=False)
        except Exception as error:  # noqa: BLE001 - lm-eval leaves out a file for any of them
            return f"correct {file} ({(str(error) or type(error).__name__).splitlines()[0].removesuffix(f' in {file}')})"
    return ""


def criterion(name: str) -> dict[str, Any] | None:
    """Return the values of a suite of one task, group or tag; None if it does not exist.

    The primary metric is the first that a group aggregates and all of its tasks have, or else the
    first of a task's own; the filter likewise. A metric counts if its score is a mean over items.

    Args:
        name: as typed, possibly with ``lm_eval:`` before it.

    Raises:
        ConfigError: if no metric is a mean over items, or its tasks share none.
    """
    task, forced = name.removeprefix(FORCED), name.startswith(FORCED)
    manager = manager_for(task, forced=forced)
    if manager is None:
        return None
    try:
        leaves = list(_leaves(manager.task_index, task, {}))
    except ConfigError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # lm-eval's index has the yaml unchecked
        fix = "correct metric_list, filter_list or output_type in the yaml of the task"
        raise ConfigError(explain(f"task {task}", got=first_line(error), allowed="settings as lm-eval reads them", fix=fix)) from error
    metric, filter_name = _primary(name, leaves, _declared(manager.task_index[task].cfg or {}))
    directions = {leaf.metrics[metric] for leaf in leaves}
    if len(directions) > 1:
        raise _rejected(name, f"{metric}, for which higher is better in some tasks and lower in others", "one direction")
    is_choice = metric in GUESSABLE and all(leaf.is_choice for leaf in leaves)
    return {
        "tasks": [task],
        "num_fewshot": None,
        "metric": metric,
        "filter": filter_name,
        "higher_is_better": directions.pop(),
        "chance": "choices" if is_choice else None,
    }


def _primary(name: str, leaves: Sequence[Leaf], declared: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the metric and the filter that all leaf tasks have."""
    for leaf in leaves:
        if not leaf.metrics:
            got = f"task {leaf.name} with " + (", ".join(leaf.others) or "metrics that its Python code defines")
            raise _rejected(name, got, "tasks with a metric whose score is a mean over items, which can be paired")
    own = [(metric, filter_name) for metric in leaves[0].metrics for filter_name in leaves[0].filters]
    for metric, filter_name in (*declared, *own):
        if all(metric in leaf.metrics and filter_name in leaf.filters for leaf in leaves):
            return metric, filter_name
    got = "tasks without a common metric and filter: " + ", ".join(dict.fromkeys("/".join(leaf.metrics) for leaf in leaves))
    raise _rejected(name, got, "a group whose tasks share them")


def _rejected(name: str, got: str, allowed: str) -> ConfigError:
    fix = "one of its tasks, or a file in benchmarks/suites that names tasks, metric and filter"
    return ConfigError(explain(f"suite {name}", got=got, allowed=allowed, fix=fix))


def _declared(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (metric, filter) pairs that a group aggregates."""
    given = config.get("aggregate_metric_list") or []
    found = []
    for entry in [given] if isinstance(given, Mapping) else given:
        filters = entry.get("filter_list") or "none"
        found += [(str(entry.get("metric")), str(one)) for one in ([filters] if isinstance(filters, str) else filters)]
    return found


def _leaves(index: Mapping[str, Any], name: str, changes: Mapping[str, Any]) -> Iterator[Leaf]:
    """Yield the leaf tasks of a task, group or tag, as lm-eval's factory builds them.

    Settings next to a group's list of tasks, and those of an entry of the list, replace a task's
    own.
    """
    entry = index[name]
    if entry.kind.name == "TAG":
        for task in sorted(entry.tags):
            yield from _leaves(index, task, changes)
    elif entry.kind.name == "GROUP":
        yield from _members(index, name, entry.cfg, changes)
    else:
        yield _leaf({**entry.cfg, **changes, "task": name})


def _members(index: Mapping[str, Any], group: str, config: Mapping[str, Any], changes: Mapping[str, Any]) -> Iterator[Leaf]:
    """Yield the leaf tasks of a group from its settings."""
    from lm_eval.config.group import GroupConfig

    of_group = {field.name for field in dataclasses.fields(GroupConfig)}
    shared = {key: value for key, value in config.items() if key not in of_group} | dict(changes)
    for item in config.get("task") or []:
        own = {} if isinstance(item, str) else {key: value for key, value in item.items() if key != "group"}
        name = _name_of(item)
        if isinstance(item, str) and name not in index:
            raise ConfigError(
                explain(f"group {group}: task", got=repr(name), allowed="a task, group or tag of lm-eval or of benchmarks/tasks")
            )
        if name in index:
            yield from _leaves(index, name, shared | own)
        elif not isinstance(item, str) and "group" in item:
            yield from _members(index, f"{group}::{name}", item, shared)
        else:
            yield _leaf({**shared, **own, "task": f"{group}::{name}"})


def _leaf(config: Mapping[str, Any]) -> Leaf:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    kind, by_code = config.get("output_type", "generate_until"), "class" in config
    given = config.get("metric_list") or ([] if by_code else [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[kind]])
    metrics, others = {}, []
    for entry in given:
        name, is_mean, better = _metric(entry)
        if better is None:
            where, fix = f"task {config['task']}: metric {name}", "higher_is_better in the metric_list of its yaml"
            raise ConfigError(explain(where, got="no higher_is_better", allowed="true or false", fix=fix))
        if is_mean and not by_code:
            metrics[name] = better
        else:
            others.append(name)
    return Leaf(
        name=str(config["task"]),
        metrics=metrics,
        others=others,
        filters=[one["name"] for one in config.get("filter_list") or []] or ["none"],
        is_choice=kind == "multiple_choice" and not config.get("process_results") and "acc_mutual_info" not in metrics,
    )


def _metric(entry: Mapping[str, Any]) -> tuple[str, bool, bool | None]:
    """Return a metric's name, whether it is a mean over items, and whether higher is better.

    None where neither the task nor lm-eval says so.
    """
    from lm_eval.api.registry import get_metric_aggregation, is_higher_better

    name = _last(entry["metric"])
    aggregation = entry["aggregation"] if "aggregation" in entry else getattr(get_metric_aggregation(name), "__name__", "")
    better = entry["higher_is_better"] if "higher_is_better" in entry else is_higher_better(name)
    return name, _last(aggregation) in ITEM_MEANS, None if better is None else bool(better)


def _last(name: Any) -> str:
    """Return a name, or the name of a function that is given as the path of its file."""
    return str(name).rpartition(".")[2] if "/" in str(name) else str(name)
