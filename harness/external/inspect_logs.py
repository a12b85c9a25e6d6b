"""Logs of inspect_ai to two sides of logged tasks, matched by task, sample, epoch and scorer.

The value of an item is the mean over its epochs. An epoch counts where both sides have scored it:
one that failed, was left unscored (NaN) or was invalidated has no value, never a score of 0.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.config import paths
from harness.core.errors import RecordError, explain
from harness.external import inspect_files, ours
from harness.external.inspect_files import LogFile
from harness.external.logged import CHOICES_HASH, GENERATION, UNNAMED
from harness.external.logs import LoggedTask, Logs, Metric, plain

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""Text → its value; inspect_ai reads any other text that is no number as 0, here it is none."""

SAMPLING = """temperature top_p top_k max_tokens seed stop_seqs num_choices best_of frequency_penalty presence_penalty logit_bias
    reasoning_effort reasoning_tokens system_message response_schema""".split()
"""Settings of generation that affect answers, and must be the same on both sides."""

NO_DIRECTION = "inspect_ai's logs state no direction of their scores: higher is taken as better"

ATTACHED = "attachment://"

Values = dict[str, float]
"""Metric → value of a sample; NaN if unscored. Not the scores that are no numbers."""

Key = tuple[str, int]
"""Sample and epoch."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A sample of an epoch.

    Attributes:
        number: its place in the log.
        values: of its metrics; empty if it has none, with the reason in ``unscored``.
        texts: columns of ``logged.rows`` that say what was asked and answered.
        unscored: why it has no value; empty if it has.
    """

    number: int
    values: Values
    texts: Mapping[str, Any]
    unscored: str = ""


@dataclass(frozen=True, kw_only=True)
class Read:
    """The newest log of a task.

    Attributes:
        log: the file.
        items: (sample, epoch) → its values and texts.
        metrics: numeric scores, that of the headline first.
        left_out: a line for each score that is not a number.
        settings: must be the same on both sides.
        release: of inspect_ai.
    """

    log: LogFile
    items: Mapping[Key, Item]
    metrics: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    release: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The logs of one model.

    Attributes:
        source: the file or folder, as typed.
        model: as the logs name it.
        tasks: name → its newest log.
        notes: on how they were read.
    """

    source: str
    model: str
    tasks: Mapping[str, Read]
    notes: tuple[str, ...]


def read(before: str, after: str) -> tuple[Logs, Logs]:
    """Read the logs of two sides, with values where both have one.

    Raises:
        RecordError: for damaged, failed and unfinished logs, and logs of two models in a folder.
        InstallError: for ``.eval`` files whose compression needs the extra ``inspect``.
    """
    one, other = _source(before), _source(after)
    return _logs(one, other, [NO_DIRECTION]), _logs(other, one, [])


def _source(source: str) -> Source:
    """Return the newest successful log of each task of a file or folder."""
    found = [inspect_files.read(file) for file in inspect_files.find(paths.expanded(source))]
    good = [log for log in found if log.status == "success"]
    if not good:
        got = f"a log whose status is {found[0].status} ({found[0].file})"
        fix = f"complete it: inspect eval-retry {found[0].file}"
        raise RecordError(explain(source, got=got, allowed="status success", fix=fix))
    models = sorted({str(log.header["eval"].get("model")) for log in good})
    if len(models) > 1:
        got = f"logs of {len(models)} models ({', '.join(models)})"
        raise RecordError(explain(source, got=got, allowed="logs of one model", fix="name a file or folder of one of them"))
    newest: dict[str, LogFile] = {}
    for log in sorted(good, key=lambda log: str(log.header["eval"].get("created"))):
        task = str(log.header["eval"].get("task"))
        _require_one_task(source, newest.get(task), log)
        newest[task] = log
    notes = []
    for count, what in ((len(found) - len(good), "that failed or did not end"), (len(good) - len(newest), "older, of the same tasks")):
        if count:
            notes.append(f"{source}: {count} log(s) left out, {what}")
    return Source(source=source, model=models[0], tasks={name: _read(name, log) for name, log in newest.items()}, notes=tuple(notes))


def _require_one_task(source: str, one: LogFile | None, other: LogFile) -> None:
    """Raise RecordError for two logs of a task with other arguments or another model."""
    for name in ("task_args", "model_args"):
        if one is not None and (one.header["eval"].get(name) or {}) != (other.header["eval"].get(name) or {}):
            got = f"two logs of one task with other {name} ({one.file}, {other.file})"
            raise RecordError(explain(source, got=got, allowed="one variant of each task", fix="name the file of one"))


def _read(task: str, log: LogFile) -> Read:
    """Return a log's values. Raises RecordError that names the file, for any other shape."""
    try:
        return _shaped(task, log)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        got = f"a log of another shape ({type(error).__name__}: {error})"
        raise RecordError(explain(str(log.file), got=got, allowed=inspect_files.A_LOG, fix=inspect_files.AGAIN)) from error


def _shaped(task: str, log: LogFile) -> Read:
    if not log.samples:
        got = "a log without samples"
        raise RecordError(explain(str(log.file), got=got, allowed="its samples", fix="run inspect_ai without --no-log-samples"))
    items: dict[Key, Item] = {}
    odd: dict[str, int] = {}
    for number, sample in enumerate(log.samples):
        key = (str(sample["id"]), int(sample["epoch"]))
        if key in items:
            got = f"sample {key[0]} twice in epoch {key[1]}"
            raise RecordError(explain(str(log.file), got=got, allowed="each once", fix=inspect_files.AGAIN))
        items[key] = _item(number, sample, odd)
    names = dict.fromkeys(name for item in items.values() for name, value in item.values.items() if not math.isnan(value))
    left_out = [f"{task}: {name} left out: {count} of {len(items)} values are no numbers" for name, count in odd.items()]
    release = str((log.header["eval"].get("packages") or {}).get("inspect_ai"))
    metrics = _headline_first(log, [name for name in names if name not in odd])
    found = Read(log=log, items=items, metrics=tuple(metrics), left_out=tuple(left_out), settings=_settings(log), release=release)
    _check_scores(found)
    return found


def _item(number: int, sample: Mapping[str, Any], odd: dict[str, int]) -> Item:
    """Return a sample; counts the values of scores that are no numbers in ``odd``."""
    values: Values = {}
    for name, value in _scores(sample):
        number_of = _value(value)
        if number_of is None:
            odd[name] = odd.get(name, 0) + 1
        else:
            values[name] = number_of
    unscored = "failed" if sample.get("error") else "invalidated" if sample.get("invalidation") else "" if values else "unscored"
    return Item(number=number, values={} if unscored else values, texts=_texts(sample), unscored=unscored)


def _scores(sample: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (metric, value): a scorer's name, or scorer and key where its value is a mapping."""
    for name, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, Mapping) else None
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", one) for key, one in value.items())
        else:
            yield name, value


def _value(value: Any) -> float | None:
    """Return a value as inspect_ai reads it; None for lists, and texts that are no grade."""
    if value is None or isinstance(value, bool | int | float):
        return math.nan if value is None else float(value)
    if not isinstance(value, str):
        return None
    try:
        found = float(value)
    except ValueError:
        return GRADES.get(value, GRADES.get(value.lower()) if len(value) > 1 else None)
    return found if math.isfinite(found) else None


def _texts(sample: Mapping[str, Any]) -> dict[str, Any]:
    attached = sample.get("attachments") or {}
    prompt, target = _text(sample.get("input"), attached), _text(sample.get("target"), attached)
    output = sample.get("output") or {}
    return {
        "prompt": prompt,
        "target": target,
        "text": _text(output.get("completion"), attached) if isinstance(output, Mapping) else "",
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
        CHOICES_HASH: _hash(json.dumps(sample.get("choices"), ensure_ascii=False)),
    }


def _text(value: Any, attached: Mapping[str, Any]) -> str:
    """Return a text, or messages as lines of role and content, without their random ids."""
    if isinstance(value, str):
        return str(attached.get(value.removeprefix(ATTACHED), value)) if value.startswith(ATTACHED) else value
    if isinstance(value, list):
        return "\n".join(_text(part, attached) for part in value)
    if isinstance(value, Mapping):
        kind = str(value.get("role") or value.get("type") or "")
        content = value.get("content", value.get(kind))
        return f"{kind}: {_text(content, attached)}" if "role" in value else _text(content, attached)
    return "" if value is None else str(value)


def _headline_first(log: LogFile, names: Sequence[str]) -> list[str]:
    results = log.header.get("results")
    headline = (results.get("headline") if isinstance(results, Mapping) else None) or {}
    first = {headline.get("scorer"), f"{headline.get('scorer')}.{headline.get('score')}"}
    return sorted(names, key=lambda name: name not in first)


def _settings(log: LogFile) -> dict[str, str]:
    """Return the settings that affect values, as far as the log states them."""
    described = log.header["eval"]
    config, plan = described.get("config") or {}, log.header.get("plan") or {}
    generation = {**(described.get("model_generate_config") or {}), **(plan.get("config") or {})}
    stated = {
        "version": described.get("task_version"),
        "arguments": described.get("task_args"),
        "epochs": config.get("epochs") or 1,
        "scorers": [{key: one.get(key) for key in ("name", "options")} for one in described.get("scorers") or []] or None,
        "solver": [{key: one.get(key) for key in ("solver", "params")} for one in plan.get("steps") or []] if plan else None,
        "model_roles": {role: (one or {}).get("model") for role, one in (described.get("model_roles") or {}).items()},
        "generation": {key: generation[key] for key in SAMPLING if generation.get(key) is not None},
    }
    return {key: plain(value) for key, value in stated.items() if value is not None}


def _check_scores(found: Read) -> None:
    """Raise RecordError where values do not reproduce a mean that the log states.

    Checked where every sample has a value, and epochs are averaged.
    """
    config = found.log.header["eval"].get("config") or {}
    results = found.log.header.get("results") or {}
    if any(item.unscored or any(map(math.isnan, item.values.values())) for item in found.items.values()):
        return
    if (config.get("epochs_reducer") or ["mean"]) != ["mean"]:
        return
    for score in results.get("scores") or []:
        name = score.get("scorer") if score.get("name") == score.get("scorer") else f"{score.get('scorer')}.{score.get('name')}"
        metrics = score.get("metrics") or {}
        stated = next((metrics[key].get("value") for key in ("accuracy", "mean") if isinstance(metrics.get(key), Mapping)), None)
        values = [item.values.get(str(name)) for item in found.items.values()]
        known = [value for value in values if value is not None]
        if name not in found.metrics or len(known) < len(values) or not isinstance(stated, int | float):
            continue
        if not abs(float(np.mean(known)) - stated) <= 1e-6 * max(1.0, abs(stated)):
            got = f"samples whose mean {name} is {np.mean(known):.6g}"
            raise RecordError(explain(str(found.log.file), got=got, allowed=f"{stated:.6g}, its score", fix=inspect_files.AGAIN))


def _logs(one: Source, other: Source, notes: Sequence[str]) -> Logs:
    """Return a side, with the values that the other side has too."""
    tasks, lacked, found = {}, [], [*one.notes, *notes]
    for name, log in one.tasks.items():
        rows, without, lost = _rows(name, log, other.tasks.get(name))
        if log.settings["epochs"] != "1" and notes:
            found.append(f"{name}: {log.settings['epochs']} epochs, averaged in each sample")
        if without:
            found.append(f"{one.source}: {name}: {without}")
        if lost:  # the other side may not pass a gate without them
            lacked.append(f"{name} ({lost} of {len(log.items)} samples)")
        tasks[name] = LoggedTask(
            name=name,
            file=log.log.file,
            stamp=str(log.log.header["eval"].get("created")),
            samples=rows,
            metrics=tuple(Metric(name=metric, higher_is_better=True) for metric in log.metrics),
            left_out=log.left_out,
            settings=log.settings,
            cluster=ours.cluster(name, ()),
        )
    return Logs(
        source=one.source,
        model=one.model,
        tasks=tasks,
        groups={},
        facts={"inspect_ai": ", ".join(sorted({log.release for log in one.tasks.values()}))},
        notes=tuple(found),
        without_samples=tuple(lacked),
    )


def _rows(task: str, one: Read, other: Read | None) -> tuple[pd.DataFrame, str, int]:
    """Return the items of a task.

    Also a note on its samples without a value, and how many samples with one the other side lacks.
    """
    shared = [name for name in one.metrics if other is None or name in other.metrics]
    reasons: Counter[str] = Counter()
    lacking = 0
    samples: dict[str, list[tuple[Item, Values]]] = {}
    for (sample, epoch), item in one.items.items():
        paired = other.items.get((sample, epoch), item) if other else item
        values = {name: _known(name, item, paired if name in shared else item) for name in one.metrics}
        samples.setdefault(sample, []).append((item, values))
        if reason := _why(item, shared[:1]):
            reasons[reason] += 1
        else:
            lacking += bool(_why(paired, shared[:1]))
    rows = [_row(task, sample, epochs, one.metrics) for sample, epochs in samples.items()]
    kept = [row for row in rows if not shared or not all(math.isnan(row[f"metric.{name}"]) for name in shared)]
    note = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if not kept:
        got = "no sample that both sides have scored" + (f" ({note} of {len(one.items)})" if note else "")
        raise RecordError(explain(f"task {task}", got=got, allowed="at least one", fix=inspect_files.AGAIN))
    return pd.DataFrame(kept), f"{note} of {len(one.items)} samples: not compared" if note else "", lacking


def _why(item: Item, metrics: Sequence[str]) -> str:
    """Return why an item has no value of the first metric; empty if it has one."""
    return item.unscored or ("unscored" if any(math.isnan(item.values.get(name, math.nan)) for name in metrics) else "")


def _known(metric: str, item: Item, paired: Item) -> float:
    """Return the value of an item; NaN if the other side has none for it."""
    return math.nan if math.isnan(paired.values.get(metric, math.nan)) else item.values.get(metric, math.nan)


def _row(task: str, sample: str, epochs: Sequence[tuple[Item, Values]], metrics: Sequence[str]) -> dict[str, Any]:
    """Return the row of a sample, as ``logged.rows`` does; the mean over its epochs that count."""
    first = epochs[0][0]
    means = {}
    for name in metrics:
        known = [values[name] for _, values in epochs if not math.isnan(values[name])]
        means[f"metric.{name}"] = float(np.mean(known)) if known else math.nan
    return {
        "suite": task,
        "task": task,
        "filter": UNNAMED,
        "doc_id": first.number,
        "doc_hash": _hash(sample),
        **first.texts,
        "choices": None,
        "log_likelihoods": None,
        "chance": math.nan,
        GENERATION: "",
        "repeats": 1,
        "cluster": None,
        **means,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
