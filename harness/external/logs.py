"""A folder of lm-eval's output: the newest samples of each task, and their settings."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.config import paths
from harness.core.errors import RecordError, explain
from harness.external import logged, one_model, ours, results_files

SAMPLES = re.compile(rf"samples_(?P<task>.+?)(?:_(?P<stamp>{results_files.STAMP}))?\.jsonl")

MEANS = frozenset({"mean", "nanmean"})
NO_MEANS = frozenset("perplexity word_perplexity byte_perplexity mcc f1 bleu chrf ter brier_score bypass".split())
"""Metrics whose score is not a mean over items unless the task says so; they cannot be paired."""

NEGATIVE = frozenset({"bits_per_byte"})
"""Metrics for which lower is better if no results file states the direction."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a task whose score is a mean over items."""

    name: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class LoggedTask:
    """One task of a folder.

    Attributes:
        name: of the task.
        file: its samples file.
        stamp: its timestamp; empty if the file's name has none.
        samples: one row per item and filter, as returned by ``logged.rows``.
        metrics: those that can be compared, in the task's order.
        left_out: a line per other metric, with the reason.
        settings: settings that must be equal on both sides, as far as a results file states them:
            version, num_fewshot, …
        cluster: field of the documents by which this project's suites cluster the items; None for
            independent items.
    """

    name: str
    file: Path
    stamp: str
    samples: pd.DataFrame
    metrics: tuple[Metric, ...]
    left_out: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    cluster: str | None = None

    @property
    def filters(self) -> list[str]:
        """Its filters, in lm-eval's order."""
        return list(dict.fromkeys(self.samples["filter"]))


@dataclass(frozen=True, kw_only=True)
class Logs:
    """The logs of one model: a folder of lm-eval's output, or logs of inspect_ai.

    Attributes:
        source: the folder or file, as the user typed it.
        model: name of the model, as in its results.
        tasks: name → its newest samples.
        groups: group → its leaf tasks, as in the results file.
        facts: settings of the evaluation on which all results files agree: lm_eval_version,
            backend, dtype, batch_size, …
        notes: on how the folder was read.
        without_samples: tasks with results but without samples.
    """

    source: str
    model: str
    tasks: Mapping[str, LoggedTask]
    groups: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    without_samples: tuple[str, ...] = ()


def read(source: str) -> Logs:
    """Read a folder of lm-eval's output.

    Raises:
        RecordError: if it has no samples, samples of two models or revisions, or samples that do
            not reproduce the scores of their results file.
    """
    folder = paths.expanded(source)
    every = dict(results_files.read(folder))
    found = sorted(_samples(folder))
    if not found:
        raise RecordError(_no_samples(source, folder, every.values()))
    model = one_model.name_of(source, every, [file for _, _, file in found])
    newest = {task: (stamp, file) for task, stamp, file in found}  # sorted: the last of each task is its newest
    notes = []
    if older := len(found) - len(newest):
        stamps = sorted({stamp for stamp, _ in newest.values()})
        notes.append(f"{source}: {older} older file(s) of the same tasks left out; the newest are of {', '.join(stamps)}")
    used = {(file.parent, stamp): every[file.parent, stamp] for stamp, file in newest.values() if (file.parent, stamp) in every}
    groups: dict[str, tuple[str, ...]] = {}
    for values in used.values():
        groups |= _groups(values)
    fields = {task: ours.cluster(task, [name for name, leaves in groups.items() if task in leaves]) for task in newest}
    tasks = {task: _task(task, *where, every.get((where[1].parent, where[0]), {}), fields[task]) for task, where in newest.items()}
    if unchecked := sorted(name for name, task in tasks.items() if not task.settings):
        notes.append(f"{source}: no results file for {', '.join(unchecked)}: version, shots and settings could not be checked")
    if unpaired := _without_samples(every.values(), tasks):
        notes.append(f"{source}: results without samples, not compared: {', '.join(unpaired)}")
    return Logs(
        source=source,
        model=model,
        tasks=tasks,
        groups=groups,
        facts=_facts(list(used.values())),
        notes=tuple(notes),
        without_samples=_without_samples(used.values(), tasks),
    )


def _no_samples(source: str, folder: Path, results: Collection[Mapping[str, Any]]) -> str:
    """Return a message about a folder without samples of a version that is read."""
    fix, allowed = "run lm-eval with --log_samples --output_path FOLDER", "lm-eval's samples; its results are not enough"
    got = "a directory without samples_*.jsonl"
    if any(_starts(file) == "[" for file in folder.rglob("*.jsonl")):
        got, allowed = "samples as JSON arrays, the layout of lm-eval 0.4.0 to 0.4.2", "samples of lm-eval 0.4.3 or newer"
        fix = "run a newer lm-eval with --log_samples --output_path FOLDER"
    elif any(values["results"] and not values["configs"] for values in results):
        got, allowed = "results of lm-eval 0.3, which writes no samples", "samples of lm-eval 0.4.3 or newer"
    return explain(source, got=got, allowed=allowed, fix=fix)


def _starts(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.read(1)


def _without_samples(results: Collection[Mapping[str, Any]], tasks: Collection[str]) -> tuple[str, ...]:
    """Return the tasks that results files have and ``tasks`` lacks."""
    return tuple(sorted({name for values in results for name in values["configs"]} - set(tasks)))


def _samples(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (task, timestamp, file) of every samples file."""
    for file in folder.rglob("samples_*.jsonl"):
        if match := SAMPLES.fullmatch(file.name):
            yield match["task"], match["stamp"] or "", file


def _groups(results: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return group → its leaf tasks; older versions also list tasks, without members.

    Raises RecordError for a group inside itself.
    """
    members: Mapping[str, Sequence[str]] = results["group_subtasks"]

    def leaves(name: str, above: tuple[str, ...] = ()) -> list[str]:
        if name in above:
            got = f"itself as a member ({' > '.join([*above, name])})"
            raise RecordError(explain(f"group_subtasks: {name}", got=got, allowed="tasks and other groups", fix="run lm-eval again"))
        below = members.get(name) or []
        return [leaf for part in below for leaf in (leaves(part, (*above, name)) if members.get(part) else [part])]

    return {name: tuple(dict.fromkeys(leaves(name))) for name, below in members.items() if below}


def _facts(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of the evaluation on which all results files agree."""
    found: list[dict[str, Any]] = []
    for values in results:
        config = values["config"]
        own = {name: values.get(name) for name in ["lm_eval_version", "chat_template_sha", "system_instruction_sha", "max_length"]}
        names = {"backend": "model", "dtype": "model_dtype", "batch_size": "batch_size", "limit": "limit", "use_cache": "use_cache"}
        found.append(
            own
            | {name: config.get(key) for name, key in names.items()}
            | {"add_bos_token": one_model.arguments(config).get("add_bos_token")}
        )
    return {name: found[0][name] for name in found[0] if all(one[name] == found[0][name] for one in found)} if found else {}


def _task(name: str, stamp: str, file: Path, results: Mapping[str, Any], cluster: str | None) -> LoggedTask:
    config = (results.get("configs") or {}).get(name, {})
    filters = [str(entry["name"]) for entry in config.get("filter_list") or [] if isinstance(entry, Mapping) and "name" in entry]
    samples = logged.rows(file, name, cluster, filters)
    metrics, left_out = _metrics(name, file, samples, config, results)
    settings = _settings(name, config, results)
    return LoggedTask(
        name=name, file=file, stamp=stamp, samples=samples, metrics=metrics, left_out=left_out, settings=settings, cluster=cluster
    )


def _settings(name: str, config: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that affect item scores, as far as the results file states them.

    Prompts and answers are not among them: they are compared as texts.
    """
    stated = {"version": (results.get("versions") or {}).get(name), "num_fewshot": (results.get("n-shot") or {}).get(name)}
    stated["num_fewshot"] = config.get("num_fewshot") if stated["num_fewshot"] is None else stated["num_fewshot"]
    stated |= {key: config.get(key) for key in ["output_type", "repeats", "generation_kwargs", "filter_list"]}
    metrics = [entry for entry in config.get("metric_list") or [] if isinstance(entry, Mapping)]
    aggregated = {"aggregation", "higher_is_better"}  # these affect the score, not the items
    stated["metric_list"] = [{key: value for key, value in entry.items() if key not in aggregated} for entry in metrics] or None
    return {key: plain(value) for key, value in stated.items() if value is not None}


def plain(value: Any) -> str:
    """Return a setting as text that does not depend on the process.

    Addresses of functions are removed; 1, 1.0 and "1.0" are equal.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return f"{float(value):.15g}"
        except ValueError:
            pass
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _metrics(
    task: str, file: Path, samples: pd.DataFrame, config: Mapping[str, Any], results: Mapping[str, Any]
) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Return the metrics that are means over items, and a reason for each other one.

    Listed metrics come first, in the task's order.
    """
    listed = {str(entry["metric"]): entry for entry in config.get("metric_list") or [] if isinstance(entry, Mapping) and "metric" in entry}
    logged_names = logged.metric_names(samples)
    unpaired = [name for name in [*listed, *_recorded_names(task, results)] if name not in logged_names]
    left_out = dict.fromkeys(unpaired, "no number per item")
    recorded = (results.get("results") or {}).get(task) or {}
    better = (results.get("higher_is_better") or {}).get(task) or {}
    kept = []
    for name in [*(name for name in listed if name in logged_names), *(name for name in logged_names if name not in listed)]:
        aggregation = listed.get(name, {}).get("aggregation")
        if samples[f"metric.{name}"].isna().all():
            left_out[name] = "NaN for every item"
        elif name != "bits_per_byte" and ((aggregation or "mean") not in MEANS or (aggregation is None and name in NO_MEANS)):
            left_out[name] = f"its score is not a mean over items ({aggregation or name})"
        elif _reproduces(samples, name, recorded, file, aggregation or ""):
            stated = better.get(name, listed.get(name, {}).get("higher_is_better"))
            kept.append(Metric(name=name, higher_is_better=name not in NEGATIVE if stated is None else bool(stated)))
        else:
            left_out[name] = "its score is not the mean of its items"
    return tuple(kept), tuple(f"{task}: {name} left out: {reason}" for name, reason in left_out.items())


def _recorded_names(task: str, results: Mapping[str, Any]) -> list[str]:
    keys = ((results.get("results") or {}).get(task) or {}).keys()
    return [key.split(",")[0] for key in keys if "," in key and not key.split(",")[0].endswith("_stderr")]


def _reproduces(samples: pd.DataFrame, metric: str, recorded: Mapping[str, Any], file: Path, aggregation: str) -> bool:
    """Return whether the mean of a metric's items is its recorded score, for every filter.

    Raises RecordError if it is not, though the task states that the score is a mean; or if it
    cannot be, since an item has no finite number.
    """
    for name, rows in samples.groupby("filter", sort=False):
        score = recorded.get(f"{metric},{name}", recorded.get(metric))
        values = rows[f"metric.{metric}"].to_numpy(dtype=float)
        weights = rows[f"weight.{metric}"].to_numpy(dtype=float) if f"weight.{metric}" in rows else np.ones(len(values))
        known = ~np.isnan(values)
        odd = np.isinf(values) | (~known & known.any() & (aggregation == "mean"))
        if odd.any():
            got = f"{odd.sum()} of {len(odd)} items whose {metric} (filter {name}) is NaN or infinite"
            raise RecordError(explain(str(file), got=got, allowed="numbers", fix=logged.DIVERGED))
        if not isinstance(score, int | float) or isinstance(score, bool) or not known.any():
            continue
        value = float(np.average(values[known], weights=weights[known]))
        if not abs(value - score) <= 1e-6 * max(1.0, abs(value)):
            if aggregation in MEANS:
                got = f"items whose mean {metric} (filter {name}) is {value:.6g}"
                fix = "the files are damaged or of two runs: run lm-eval again"
                raise RecordError(explain(str(file), got=got, allowed=f"{score:.6g}, the score in its results file", fix=fix))
            return False
    return True
