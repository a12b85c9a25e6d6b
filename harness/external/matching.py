"""Logs of two models to two sides; different tasks, items or settings are rejected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from harness.analysis.statistics import stats
from harness.analysis.statistics.stats import Stratum
from harness.core.errors import RecordError, explain
from harness.external import logged, ours
from harness.external.logs import LoggedTask, Logs, Metric
from harness.external.ours import Criterion
from harness.external.sides import Measured, Side
from harness.records.schema import Score
from harness.report import words

SAME = "the same on both sides"
AGAIN = "evaluate both sides with the same versions and the same command, except for the model"

FACTS = {
    "lm_eval_version": "lm-eval",
    "inspect_ai": "inspect_ai",
    "backend": "backend",
    "dtype": "dtype",
    "batch_size": "batch size",
    "max_length": "longest input",
    "add_bos_token": "add_bos_token",
}
"""Settings that may differ, since the questions stay the same, but can move scores → their name in
the note."""

MAX_NAMES = 8
"""Of tasks in a note."""


def match(before: Logs, after: Logs) -> tuple[Side, Side, list[str]]:
    """Return both sides with the same suites, tasks, items and metrics, and notes.

    Raises:
        RecordError: if they have no task in common, or if a common task differs in version, shots,
            settings, items, prompts, choices or gold answers.
    """
    common = [name for name in before.tasks if name in after.tasks]
    if not common:
        got = f"{', '.join(sorted(before.tasks))} before and {', '.join(sorted(after.tasks))} after"
        raise RecordError(explain("tasks", got=got, allowed="at least one task in common", fix=AGAIN))
    notes = [*before.notes, *after.notes, *_one_sided(before, after), *_differences(before, after)]
    for name in common:
        _check(before.tasks[name], after.tasks[name], _why_prompts_differ(before, after))
    groups = _groups(before, after, common)
    criteria: dict[str, Criterion] = {}
    for name in common:
        criteria[name], left_out = _criterion(before.tasks[name], after.tasks[name], _groups_of(name, groups))
        notes += left_out
    mixed = {name: why for name, tasks in groups.items() if (why := _why_no_mean(name, tasks, criteria, before))}
    groups = {name: tasks for name, tasks in groups.items() if name not in mixed}
    notes += [*mixed.values(), *_about_groups(before, after, groups), *_about_items(before, common)]
    parts = {name: [*before.groups.get(name, ()), *after.groups.get(name, ())] for name in groups}
    missing = {name: tuple(sorted(set(parts[name]) - set(tasks))) for name, tasks in groups.items()}
    sides = [_side(one, groups, criteria, missing, _lacks(one, other)) for one, other in ((before, after), (after, before))]
    return sides[0], sides[1], list(dict.fromkeys([*notes, *_about_clusters(before, after, common)]))


def _lacks(one: Logs, other: Logs) -> tuple[str, ...]:
    """Return the tasks of the other side that this one lacks, with samples or without."""
    return tuple(sorted({*other.tasks, *other.without_samples} - set(one.tasks)))


def _about_groups(before: Logs, after: Logs, groups: Mapping[str, Sequence[str]]) -> list[str]:
    notes = []
    for name, tasks in groups.items():
        every = {*before.groups.get(name, ()), *after.groups.get(name, ())}
        if missing := sorted(every - set(tasks)):
            notes.append(f"{name}: the mean of {len(tasks)} of its {len(every)} tasks, without {', '.join(missing)}")
    return notes + (["groups are means over their tasks with equal weight; lm-eval may weight them by size"] if groups else [])


def _one_sided(before: Logs, after: Logs) -> list[str]:
    sides = {"before": (before, after), "after": (after, before)}
    missing = {name: sorted(set(one.tasks) - set(other.tasks)) for name, (one, other) in sides.items()}
    return [f"not compared, only {name}: {', '.join(tasks)}" for name, tasks in missing.items() if tasks]


def _differences(before: Logs, after: Logs) -> list[str]:
    """Return notes on settings that differ between the sides, but are not rejected."""
    found = []
    for name, shown in FACTS.items():
        one, other = before.facts.get(name), after.facts.get(name)
        if name in before.facts and name in after.facts and one != other:
            found.append(f"{shown} {one} before, {other} after: this alone can move scores")
    return found


def _why_prompts_differ(before: Logs, after: Logs) -> str:
    """Return the reason why prompts may differ, as far as the results files state it."""
    for name, cause in {"chat_template_sha": "chat template", "system_instruction_sha": "system instruction"}.items():
        one, other = before.facts.get(name), after.facts.get(name)
        if one != other:
            sides = "before only" if other is None else "after only" if one is None else "different on each side"
            return f" ({cause}: {sides})"
    return ""


def _check(before: LoggedTask, after: LoggedTask, why: str) -> None:
    """Reject a task that is not the same on both sides.

    Args:
        before: the task on one side.
        after: the task on the other side.
        why: the reason why prompts may differ; empty if unknown.

    Raises:
        RecordError: with the first difference.
    """
    where = f"task {before.name}"
    for name in [name for name in before.settings if name in after.settings]:
        if before.settings[name] != after.settings[name]:
            got = f"{before.settings[name]} before and {after.settings[name]} after"
            raise RecordError(explain(f"{where}: {name}", got=got, allowed=SAME, fix=AGAIN))
    if before.filters != after.filters and set(before.filters) != set(after.filters):
        got = f"{', '.join(before.filters)} before and {', '.join(after.filters)} after"
        raise RecordError(explain(f"{where}: filters", got=got, allowed=SAME, fix=AGAIN))
    one, other = _ordered(before.samples), _ordered(after.samples)
    if list(one.index) != list(other.index):
        shared = len(set(one.index) & set(other.index))
        got = f"{len(one)} before and {len(other)} after, {shared} of them the same"
        fix = "the same --limit or --samples on both sides, and the same data"
        raise RecordError(explain(f"{where}: items", got=got, allowed="the same items on both sides", fix=fix))
    for column, (difference, shown) in {
        "prompt_hash": (f"different prompts{why}", "prompt"),
        "target_hash": ("different gold answers", "target"),
        logged.CHOICES_HASH: (f"different texts to score or continue{why}", "choices"),
        logged.GENERATION: ("different settings of generation", logged.GENERATION),
    }.items():
        differ = one[column].to_numpy(dtype=object) != other[column].to_numpy(dtype=object)
        if count := int(np.sum(differ)):
            first = int(np.argmax(differ))
            example = _first_difference(str(one[shown].iloc[first]), str(other[shown].iloc[first]))
            got = f"{difference} for {count} of {len(one)} items, such as {example}"
            raise RecordError(explain(where, got=got, allowed=SAME, fix=AGAIN))


def _ordered(items: pd.DataFrame) -> pd.DataFrame:
    """Return the items by filter and document."""
    return items.set_index(["filter", "doc_hash"], drop=False).sort_index(kind="stable")


def _first_difference(one: str, other: str, width: int = 40) -> str:
    """Return both texts from shortly before their first difference."""
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, place - 10)
    return f"{one[start : start + width]!r} and {other[start : start + width]!r}"


def _groups(before: Logs, after: Logs, common: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return group → its tasks on both sides, for lm-eval's groups of either side."""
    every = {**after.groups, **before.groups}
    found = {name: tuple(task for task in leaves if task in common) for name, leaves in every.items()}
    return {name: tasks for name, tasks in found.items() if tasks}


def _why_no_mean(group: str, tasks: Sequence[str], criteria: Mapping[str, Criterion], logs: Logs) -> str:
    """Return a note if a group's tasks have no mean; empty if they do.

    They have none if their metrics have several units or directions.
    """
    metrics = {criteria[task].metric for task in tasks}
    better = {metric.higher_is_better for task in tasks for metric in logs.tasks[task].metrics if metric.name == criteria[task].metric}
    values = [logs.tasks[task].samples[f"metric.{criteria[task].metric}"].dropna() for task in tasks]
    shares = all(set(of_task) <= {0.0, 1.0} for of_task in values)
    if len(metrics) == 1 or (shares and len(better) == 1):
        return ""
    return f"group {group}: no mean over its tasks, which are judged by {', '.join(sorted(metrics))}"


def _groups_of(task: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    return [group for group, leaves in groups.items() if task in leaves]


def _criterion(before: LoggedTask, after: LoggedTask, groups: Sequence[str]) -> tuple[Criterion, list[str]]:
    """Return the criterion of a task, and a note per metric that is left out.

    It is that of this project's suites, or else the first metric that is a mean over items.

    Raises:
        RecordError: if no metric can be compared.
    """
    names = {metric.name for metric in after.metrics}
    shared = [metric.name for metric in before.metrics if metric.name in names]
    left_out = [*before.left_out, *(line for line in after.left_out if line not in before.left_out)]
    if not shared:
        got = "; ".join(left_out) or f"{', '.join(m.name for m in before.metrics)} before and {', '.join(names)} after"
        allowed = "one metric with a value per item, on both sides"
        raise RecordError(explain(f"task {before.name}: metrics", got=got, allowed=allowed, fix=AGAIN))
    own = ours.criterion(before.name, groups)
    if own and own.metric in shared and own.filter in before.filters:
        return own, left_out
    return Criterion(metric=shared[0], filter=before.filters[0]), left_out


def _about_clusters(before: Logs, after: Logs, common: Sequence[str]) -> list[str]:
    """Return notes on tasks whose clusters are unknown, so that items count as independent."""
    groups = {**after.groups, **before.groups}
    notes, unknown = [], []
    for name in common:
        sides = [before.tasks[name], after.tasks[name]]
        fields = {side.cluster for side in sides if side.cluster}
        if fields and not all(side.samples["cluster"].notna().any() for side in sides):
            why = f"this project's suites cluster its items by {', '.join(sorted(fields))}, which the documents of these samples lack"
            notes.append(f"{name}: {why}: items count as independent")
        elif not fields and not ours.is_known(name, _groups_of(name, groups)):
            unknown.append(name)
    if unknown:
        more = "if several items share a passage, intervals are too narrow (a suite file with `cluster` fixes this)"
        names = words.listed(unknown, MAX_NAMES)
        notes.append(f"no suite of this project contains {names}: items count as independent; {more}")
    return notes


def _about_items(before: Logs, common: Sequence[str]) -> list[str]:
    """Return notes on the items: equal documents, several answers per item."""
    notes = []
    for name in common:
        items = before.tasks[name].samples
        items = items[items["filter"] == items["filter"].iloc[0]]
        if repeated := int(items["doc_hash"].str.contains("#", regex=False).sum()):
            notes.append(f"{name}: {repeated} equal documents, distinguished by their numbers")
        if (drawn := int(items["repeats"].max())) > 1:
            notes.append(f"{name}: {drawn} answers per item, reduced to one value by the filter; their variation is not included")
    return notes


def _side(
    logs: Logs,
    groups: Mapping[str, Sequence[str]],
    criteria: Mapping[str, Criterion],
    missing: Mapping[str, tuple[str, ...]],
    lacks: tuple[str, ...],
) -> Side:
    found = {name: _measured(name, [logs.tasks[task] for task in tasks], criteria) for name, tasks in groups.items()}
    measured = {name: dataclasses.replace(one, missing=missing[name]) for name, one in found.items()}
    grouped = {task for tasks in groups.values() for task in tasks}
    for task in criteria:  # a task outside any group is a suite of its own
        if task not in grouped:
            measured[task] = dataclasses.replace(_measured(task, [logs.tasks[task]], criteria), whole=False)
    return Side(source=logs.source, model=logs.model, suites=measured, lacks=lacks, cached=bool(logs.facts.get("use_cache")))


def _measured(suite: str, tasks: Sequence[LoggedTask], criteria: Mapping[str, Criterion]) -> Measured:
    """Return the measurements of a suite: a score for every task, metric and filter."""
    frames = [task.samples.assign(suite=suite) for task in tasks]
    scores = [score for task, frame in zip(tasks, frames, strict=True) for score in _scores(suite, task, frame, criteria[task.name])]
    return Measured(scores=tuple(scores), samples=pd.concat(frames, ignore_index=True))


def _scores(suite: str, task: LoggedTask, items: pd.DataFrame, criterion: Criterion) -> list[Score]:
    """Return a score for every metric and filter of a task that has values."""
    found = []
    for name, rows in items.groupby("filter", sort=False):
        for metric in task.metrics:
            kept = rows[rows[f"metric.{metric.name}"].notna()]
            if len(kept):
                primary = (metric.name, name) == (criterion.metric, criterion.filter)
                found.append(_score(suite, task, metric, kept, is_primary=primary))
    return found


def _score(suite: str, task: LoggedTask, metric: Metric, items: pd.DataFrame, *, is_primary: bool) -> Score:
    values = items[f"metric.{metric.name}"].to_numpy(dtype=np.float64)
    weights = items[f"weight.{metric.name}"].to_numpy(dtype=np.float64) if f"weight.{metric.name}" in items else np.ones(len(values))
    stratum = Stratum(values, weights)
    error = stats.standard_error([stratum])
    return Score(
        suite=suite,
        task=task.name,
        metric=metric.name,
        filter=str(items["filter"].iloc[0]),
        primary=is_primary,
        n=len(values),
        value=stats.mean([stratum]),
        stderr=None if np.isnan(error) else error,
        chance=_chance(task, metric, items) if is_primary else None,
        higher_is_better=metric.higher_is_better,
    )


def _chance(task: LoggedTask, metric: Metric, items: pd.DataFrame) -> float | None:
    """Return the mean level of guessing of a multiple-choice metric that is right or wrong.

    None for other metrics.
    """
    chooses = task.settings.get("output_type", "multiple_choice") == "multiple_choice" and metric.name in logged.GUESSABLE
    if not chooses or not stats.is_binary(items[f"metric.{metric.name}"].to_numpy(dtype=np.float64)) or bool(items["chance"].isna().any()):
        return None
    return float(items["chance"].mean())
