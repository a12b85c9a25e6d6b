"""A folder of lm-eval's output: the newest samples of each task, and what the results files beside them say of how they were made."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.core.errors import RecordError, explain
from harness.external import logged, ours, results_files

SAMPLES = re.compile(rf"samples_(?P<task>.+?)(?:_(?P<stamp>{results_files.STAMP}))?\.jsonl")

MEANS = frozenset({"mean", "nanmean"})
NO_MEANS = frozenset("perplexity word_perplexity byte_perplexity mcc f1 bleu chrf ter brier_score bypass".split())
"""Metrics whose score is no mean over items unless the task says so: nothing can be paired."""

NEGATIVE = frozenset({"bits_per_byte"})
"""Metrics that are better when smaller, where no results file says it."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a task whose score is a mean over items."""

    name: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class LoggedTask:
    """One task of a folder.

    Attributes:
        samples: one row an item and filter, as ``logged.rows`` gives them.
        metrics: those that can be compared, in the task's order.
        left_out: others, each with the reason.
        settings: what must be the same on both sides, as far as a results file says it: version,
            num_fewshot, …
        cluster: field of the documents by which our suite clusters the items; None where no suite
            of ours does.
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
    """A folder of lm-eval's output.

    Attributes:
        model: what was evaluated, as the results file calls it.
        tasks: name → the newest samples.
        groups: group → its leaf tasks, as the results file says.
        bare: tasks that a results file used here has, and whose samples are not here.
        facts: how it was evaluated: lm_eval_version, backend, dtype, batch_size, …, where all
            results files agree.
        notes: what a reader must know of how the folder was read.
    """

    source: str
    model: str
    tasks: Mapping[str, LoggedTask]
    groups: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    bare: tuple[str, ...] = ()


def read(source: str) -> Logs:
    """Read a folder of lm-eval's output.

    Raises:
        RecordError: where it holds no samples, those of two models, or samples that do not give the
            scores of their results file.
    """
    folder = Path(source).expanduser()
    every = dict(results_files.read(folder))
    found = sorted(_samples(folder))
    if not found:
        fix = "run lm-eval with --log_samples --output_path FOLDER"
        raise RecordError(explain(source, got="no samples_*.jsonl", allowed="lm-eval's samples, not its results alone", fix=fix))
    model = _the_model(source, every.values(), [file for _, _, file in found])
    newest = {task: (stamp, file) for task, stamp, file in found}  # sorted: the last of each task is its newest
    notes = []
    if older := len(found) - len(newest):
        stamps = sorted({stamp for stamp, _ in newest.values()})
        notes.append(f"{source}: {older} older file(s) of the same tasks left out; used are those of {', '.join(stamps)}")
    used = {(file.parent, stamp): every[file.parent, stamp] for stamp, file in newest.values() if (file.parent, stamp) in every}
    groups: dict[str, tuple[str, ...]] = {}
    for values in used.values():
        groups |= _groups(values)
    fields = {task: ours.cluster(task, [name for name, leaves in groups.items() if task in leaves]) for task in newest}
    tasks = {task: _task(task, *where, every.get((where[1].parent, where[0]), {}), fields[task]) for task, where in newest.items()}
    if bare := sorted(name for name, task in tasks.items() if not task.settings):
        notes.append(f"{source}: no results file beside {', '.join(bare)}: version, shots and settings could not be checked")
    if bare := sorted({name for values in every.values() for name in values["configs"]} - set(tasks)):
        notes.append(f"{source}: results without samples, not compared: {', '.join(bare)}")
    return Logs(
        source=source,
        model=model,
        tasks=tasks,
        groups=groups,
        facts=_facts(list(used.values())),
        notes=tuple(notes),
        bare=tuple(sorted({name for values in used.values() for name in values["configs"]} - set(tasks))),
    )


def _samples(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (task, timestamp, file) of every samples file."""
    for file in folder.rglob("samples_*.jsonl"):
        if match := SAMPLES.fullmatch(file.name):
            yield match["task"], match["stamp"] or "", file


def _the_model(source: str, every: Collection[Mapping[str, Any]], files: Sequence[Path]) -> str:
    """Return the one model of a folder.

    Raises RecordError where there are two: which one is meant?
    """
    names = sorted({name for values in every if (name := _model_name(values))})
    places = sorted({str(file.parent) for file in files})
    if len(names) > 1 or (len(places) > 1 and not names):
        got = f"samples of {len(names or places)} models ({', '.join(names or places)})"
        raise RecordError(explain(source, got=got, allowed="one model's", fix=f"name one of its folders: {', '.join(places)}"))
    return names[0] if names else Path(places[0]).name


def _model_name(results: Mapping[str, Any]) -> str:
    named = results.get("model_name")
    arguments = results["config"].get("model_args")
    if isinstance(arguments, Mapping):
        arguments = ",".join(f"{key}={value}" for key, value in arguments.items())
    found = dict(part.split("=", 1) for part in str(arguments or "").split(",") if "=" in part)
    return str(named or next((found[key] for key in ("peft", "delta", "pretrained", "model", "path") if key in found), ""))


def _groups(results: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return group → its leaf tasks; older versions also list tasks, with nothing under them."""
    members: Mapping[str, Sequence[str]] = results["group_subtasks"]

    def leaves(name: str) -> list[str]:
        below = members.get(name) or []
        return [leaf for part in below for leaf in (leaves(part) if members.get(part) else [part])]

    return {name: tuple(dict.fromkeys(leaves(name))) for name, below in members.items() if below}


def _facts(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how the tasks were evaluated, where all results files say the same."""
    found: list[dict[str, Any]] = []
    for values in results:
        config = values["config"]
        own = {name: values.get(name) for name in ["lm_eval_version", "chat_template_sha", "system_instruction_sha", "max_length"]}
        names = {"backend": "model", "dtype": "model_dtype", "batch_size": "batch_size", "limit": "limit", "use_cache": "use_cache"}
        found.append(own | {name: config.get(key) for name, key in names.items()} | {"add_bos_token": _argument(config, "add_bos_token")})
    return {name: found[0][name] for name in found[0] if all(one[name] == found[0][name] for one in found)} if found else {}


def _argument(config: Mapping[str, Any], name: str) -> Any:
    arguments = config.get("model_args")
    if isinstance(arguments, Mapping):
        return arguments.get(name)
    return dict(part.split("=", 1) for part in str(arguments or "").split(",") if "=" in part).get(name)


def _task(name: str, stamp: str, file: Path, results: Mapping[str, Any], cluster: str | None) -> LoggedTask:
    samples = logged.rows(file, name, cluster)
    config = (results.get("configs") or {}).get(name, {})
    metrics, left_out = _metrics(name, file, samples, config, results)
    settings = _settings(name, config, results)
    return LoggedTask(
        name=name, file=file, stamp=stamp, samples=samples, metrics=metrics, left_out=left_out, settings=settings, cluster=cluster
    )


def _settings(name: str, config: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    """Return what decides the items' scores and is no text of theirs.

    Only what the results file says.
    """
    stated = {"version": (results.get("versions") or {}).get(name), "num_fewshot": (results.get("n-shot") or {}).get(name)}
    stated["num_fewshot"] = config.get("num_fewshot") if stated["num_fewshot"] is None else stated["num_fewshot"]
    stated |= {key: config.get(key) for key in ["output_type", "repeats", "generation_kwargs", "filter_list"]}
    metrics = [entry for entry in config.get("metric_list") or [] if isinstance(entry, Mapping)]
    aggregated = {"aggregation", "higher_is_better"}  # of the score, not of an item
    stated["metric_list"] = [{key: value for key, value in entry.items() if key not in aggregated} for entry in metrics] or None
    return {key: _plain(value) for key, value in stated.items() if value is not None}


def _plain(value: Any) -> str:
    """Return a setting without what differs between processes: addresses of functions.

    1 and 1.0 and "1.0" are one version.
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
    """Return the metrics that are means over items, the task's own order first, and why others are left out."""
    listed = {str(entry["metric"]): entry for entry in config.get("metric_list") or [] if isinstance(entry, Mapping) and "metric" in entry}
    there = logged.metric_names(samples)
    unpaired = [name for name in [*listed, *_recorded_names(task, results)] if name not in there]
    left_out = dict.fromkeys(unpaired, "no number an item")
    recorded = (results.get("results") or {}).get(task) or {}
    better = (results.get("higher_is_better") or {}).get(task) or {}
    kept = []
    for name in [*(name for name in listed if name in there), *(name for name in there if name not in listed)]:
        aggregation = listed.get(name, {}).get("aggregation")
        if name != "bits_per_byte" and ((aggregation or "mean") not in MEANS or (aggregation is None and name in NO_MEANS)):
            left_out[name] = f"its score is no mean over items ({aggregation or name})"
        elif _gives(samples, name, recorded, file, states_mean=aggregation in MEANS):
            stated = better.get(name, listed.get(name, {}).get("higher_is_better"))
            kept.append(Metric(name=name, higher_is_better=name not in NEGATIVE if stated is None else bool(stated)))
        else:
            left_out[name] = "its score is not the mean of its items"
    return tuple(kept), tuple(f"{task}: {name} left out: {reason}" for name, reason in left_out.items())


def _recorded_names(task: str, results: Mapping[str, Any]) -> list[str]:
    keys = ((results.get("results") or {}).get(task) or {}).keys()
    return [key.split(",")[0] for key in keys if "," in key and not key.split(",")[0].endswith("_stderr")]


def _gives(samples: pd.DataFrame, metric: str, recorded: Mapping[str, Any], file: Path, *, states_mean: bool) -> bool:
    """Say whether a metric's items give its recorded score, for every filter.

    Raises RecordError where they must and do not.
    """
    for name, rows in samples.groupby("filter", sort=False):
        score = recorded.get(f"{metric},{name}", recorded.get(metric))
        values = rows[f"metric.{metric}"].to_numpy(dtype=float)
        weights = rows[f"weight.{metric}"].to_numpy(dtype=float) if f"weight.{metric}" in rows else np.ones(len(values))
        known = ~np.isnan(values)
        if not isinstance(score, int | float) or isinstance(score, bool) or not known.any():
            continue
        value = float(np.average(values[known], weights=weights[known]))
        if not abs(value - score) <= 1e-6 * max(1.0, abs(value)):
            if states_mean:
                got = f"items whose mean {metric} (filter {name}) is {value:.6g}"
                fix = "these files are not of one run, or damaged: run lm-eval again"
                raise RecordError(explain(str(file), got=got, allowed=f"{score:.6g}, as the results file beside it says", fix=fix))
            return False
    return True
