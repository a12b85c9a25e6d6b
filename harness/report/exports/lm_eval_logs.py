"""Points in lm-eval's layout of ``--log_samples --output_path``, which ``harness compare`` reads.

Layout of lm-eval 0.4.13: ``results_<date>.json`` and ``samples_<task>_<date>.jsonl`` in a folder of
the model. What records do not hold is missing or null: settings of generation, the documents (only
the hash of the field by which items cluster), whether an answer is the greedy one (``"None"``).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from harness.analysis.table.columns import SUITE_TASK
from harness.records.schema import Measurement, Score, cluster_field
from harness.report.exports.points import Exported, Told, cleaned, cleaned_values, records

_UNSAFE = re.compile(r'["<>:/|\\?*\[\]]+')
"""Characters that lm-eval replaces in the name of a model's folder."""

UNKNOWN = "None"
"""In the place of a response's second value, whether it is the greedy answer: not recorded."""

METRIC, WEIGHT = "metric.", "weight."


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A task of a results file.

    Attributes:
        name: in the files.
        original: in the records.
        metrics: with one number per item whose mean is the score, that of the suite first.
    """

    name: str
    original: str
    measurement: Measurement
    samples: pd.DataFrame
    scores: Sequence[Score]
    metrics: Sequence[str]

    @property
    def ok(self) -> bool:
        """Whether it has items with a value."""
        return bool(self.metrics)


def files(one: Exported, told: Told) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the files of a point and of its volume 0.

    Args:
        one: the point.
        told: notes what is missing or left out.

    Raises:
        RecordError: if a measurement or its items are damaged.
    """
    sides = {"before": (one.record.before_sha256, one.before, one.base), "after": (one.point.weights_sha256, one.after, one.name)}
    for side, (weights, rows, model) in sides.items():
        tasks = _tasks(one, weights, f"{one.key}, {side}", told)
        if not tasks:
            continue
        stamp = _stamp([task.measurement for task in tasks])
        folder = f"{one.key}/{side}/{_safe(model)}"
        yield f"{folder}/results_{stamp}.json", json.dumps(_results(model, tasks, rows), indent=2, ensure_ascii=False)
        for task in tasks:
            if task.ok:
                yield f"{folder}/samples_{task.name}_{stamp}.jsonl", "\n".join(_lines(task))


def _tasks(one: Exported, weights: str, where: str, told: Told) -> list[_Task]:
    """Return the tasks of a point, of the suites that lm-eval evaluates."""
    found: dict[str, _Task] = {}
    for suite, evaluation_id in one.record.evaluations.items():
        measurement = one.experiment.measurement(evaluation_id, weights)
        if measurement is None:
            told.missing[f"{where}: {suite}: not measured"] = None
            continue
        kind = measurement.identity.get("suite", {}).get("kind", "lm_eval")
        if kind != "lm_eval":
            told.left_out[f"{suite}: a {kind} suite, which lm-eval does not have"] = None
            continue
        samples = one.experiment.measurement_samples(evaluation_id, weights)
        for task in dict.fromkeys(score.task for score in measurement.scores):
            name = _safe(task) if _safe(task) not in found else _safe(f"{suite}_{task}")
            scores = [score for score in measurement.scores if score.task == task]
            own = samples[samples["task"] == task]
            _tell(scores, where, told)
            metrics = _means(scores, own)
            if metrics or all(score.value is None for score in scores):
                found[name] = _Task(name=name, original=task, measurement=measurement, samples=own, scores=scores, metrics=metrics)
            else:
                told.left_out[f"{suite}, {task}: no score that is a plain mean over items"] = None
    return list(found.values())


def _tell(scores: Sequence[Score], where: str, told: Told) -> None:
    for score in scores:
        if score.value is None or not math.isfinite(score.value):
            told.lacks(where, {**vars(score), "reason": cleaned(score.reason or "")})


def _means(scores: Sequence[Score], samples: pd.DataFrame) -> list[str]:
    """Return the metrics whose scores are plain means over these items."""
    ordered = sorted(scores, key=lambda score: not score.primary)
    names = dict.fromkeys(score.metric for score in ordered if score.value is not None and math.isfinite(score.value))
    return [name for name in names if f"{METRIC}{name}" in samples and _is_plain(samples, name)]


def _is_plain(samples: pd.DataFrame, metric: str) -> bool:
    known = samples[samples[f"{METRIC}{metric}"].notna()]
    weights = known[f"{WEIGHT}{metric}"].fillna(1.0) if f"{WEIGHT}{metric}" in known else pd.Series(dtype=float)
    return len(known) > 0 and weights.nunique() <= 1


def _results(model: str, tasks: Sequence[_Task], rows: pd.DataFrame) -> dict[str, Any]:
    """Return the contents of a results file."""
    first = tasks[0].measurement
    versions, evaluation = first.provenance.get("versions", {}), first.identity.get("evaluation", {})
    groups, of_groups = _groups(tasks, rows)
    backend = str(evaluation.get("class", "unknown")).removesuffix("Evaluation").lower()
    values = {
        "results": {**of_groups, **{task.name: _scores(task) for task in tasks}},
        **({"groups": of_groups} if of_groups else {}),
        "group_subtasks": groups,
        "configs": {task.name: _config(task) for task in tasks},
        "versions": {task.name: _built(task).get("version", "N/A") for task in tasks},
        "n-shot": {task.name: _suite(task).get("num_fewshot") or 0 for task in tasks},
        "higher_is_better": {task.name: {score.metric: score.higher_is_better for score in task.scores} for task in tasks},
        "n-samples": {task.name: {"original": None, "effective": max(score.n for score in task.scores)} for task in tasks},
        "config": {
            "model": backend,
            "model_args": {"pretrained": model},
            "model_dtype": evaluation.get("dtype"),
            "model_revision": None,
            "batch_size": None,
            "limit": None,
        },
        "date": _moment([task.measurement for task in tasks]).timestamp(),
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": versions.get("lm_eval"),
        "harness_version": versions.get("harness"),
        "task_hashes": {task.name: _task_hash(task) for task in tasks if task.ok},
        "model_source": backend,
        "model_name": model,
        "model_name_sanitized": _safe(model),
        "prompt_format": evaluation.get("prompt_format"),
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(
            sum({task.measurement.evaluation_id: task.measurement.wall_seconds for task in tasks}.values())
        ),
    }
    found: dict[str, Any] = cleaned_values(values)
    return found


def _groups(tasks: Sequence[_Task], rows: pd.DataFrame) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]]]:
    """Return group → tasks and group → scores: each suite with a mean over its tasks is a group."""
    members: dict[str, list[str]] = {}
    for task in tasks:
        members.setdefault(task.measurement.suite, []).append(task.name)
    members = {_safe(suite): names for suite, names in members.items() if _safe(suite) not in {task.name for task in tasks}}
    scores: dict[str, dict[str, Any]] = {}
    for row in records(rows):
        if row["task"] == SUITE_TASK and (name := _safe(str(row["suite"]))) in members:
            key = f"{row['metric']},{row['filter']}"
            own = scores.setdefault(name, {"name": name, "alias": name})
            own |= {key: _number(row["value"]), f"{row['metric']}_stderr,{row['filter']}": _number(row["stderr"])}
            own |= {"reason": row["reason"]} if row["value"] is None else {"sample_count": {key: row["n"]}}
    return members, scores


def _scores(task: _Task) -> dict[str, Any]:
    """Return the entry of a task under ``results``; a failed score is ``N/A``, with its reason."""
    found: dict[str, Any] = {"name": task.name, "alias": task.name, "sample_len": max(score.n for score in task.scores)}
    for score in task.scores:
        found[f"{score.metric},{score.filter}"] = _number(score.value)
        found[f"{score.metric}_stderr,{score.filter}"] = _number(score.stderr)
    return found


def _number(value: float | None) -> float | str:
    return "N/A" if value is None or not math.isfinite(value) else value


def _config(task: _Task) -> dict[str, Any]:
    """Return what is known of a task's settings."""
    complete = {name: task.samples[f"{METRIC}{name}"].notna().all() for name in task.metrics}
    direction = {score.metric: score.higher_is_better for score in task.scores}
    listed = [
        {"metric": name, "aggregation": "mean" if complete[name] else "nanmean", "higher_is_better": direction[name]}
        for name in task.metrics
    ]
    metadata = {"version": _built(task).get("version"), "suite": task.measurement.suite, "task": task.original}
    failed = dict.fromkeys(cleaned(score.reason or "not measured") for score in task.scores if score.value is None)
    return {
        "task": task.name,
        "num_fewshot": _suite(task).get("num_fewshot") or 0,
        "repeats": 1,
        "metric_list": listed,
        "metadata": metadata | ({"failed": "; ".join(failed)} if failed else {}),
    }


def _suite(task: _Task) -> Mapping[str, Any]:
    found: Mapping[str, Any] = task.measurement.identity.get("suite", {})
    return found


def _built(task: _Task) -> Mapping[str, Any]:
    found: Mapping[str, Any] = task.measurement.identity.get("tasks", {}).get(task.original, {})
    return found


def _lines(task: _Task) -> Iterator[str]:
    """Yield the samples of a task, one line of JSON each."""
    field = cluster_field(_suite(task).get("cluster"), task.original)
    for row in task.samples.to_dict("records"):
        requests, responses = _requests(row)
        known = [name for name in task.metrics if not pd.isna(row[f"{METRIC}{name}"])]
        cluster = row.get("cluster")
        sample = {
            "doc_id": int(row["doc_id"]),
            "doc": {field: cluster} if field and isinstance(cluster, str) else {},
            "target": row["target"],
            "arguments": {f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(parts)} for i, parts in enumerate(requests)},
            "resps": [[response] for response in responses],
            "filtered_resps": responses,
            "filter": row["filter"],
            "metrics": known,
            "doc_hash": row["doc_hash"],
            "prompt_hash": row["prompt_hash"],
            "target_hash": row["target_hash"],
            **{name: float(row[f"{METRIC}{name}"]) for name in known},
        }
        yield json.dumps(sample, ensure_ascii=False)


def _requests(row: Mapping[Any, Any]) -> tuple[list[list[Any]], list[Any]]:
    """Return the requests of an item, and the response to each, as lm-eval logs them."""
    if isinstance(row["text"], str):
        return [[row["prompt"], {}]], [row["text"]]
    if row["choices"] is None or row["log_likelihoods"] is None:
        return [[row["prompt"]]], [""]
    choices, likelihoods = list(row["choices"]), [float(value) for value in row["log_likelihoods"]]
    return [[row["prompt"], choice] for choice in choices], [[str(value), UNKNOWN] for value in likelihoods]


def _task_hash(task: _Task) -> str:
    columns = ("doc_hash", "prompt_hash", "target_hash")
    joined = "".join("".join(parts) for parts in task.samples[list(columns)].astype(str).itertuples(index=False))
    return hashlib.sha256(joined.encode()).hexdigest()


def _moment(measurements: Sequence[Measurement]) -> datetime:
    """Return when the last of some measurements was made; in records without times, 1970."""
    times = [str(one.provenance["time"]) for one in measurements if one.provenance.get("time")]
    return max((datetime.fromisoformat(time) for time in times), default=datetime.fromisoformat("1970-01-01T00:00:00+00:00"))


def _stamp(measurements: Sequence[Measurement]) -> str:
    return _moment(measurements).strftime("%Y-%m-%dT%H-%M-%S")


def _safe(name: str) -> str:
    return _UNSAFE.sub("__", cleaned(name))
