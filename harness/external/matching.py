"""Two folders of lm-eval's output to two sides of a comparison.

What would compare different things is refused, with its reason.
"""

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
from harness.external.ours import Judged
from harness.external.sides import Measured, Side, some
from harness.records.schema import Score

SAME = "the same on both sides"
AGAIN = "evaluate both sides with one lm-eval, one command but for the model"

FACTS = {
    "lm_eval_version": "lm-eval",
    "backend": "backend",
    "dtype": "dtype",
    "batch_size": "batch size",
    "max_length": "longest input",
    "add_bos_token": "add_bos_token",
}
"""What may differ without another question being asked, but can move scores: said, not refused."""


def match(before: Logs, after: Logs) -> tuple[Side, Side, list[str]]:
    """Return both sides with the same suites, tasks, items and metrics, and what a reader must know.

    Raises:
        RecordError: where they have no task in common, or a common task differs in version, shots,
            settings, items, prompts, choices or gold answers.
    """
    common = [name for name in before.tasks if name in after.tasks]
    if not common:
        got = f"{', '.join(sorted(before.tasks))} before and {', '.join(sorted(after.tasks))} after"
        raise RecordError(explain("tasks", got=got, allowed="at least one task in common", fix=AGAIN))
    notes = [*before.notes, *after.notes, *_one_sided(before, after), *_differences(before, after)]
    for name in common:
        _check(before.tasks[name], after.tasks[name], _chat(before, after))
    groups = _groups(before, after, common)
    judged: dict[str, Judged] = {}
    for name in common:
        judged[name], said = _judged(before.tasks[name], after.tasks[name], _groups_of(name, groups))
        notes += said
    mixed = {name: why for name, tasks in groups.items() if (why := _alike(name, tasks, judged, before))}
    groups = {name: tasks for name, tasks in groups.items() if name not in mixed}
    notes += [*mixed.values(), *_about_groups(before, after, groups), *_about_items(before, after, common)]
    parts = {name: [*before.groups.get(name, ()), *after.groups.get(name, ())] for name in groups}
    missing = {name: tuple(sorted(set(parts[name]) - set(tasks))) for name, tasks in groups.items()}
    sides = [_side(one, groups, judged, missing, _lacks(one, other)) for one, other in ((before, after), (after, before))]
    return sides[0], sides[1], list(dict.fromkeys([*notes, *_about_clusters(before, after, common)]))


def _lacks(one: Logs, other: Logs) -> tuple[str, ...]:
    """Return the tasks of the other side that this one lacks.

    So may be one of which only the results are there, not the samples.
    """
    return tuple(sorted({*other.tasks, *other.bare} - set(one.tasks)))


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
    """Return what differs in how the sides were evaluated, where it is not refused."""
    found = []
    for name, shown in FACTS.items():
        one, other = before.facts.get(name), after.facts.get(name)
        if name in before.facts and name in after.facts and one != other:
            found.append(f"{shown} {one} before, {other} after: this alone can move scores")
    return found


def _chat(before: Logs, after: Logs) -> str:
    """Return why prompts may differ, as far as the results files say it."""
    for name, words in {"chat_template_sha": "chat template", "system_instruction_sha": "system instruction"}.items():
        one, other = before.facts.get(name), after.facts.get(name)
        if one != other:
            sides = "before only" if other is None else "after only" if one is None else "another on each side"
            return f" ({words}: {sides})"
    return ""


def _check(before: LoggedTask, after: LoggedTask, why: str) -> None:
    """Refuse a task that is not the same on both sides. Raises RecordError."""
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
    for column, (what, shown) in {
        "prompt_hash": (f"another prompt{why}", "prompt"),
        "target_hash": ("another gold answer", "target"),
        logged.CHOICES_HASH: (f"other texts to score or continue{why}", "choices"),
        logged.GENERATION: ("other settings of generation", logged.GENERATION),
    }.items():
        differ = one[column].to_numpy(dtype=object) != other[column].to_numpy(dtype=object)
        if count := int(np.sum(differ)):
            first = int(np.argmax(differ))
            example = _apart(str(one[shown].iloc[first]), str(other[shown].iloc[first]))
            got = f"{what} for {count} of {len(one)} items, such as {example}"
            raise RecordError(explain(where, got=got, allowed=SAME, fix=AGAIN))


def _ordered(items: pd.DataFrame) -> pd.DataFrame:
    """Return the items by filter and document."""
    return items.set_index(["filter", "doc_hash"], drop=False).sort_index(kind="stable")


def _apart(one: str, other: str, width: int = 40) -> str:
    """Return both texts from shortly before the place where they part."""
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, place - 10)
    return f"{one[start : start + width]!r} and {other[start : start + width]!r}"


def _groups(before: Logs, after: Logs, common: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return lm-eval's groups with their tasks, as far as both sides have them."""
    every = {**after.groups, **before.groups}
    found = {name: tuple(task for task in leaves if task in common) for name, leaves in every.items()}
    return {name: tasks for name, tasks in found.items() if tasks}


def _alike(group: str, tasks: Sequence[str], judged: Mapping[str, Judged], logs: Logs) -> str:
    """Return why the tasks of a group have no mean: metrics of several units or directions.

    Empty where they have one.
    """
    metrics = {judged[task].metric for task in tasks}
    better = {metric.higher_is_better for task in tasks for metric in logs.tasks[task].metrics if metric.name == judged[task].metric}
    values = [logs.tasks[task].samples[f"metric.{judged[task].metric}"].dropna() for task in tasks]
    shares = all(set(of_task) <= {0.0, 1.0} for of_task in values)
    if len(metrics) == 1 or (shares and len(better) == 1):
        return ""
    return f"group {group}: no mean over its tasks, which are judged by {', '.join(sorted(metrics))}"


def _groups_of(task: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    return [group for group, leaves in groups.items() if task in leaves]


def _judged(before: LoggedTask, after: LoggedTask, groups: Sequence[str]) -> tuple[Judged, list[str]]:
    """Return the metric and filter a task is judged by: those of our suite of the task, else the first that is a mean over items.

    Raises:
        RecordError: where no metric can be compared.
    """
    names = {metric.name for metric in after.metrics}
    shared = [metric.name for metric in before.metrics if metric.name in names]
    said = [*before.left_out, *(line for line in after.left_out if line not in before.left_out)]
    if not shared:
        got = "; ".join(said) or f"{', '.join(m.name for m in before.metrics)} before and {', '.join(names)} after"
        raise RecordError(explain(f"task {before.name}: metrics", got=got, allowed="one with a value an item, on both sides", fix=AGAIN))
    suite = ours.judged(before.name, groups)
    if suite and suite.metric in shared and suite.filter in before.filters:
        return suite, said
    return Judged(metric=shared[0], filter=before.filters[0]), said


def _about_clusters(before: Logs, after: Logs, common: Sequence[str]) -> list[str]:
    """Return of which tasks it is not known that items belong together, so that they count as independent."""
    groups = {**after.groups, **before.groups}
    notes, unknown = [], []
    for name in common:
        sides = [before.tasks[name], after.tasks[name]]
        fields = {side.cluster for side in sides if side.cluster}
        if fields and not all(side.samples["cluster"].notna().any() for side in sides):
            why = f"our suites cluster its items by {', '.join(sorted(fields))}, which the documents of these samples do not have"
            notes.append(f"{name}: {why}: they count as independent")
        elif not fields and not ours.is_known(name, _groups_of(name, groups)):
            unknown.append(name)
    if unknown:
        more = "if several ask about one passage, intervals are too narrow (a suite file with cluster: says so)"
        notes.append(f"no suite of ours asks for {some(unknown)}: their items count as independent; {more}")
    return notes


def _about_items(before: Logs, after: Logs, common: Sequence[str]) -> list[str]:
    """Return what a reader must know of the items: repeated documents, answers drawn several times, sides that are one."""
    notes = []
    for name in common:
        items = before.tasks[name].samples
        if repeated := int(items["doc_hash"].str.contains("#", regex=False).sum()):
            notes.append(f"{name}: {repeated} equal documents, told apart by their numbers")
        if (drawn := int(items["repeats"].max())) > 1:
            notes.append(f"{name}: {drawn} answers drawn an item, of which the filter makes one value; how much that varies is not shown")
    if all(_identical(before.tasks[name], after.tasks[name]) for name in common):
        cached = before.facts.get("use_cache") or after.facts.get("use_cache")
        why = ", and lm-eval's --use_cache was on, which does not tell models apart" if cached else ""
        notes.append(f"every answer is equal to the last digit: are the two sides one model{why}?")
    return notes


def _identical(before: LoggedTask, after: LoggedTask) -> bool:
    one, other = _ordered(before.samples), _ordered(after.samples)
    answers = ["log_likelihoods", "text"]
    return all(list(map(str, one[column])) == list(map(str, other[column])) for column in answers)


def _side(
    logs: Logs,
    groups: Mapping[str, Sequence[str]],
    judged: Mapping[str, Judged],
    missing: Mapping[str, tuple[str, ...]],
    lacks: tuple[str, ...],
) -> Side:
    found = {name: _measured(name, [logs.tasks[task] for task in tasks], judged) for name, tasks in groups.items()}
    measured = {name: dataclasses.replace(one, missing=missing[name]) for name, one in found.items()}
    grouped = {task for tasks in groups.values() for task in tasks}
    for task in judged:  # a task of no group is a suite of its own
        if task not in grouped:
            measured[task] = dataclasses.replace(_measured(task, [logs.tasks[task]], judged), whole=False)
    return Side(source=logs.source, model=logs.model, suites=measured, lacks=lacks)


def _measured(suite: str, tasks: Sequence[LoggedTask], judged: Mapping[str, Judged]) -> Measured:
    """Return the tasks of a suite with a score for every metric and filter."""
    frames = [task.samples.assign(suite=suite) for task in tasks]
    scores = [score for task, frame in zip(tasks, frames, strict=True) for score in _scores(suite, task, frame, judged[task.name])]
    return Measured(scores=tuple(scores), samples=pd.concat(frames, ignore_index=True))


def _scores(suite: str, task: LoggedTask, items: pd.DataFrame, judged: Judged) -> list[Score]:
    """Return a score for every metric and filter of a task that has a value."""
    found = []
    for name, rows in items.groupby("filter", sort=False):
        for metric in task.metrics:
            kept = rows[rows[f"metric.{metric.name}"].notna()]
            if len(kept):
                primary = (metric.name, name) == (judged.metric, judged.filter)
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
    """Return the mean level of guessing, where a choice among answers is right or wrong.

    None elsewhere.
    """
    chooses = task.settings.get("output_type", "multiple_choice") == "multiple_choice" and metric.name in logged.GUESSABLE
    if not chooses or not stats.is_binary(items[f"metric.{metric.name}"].to_numpy(dtype=np.float64)) or bool(items["chance"].isna().any()):
        return None
    return float(items["chance"].mean())
