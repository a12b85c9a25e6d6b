"""lm-eval's logged samples to tidy rows, one per item and filter, and rows to scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.core.errors import EvaluationError, explain
from harness.evaluation.suites import NATS, Suite
from harness.evaluation.task_index import ITEM_MEANS
from harness.records.schema import Score, cluster_field, cluster_of

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

UNPARSED = "[invalid]"
"""Mark of lm-eval's regex filters for an answer not found, unless a task sets another one."""

PER_TOKEN = "acc_per_token"
"""Our metric of multiple choice: whether a right choice has the highest mean log-likelihood per
token. lm-eval's acc takes the sum, its acc_norm divides that by the characters."""

OF_CHOICES = (PER_TOKEN, NATS)
"""Metrics of multiple choice that we compute, for a suite that is judged by one. NATS is that of
the right choice: it changes before another one overtakes it."""

SPECIAL_TOKENS = 2
"""Most special tokens that a tokenizer adds to a text. Every other token is at least a byte of it,
so most texts are known to fit the context by their bytes, without encoding them."""


def rows_of(suite: Suite, name: str, task: Task, logged: Iterable[Mapping[str, Any]], lm: LM) -> list[dict[str, Any]]:
    """Return one row per item and filter, in the columns of schema.SAMPLE_COLUMNS.

    Further columns are ``metric.*``, ``weight.*`` and, in a clustered suite, ``cluster``.

    Args:
        suite: its ``chance`` gives each item's level of guessing, its ``cluster`` the field of its
            clusters.
        name: leaf task.
        task: lm-eval's task object.
        logged: its samples, as ``lm_eval.evaluate`` logs them.
        lm: the model class that answered; it knows which prompts and answers were cut.
    """
    generates = task.OUTPUT_TYPE == "generate_until"
    averaged, unparsed = averaged_metrics(task), _unparsed_marks(task)
    rows = []
    for sample in logged:
        arguments, responses = sample["arguments"], [response[0] for response in sample["resps"]]
        row = {
            "suite": suite.name,
            "task": name,
            "filter": sample["filter"],
            "doc_id": int(sample["doc_id"]),
            "doc_hash": sample["doc_hash"],
            "prompt_hash": sample["prompt_hash"],
            "target_hash": sample["target_hash"],
            "prompt": str(arguments[0][0]),
            "target": str(sample["target"]),
            "item": _item_text(sample, task),
            "choices": None if generates else [str(argument[1]) for argument in arguments],
            "log_likelihoods": None if generates else [_log_likelihood(response) for response in responses],
            "text": str(responses[0]) if generates else None,
            "chance": _chance(suite, 0 if generates else len(arguments), sample["target"]),
            "unparsed": generates and _first(sample["filtered_resps"]) in unparsed.get(sample["filter"], ()),
            "prompt_truncated": _prompt_cut(arguments, lm, generates=generates),
            "answer_truncated": generates and _prompt_ids(arguments[0], lm) in lm.cut_answers,
        }
        if any(math.isnan(value) for value in row["log_likelihoods"] or ()):
            got = "a log-likelihood that is NaN"
            raise EvaluationError(explain(f"task {name}", got=got, allowed="numbers", fix="look for diverged weights"))
        field = cluster_field(suite.cluster, name)
        clustered = {"cluster": cluster_of(sample["doc"], field) if field else None} if suite.cluster else {}
        own = _of_choices(task, sample, row["log_likelihoods"], lm) if suite.metric in OF_CHOICES else {}
        rows.append(row | clustered | _metrics(sample, averaged) | {name: own[name] for name in own if name.endswith(f".{suite.metric}")})
    return rows


def averaged_metrics(task: Task) -> list[str]:
    """Return the metrics of a task that are means, or ratios of sums, over items.

    Others (a perplexity, a correlation, lists of values) have no per-item value whose mean is the
    score, so items cannot be paired. OF_CHOICES are some where lm-eval itself judges the choices.
    """
    found = [name for name, aggregate in task.aggregation().items() if getattr(aggregate, "__name__", "") in ITEM_MEANS]
    is_choice = task.OUTPUT_TYPE == "multiple_choice" and not task.config.process_results and "acc_mutual_info" not in found
    return [*found, *OF_CHOICES] if is_choice else found


def _of_choices(task: Task, sample: Mapping[str, Any], log_likelihoods: Sequence[float], lm: LM) -> dict[str, float]:
    """Return OF_CHOICES of an item; of several right choices the likeliest counts."""
    tokens = [len(_pair(lm, *argument[:2])[1]) for argument in sample["arguments"]]
    means = np.array(log_likelihoods) / np.array(tokens)
    doc = sample["doc"]
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    right = gold if isinstance(gold, list) else [task.doc_to_choice(doc).index(gold) if isinstance(gold, str) else gold]
    best = max(right, key=lambda choice: log_likelihoods[choice])
    is_right = float(int(np.argmax(means)) in right)
    return {f"metric.{PER_TOKEN}": is_right, f"metric.{NATS}": -float(means[best]), f"weight.{NATS}": float(tokens[best])}


def _item_text(sample: Mapping[str, Any], task: Task) -> str:
    """Return the bare question with its gold answer: the text that training rows may overlap."""
    question = task.doc_to_text(sample["doc"])
    choices, target = [str(argument[1]) for argument in sample["arguments"] if len(argument) > 1], sample["target"]
    is_index = task.OUTPUT_TYPE == "multiple_choice" and str(target).isdigit() and int(target) < len(choices)
    answer = choices[int(target)] if is_index else str(target)
    return f"{question if isinstance(question, str) else ''} {answer}".strip()


def _log_likelihood(response: Any) -> float:
    return float(response[0] if isinstance(response, list | tuple) else response)


def _chance(suite: Suite, choices: int, target: Any) -> float:
    """Return an item's score of guessing; several choices can be right."""
    if suite.chance is None:
        return math.nan
    if suite.chance == "choices":
        right = len(set(target)) if isinstance(target, list) else 1
        return right / choices if choices else math.nan
    return float(suite.chance)


def _unparsed_marks(task: Task) -> dict[str, set[str]]:
    """Return filter → marks that its steps return where they find no answer."""
    marks: dict[str, set[str]] = {}
    for entry in task.config.filter_list or []:
        marks[entry["name"]] = {str(step.get("fallback", UNPARSED)) for step in entry["filter"] if "regex" in step["function"]}
    return marks


def _first(response: Any) -> Any:
    return _first(response[0]) if isinstance(response, list | tuple) and response else response


def _prompt_cut(arguments: Sequence[Any], lm: LM, *, generates: bool) -> bool:
    """Return whether lm-eval cuts the beginning of a prompt to fit the context.

    One token more fits than the context has, since the last token of an answer is not an input.
    """
    if generates:
        return len(_encoded(str(arguments[0][0]), lm)) > _room(arguments[0], lm)
    if len(arguments[0]) == 1:  # a whole text is scored in windows, without a cut
        return False
    longest = [pair for pair in arguments if len((str(pair[0]) + str(pair[1])).encode()) + SPECIAL_TOKENS > lm.max_length]
    return any(len(context) + len(answer) > lm.max_length + 1 for context, answer in (_pair(lm, *pair[:2]) for pair in longest if pair[0]))


def _pair(lm: LM, context: str, answer: str) -> tuple[list[int], list[int]]:
    pair: tuple[list[int], list[int]] = lm._encode_pair(str(context), str(answer))
    return pair


def _encoded(prompt: str, lm: LM) -> list[int]:
    ids: list[int] = lm.tok_batch_encode([prompt])[0][0].tolist()
    return ids


def _room(request: Sequence[Any], lm: LM) -> int:
    """Return the tokens of context left for a prompt, after those reserved for its continuation."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return int(lm.max_length - normalize_gen_kwargs(dict(request[1]), lm.max_gen_toks)["max_gen_toks"])


def _prompt_ids(request: Sequence[Any], lm: LM) -> tuple[int, ...]:
    return tuple(_encoded(str(request[0]), lm)[-_room(request, lm) :])


def _metrics(sample: Mapping[str, Any], averaged: Sequence[str]) -> dict[str, float]:
    """Return the item's values of the metrics that are means.

    (log-likelihood, weight) pairs of tasks that score whole texts become ratios.
    """
    found: dict[str, float] = {}
    for metric in averaged:
        value = sample.get(metric)
        if isinstance(value, bool | int | float | np.number):
            found[f"metric.{metric}"] = float(value)
        elif metric == "bits_per_byte" and isinstance(value, tuple):
            log_likelihood, weight = value
            found["metric.bits_per_byte"] = -float(log_likelihood) / float(weight) / math.log(2)
            found["weight.bits_per_byte"] = float(weight)
    return found


def scores_of(suite: Suite, samples: pd.DataFrame, higher: Mapping[str, bool]) -> list[Score]:
    """Score every task × metric × filter of a suite from its samples.

    The value is the weighted mean over items, Σ w v / Σ w with w = 1 unless the metric is a ratio.
    Its standard error is that of a ratio of means, sqrt(Σ w² (v − value)² · n/(n−1)) / Σ w, which
    for w = 1 is the sample standard deviation over √n.

    Args:
        suite: the suite.
        samples: its items.
        higher: metric → whether higher is better, where lm-eval defines it.
    """
    scores = []
    for (task, filter_name), group in samples.groupby(["task", "filter"], sort=False):
        for column in [name for name in group.columns if name.startswith("metric.")]:
            items = group[group[column].notna()]
            if not items.empty:
                scores.append(_score(suite, str(task), str(filter_name), column.removeprefix("metric."), items, higher))
    return scores


def _score(suite: Suite, task: str, filter_name: str, metric: str, items: pd.DataFrame, higher: Mapping[str, bool]) -> Score:
    values = items[f"metric.{metric}"].to_numpy(float)
    weights = items[f"weight.{metric}"].to_numpy(float) if f"weight.{metric}" in items else np.ones(len(items))
    value, n = float(np.average(values, weights=weights)), len(items)
    spread = math.sqrt(float(np.sum((weights * (values - value)) ** 2)) * n / (n - 1)) / float(weights.sum()) if n > 1 else None
    primary = metric == suite.metric and filter_name == suite.filter_name
    chance = float(items["chance"].mean()) if primary and items["chance"].notna().all() else None
    return Score(
        suite=suite.name,
        task=task,
        metric=metric,
        filter=filter_name,
        primary=primary,
        n=n,
        value=value,
        stderr=spread,
        chance=chance,
        higher_is_better=suite.higher_is_better if metric == suite.metric else bool(higher.get(metric, True)),
        unparsed=float(items["unparsed"].mean()),
        prompt_truncated=float(items["prompt_truncated"].mean()),
        answer_truncated=float(items["answer_truncated"].mean()),
    )


def failed(suite: Suite, task: str, reason: str) -> Score:
    """Return the primary score of a failed task: a reason instead of a value."""
    return Score(
        suite=suite.name,
        task=task,
        metric=suite.metric,
        filter=suite.filter_name,
        primary=True,
        n=0,
        value=None,
        stderr=None,
        chance=None,
        higher_is_better=suite.higher_is_better,
        status="failed",
        reason=" ".join(reason.split()),
    )
