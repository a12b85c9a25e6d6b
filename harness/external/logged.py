"""Lines of lm-eval's ``samples_*.jsonl``, of any version, to tidy rows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core import json_text
from harness.core.errors import RecordError, explain
from harness.records.schema import SAMPLE_COLUMNS, cluster_of

FIXED = frozenset(
    "doc_id doc target arguments resps filtered_resps filter metrics doc_hash prompt_hash target_hash schema_version task_name".split()
)
"""Keys of a line that are not metrics."""

A_SAMPLE = "a sample of lm-eval --log_samples"
AGAIN = "run lm-eval again"

CHOICES_HASH = "choices_hash"
"""Further column: hash of every text that the model had to continue or to score, in order."""

GENERATION = "generation"
"""Further column: settings of generation, as JSON; empty if nothing is generated."""

UNNAMED = "none"
"""Filter of a task without filters."""

DIVERGED = "look for diverged weights, then run lm-eval again"

GUESSABLE = frozenset({"acc", "acc_norm", "acc_bytes", "exact_match"})
"""Metrics that a random choice among k answers satisfies in 1/k of all cases."""


def rows(file: Path, task: str, cluster: str | None = None, filters: Sequence[str] = ()) -> pd.DataFrame:
    """Return the items of a task, one row per item and filter.

    Columns are those of ``schema.SAMPLE_COLUMNS`` (``suite`` is the task), ``CHOICES_HASH``,
    ``GENERATION``, ``repeats`` (answers sampled per item), ``cluster``, and for every metric with
    one number per item ``metric.M`` (``weight.M`` for bits per byte). Equal documents of a task are
    distinguished by the order of their numbers: the second has ``#2`` after its hash.

    Args:
        file: its samples.
        task: its name.
        cluster: field of the documents by which items are clustered, as in this project's suites;
            None for independent items.
        filters: of the task, in its order, for versions that do not name them in their lines.

    Raises:
        RecordError: for a line that is not a sample, a duplicate item, or a file without lines.
    """
    lines = file.read_bytes().split(b"\n")  # not splitlines: a text may hold other line breaks
    found = [_read(line, task, cluster, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise RecordError(explain(str(file), got="a file without samples", allowed="one line per item", fix=AGAIN))
    if filters and all(row["filter"] == UNNAMED for row in found) and UNNAMED not in filters:
        _name_filters(found, filters, file)
    twice = [key for key, count in Counter((row["filter"], row["doc_id"]) for row in found).items() if count > 1]
    if twice:
        got = f"{len(twice)} duplicate items, the first with doc_id {twice[0][1]} (filter {twice[0][0]})"
        raise RecordError(explain(str(file), got=got, allowed="each item once", fix="keep the lines of one run"))
    seen: Counter[tuple[str, str]] = Counter()
    for row in sorted(found, key=lambda row: int(row["doc_id"])):
        key = (row["filter"], row["doc_hash"])
        seen[key] += 1
        row["doc_hash"] += f"#{seen[key]}" if seen[key] > 1 else ""
    return pd.DataFrame(found)


def _name_filters(found: Sequence[dict[str, Any]], filters: Sequence[str], file: Path) -> None:
    """Name the filters of rows: the n-th line of an item is of the n-th filter.

    lm-eval 0.4.3 to 0.4.6 write all items of a filter, then all of the next. Raises RecordError for
    other numbers of lines.
    """
    count = Counter(row["doc_id"] for row in found)
    if set(count.values()) != {len(filters)}:
        got = f"lines without the name of their filter, {min(count.values())} to {max(count.values())} per item"
        allowed = f"{len(filters)}, for the filters {', '.join(filters)}, as lm-eval before 0.4.7 writes them"
        raise RecordError(explain(str(file), got=got, allowed=allowed, fix="run a newer lm-eval"))
    seen: Counter[int] = Counter()
    for row in found:
        row["filter"] = filters[seen[row["doc_id"]]]
        seen[row["doc_id"]] += 1


def metric_names(samples: pd.DataFrame) -> list[str]:
    """Return the metrics with one number per item, in lm-eval's order."""
    return [name.removeprefix("metric.") for name in samples.columns if name.startswith("metric.")]


def _read(line: bytes, task: str, cluster: str | None, where: str) -> dict[str, Any]:
    """Return the row of a line. Raises RecordError that names the line, for any defect."""
    try:
        return _row(_sample(line, where), task, cluster, where)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        got = f"an unreadable line ({type(error).__name__}: {error})"
        raise RecordError(explain(where, got=got, allowed=A_SAMPLE, fix=AGAIN)) from error


def _sample(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        sample = json_text.loads(line.decode("utf-8"))
        json.dumps(sample, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except ValueError as error:
        raise RecordError(explain(where, got=f"invalid JSON ({error})", allowed=A_SAMPLE, fix=AGAIN)) from error
    needed = ["doc_id", "target", "arguments", "resps"]
    present = [name for name in sample if name == "target" or sample[name] is not None] if isinstance(sample, Mapping) else []
    if missing := [name for name in needed if name not in present]:
        raise RecordError(explain(where, got=f"a line without {', '.join(missing)}", allowed=A_SAMPLE, fix=AGAIN))
    return sample  # type: ignore[no-any-return]


def _number_of(sample: Mapping[str, Any], where: str) -> int:
    """Return the number of a document, which orders equal documents. Raises RecordError."""
    found = sample["doc_id"]
    if not isinstance(found, bool):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if int(found) == float(found):
                return int(found)
    raise RecordError(explain(f"{where}: doc_id", got=repr(found), allowed="a whole number, lm-eval's index of the document", fix=AGAIN))


def _row(sample: Mapping[str, Any], task: str, cluster: str | None, where: str) -> dict[str, Any]:
    arguments = _arguments(sample["arguments"])
    if not arguments or not arguments[0]:
        raise RecordError(explain(where, got="a line with empty arguments", allowed="the requests to the model", fix=AGAIN))
    generates = len(arguments[0]) > 1 and isinstance(arguments[0][1], Mapping)
    responses = [_first_of(response) for response in sample["resps"]]
    if len(responses) != len(arguments):
        got = f"{len(responses)} answers to {len(arguments)} requests"
        raise RecordError(explain(where, got=got, allowed="an answer to each", fix=AGAIN))
    repeats = max((len(response) for response in sample["resps"] if isinstance(response, list)), default=1)
    likelihoods = None if generates else [_number(response, where) for response in responses]
    choices = None if generates or len(arguments[0]) < 2 else [str(one[1]) for one in arguments]
    if choices is not None and likelihoods is not None:
        choices, likelihoods = _without_unconditional(choices, likelihoods, sample)
    text = str(responses[0]) if generates and responses else None
    values = _values(sample)
    common = {
        "suite": task,
        "task": task,
        "filter": str(sample.get("filter") or UNNAMED),
        "doc_id": _number_of(sample, where),
        "doc_hash": str(sample.get("doc_hash") or _doc_hash(sample, where)),
        "prompt_hash": str(sample.get("prompt_hash") or _hash(str(arguments[0][0]))),
        "target_hash": str(sample.get("target_hash") or _hash(str(sample["target"]))),
        "prompt": str(arguments[0][0]),
        "target": str(sample["target"]),
        "choices": choices,
        "log_likelihoods": likelihoods,
        "text": text,
        "chance": 1.0 / len(choices) if choices is not None and len(choices) > 1 else math.nan,
        CHOICES_HASH: _hash(json.dumps([[part for part in one if isinstance(part, str)] for one in arguments], ensure_ascii=False)),
        GENERATION: json.dumps(arguments[0][1], sort_keys=True, ensure_ascii=False) if generates else "",
        "repeats": repeats,
        "cluster": cluster_of(sample["doc"], cluster) if cluster and isinstance(sample.get("doc"), Mapping) else None,
    }
    assert set(common) >= set(SAMPLE_COLUMNS)
    return common | values


def _arguments(logged: Any) -> list[list[Any]]:
    """Return the requests of an item, each (context, continuation or settings of generation).

    lm-eval has used two layouts.
    """
    if isinstance(logged, Mapping):  # gen_args_0 → arg_0, arg_1
        return [[request[f"arg_{i}"] for i in range(len(request))] for request in logged.values()]
    return [list(request) if isinstance(request, list | tuple) else [request] for request in logged]


def _first_of(response: Any) -> Any:
    """Return the first of the answers sampled for a request."""
    return response[0] if isinstance(response, list) and response else response


def _number(response: Any, where: str) -> float:
    """Return the log-likelihood of a response such as ``["-1.5", "False"]``, in nats.

    NaN for one of another layout. Raises RecordError where the model gave NaN: lm-eval then counts
    the first choice as its answer.
    """
    try:
        found = float(response[0] if isinstance(response, list | tuple) else response)
    except (TypeError, ValueError, IndexError):
        return math.nan
    if math.isnan(found):
        raise RecordError(explain(where, got="a log-likelihood that is NaN", allowed="numbers", fix=DIVERGED))
    return found


def _without_unconditional(choices: list[str], likelihoods: list[float], sample: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Drop the second half if each choice was also scored without context.

    lm-eval does so for ``acc_mutual_info``.
    """
    if "acc_mutual_info" in sample and len(choices) % 2 == 0:
        return choices[: len(choices) // 2], likelihoods[: len(choices) // 2]
    return choices, likelihoods


def _values(sample: Mapping[str, Any]) -> dict[str, float]:
    """Return the item's numeric metrics; (log-likelihood, bytes) of bits per byte as a ratio."""
    found: dict[str, float] = {}
    for name in sample.get("metrics") or [key for key in sample if key not in FIXED]:
        value = sample.get(name)
        if isinstance(value, bool | int | float):
            found[f"metric.{name}"] = float(value)
        elif name == "bits_per_byte" and isinstance(value, Sequence) and len(value) == 2 and float(value[1]):
            found["metric.bits_per_byte"] = -float(value[0]) / float(value[1]) / math.log(2)
            found["weight.bits_per_byte"] = float(value[1])
    return found


def _doc_hash(sample: Mapping[str, Any], where: str) -> str:
    """Return lm-eval's hash of a document. Raises RecordError if the document is missing."""
    if "doc" not in sample:
        raise RecordError(
            explain(where, got="a line without doc_hash and doc", allowed="one of them, which identifies the item", fix=AGAIN)
        )
    return _hash(json.dumps(sample["doc"], indent=2, ensure_ascii=False))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
