"""Evaluation of a live model on a suite, to tidy scores and samples."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.core.errors import DataError, EvaluationError, did_you_mean, explain
from harness.core.progress import Progress
from harness.core.rows import Row
from harness.core.seeds import derive, seed_torch, untouched_global_streams
from harness.core.sources import EvaluationBackend
from harness.evaluation import divergence, hashes, likelihood
from harness.evaluation.divergence import Base
from harness.evaluation.samples import failed, rows_of, scores_of
from harness.evaluation.suites import NATS, Chosen, Suite, choose
from harness.evaluation.tasks import FEWSHOT_SEED, GENERATED_METRIC, build_tasks, chosen_items, generated, read_only
from harness.models import halved, rotary, whole
from harness.records.partial import Partial
from harness.records.schema import GENERATED, OWN_METRICS, SAMPLE_COLUMNS, Score

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Measured = tuple[Sequence[Score], pd.DataFrame]


@dataclass(frozen=True)
class PreparedSuite:
    """A suite with its data loaded and items chosen: all its errors have been raised.

    Attributes:
        tasks: lm-eval's, by name; empty for a suite that scores rows.
        items: task, or data set → numbers of its documents, or rows.
        rows: the rows to score where there are no tasks.
        content: task, or data set → hashes that decide its scores and need the data: settings,
            items.
        repeated: task, or data set → documents left out since they repeat another one.
    """

    suite: Suite
    tasks: Mapping[str, Task]
    items: Mapping[str, Sequence[int]]
    rows: Sequence[Row] = ()
    content: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    repeated: Mapping[str, int] = field(default_factory=dict)

    def apart(self, task: str) -> bool:
        """Return whether a task asks another one's items by generation, to be reported apart."""
        return task.endswith(GENERATED) and task.removesuffix(GENERATED) in self.tasks


@dataclass(frozen=True)
class Result:
    """A suite's scores and items.

    ``seconds`` is wall time, ``facts`` are the backend's own decisions (a token budget).
    """

    scores: tuple[Score, ...]
    samples: pd.DataFrame
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


def prepare(suite: Suite, evaluation: EvaluationBackend, rows: Sequence[Row] = ()) -> PreparedSuite:
    """Load a suite's tasks, or take its rows, and choose its items.

    Raises EvaluationError, ConfigError or DataError.
    """
    if suite.kind == "lm_eval":
        return _prepare_tasks(suite, evaluation)
    _check_rows(suite, evaluation, rows)
    name = str(suite.data)
    chosen = choose(suite, name, len(rows), lambda index: rows[index].id, evaluation.items, evaluation.limit)
    kept = [rows[index] for index in chosen]
    content = {name: {"items": hashes.digest([row.id for row in kept])}}
    return PreparedSuite(suite, {}, {name: chosen}, kept, content, {name: chosen.repeated})


def _check_rows(suite: Suite, evaluation: EvaluationBackend, rows: Sequence[Row]) -> None:
    where, kinds = f"suite {suite.name}: data={suite.data}", {row.kind for row in rows}
    if evaluation.prompt_format == "plain" and "chat" in kinds:
        allowed, fix = "text, or prompt and completion, for prompt_format=plain", "evaluation.prompt_format=chat"
        raise DataError(explain(where, got="conversations", allowed=allowed, fix=fix))
    if evaluation.prompt_format == "chat" and suite.metric == "bits_per_byte" and kinds != {"text"}:
        got = "answers under a chat template, which adds tokens between the texts"
        raise DataError(explain(f"{where}: metric bits_per_byte", got=got, allowed="text", fix="metric: nats_per_token"))


def _prepare_tasks(suite: Suite, evaluation: EvaluationBackend) -> PreparedSuite:
    tasks = build_tasks(suite)
    for key in ("report", "select", "cluster"):
        _check_named(f"suite {suite.name}: {key}", getattr(suite, key), tasks)
    items: dict[str, Chosen] = {name: chosen_items(suite, task, evaluation.items, evaluation.limit) for name, task in tasks.items()}
    if "generation" in suite.protocols:
        tasks |= {f"{name}{GENERATED}": generated(suite, name, task, items[name]) for name, task in tasks.items()}
        items |= {f"{name}{GENERATED}": chosen for name, chosen in items.items()}
    _check_cluster(suite, tasks, items)
    for name, task in tasks.items():
        read_only(task, items[name])
    content = {name: hashes.of_task(task, items[name], evaluation.prompt_format) for name, task in tasks.items()}
    return PreparedSuite(suite, tasks, items, content=content, repeated={name: chosen.repeated for name, chosen in items.items()})


def _check_named(where: str, value: Any, tasks: Mapping[str, Task]) -> None:
    """Raise EvaluationError for a mapping that names a leaf task which the suite lacks."""
    if unknown := [name for name in value if name not in tasks] if isinstance(value, Mapping) else []:
        raise EvaluationError(explain(where, got=unknown[0], allowed=", ".join(tasks), fix=did_you_mean(unknown[0], tasks)))


def _check_cluster(suite: Suite, tasks: Mapping[str, Task], items: Mapping[str, Sequence[int]]) -> None:
    """Raise EvaluationError for a field to cluster by that no item has.

    A field for all tasks may be absent in some of them, a field for a named task may not.
    """
    where = f"suite {suite.name}: cluster"
    named = suite.cluster if isinstance(suite.cluster, Mapping) else None
    parts = [({name: tasks[name]}, key) for name, key in named.items()] if named else [(tasks, suite.cluster)]
    for of, key in parts:
        if key and not any(task.eval_docs[index].get(key) for name, task in of.items() for index in items[name]):
            fields = sorted({name for task in of.values() for name in task.eval_docs[0]})
            raise EvaluationError(explain(where, got=repr(key), allowed=", ".join(fields), fix=did_you_mean(key, fields)))


def evaluate(
    prepared: PreparedSuite,
    evaluation: EvaluationBackend,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    dtype: str,
    progress: Progress,
    stage: str,
    partial: Partial | None = None,
    base: Base | None = None,
) -> Result:
    """Evaluate a live model on a suite, each task independently of the others.

    Leaves the model's mode and the global random streams unchanged. A task that fails gives a score
    with status ``failed`` and the reason; the others keep theirs.

    Args:
        prepared: from ``prepare``.
        evaluation: the settings.
        model: plain or PEFT, on its device.
        tokenizer: the start model's.
        max_length: of the model's context, in tokens.
        dtype: ``float32`` or ``bfloat16``, of the forward pass.
        progress: advanced by items.
        stage: its name on the display.
        partial: store of finished tasks, which are not computed again after an interruption.
        base: how the model computes as its base; None if it is its own base, at volume 0.
    """
    began, was_training = time.perf_counter(), model.training
    share = _Share(progress, stage, sum(len(chosen) for chosen in prepared.items.values()))
    live = _LiveModel(prepared, evaluation, model, tokenizer, max_length, dtype, share, stage, base or Base())
    measure = live.task if prepared.suite.kind == "lm_eval" else live.rows
    found: list[Measured] = []
    model.train(False)
    try:
        for name, items in prepared.items.items():
            share.begin(len(items))
            known: Measured | None = partial.get(prepared.suite.name, name) if partial else None
            if known is None:
                with untouched_global_streams():
                    seed_torch(derive(0, "evaluation", name))  # for tasks that sample answers
                    known = measure(name)
                if partial and all(score.status == "ok" for score in known[0]):
                    partial.put(prepared.suite.name, name, *known)
            found.append(([dataclasses.replace(score, repeated_items=prepared.repeated.get(name)) for score in known[0]], known[1]))
            share.end()
    finally:
        model.train(was_training)
        rotary.fresh(model)
    samples = [items for _, items in found if len(items)]
    together = pd.concat(samples, ignore_index=True) if samples else _no_items()
    facts = evaluation.facts(live.lm) if "lm" in vars(live) else {}
    return Result(tuple(score for scores, _ in found for score in scores), together, time.perf_counter() - began, facts)


def _no_items() -> pd.DataFrame:
    return pd.DataFrame({column: [] for column in SAMPLE_COLUMNS})


@dataclass(frozen=True)
class _LiveModel:
    """A live model and the settings that all tasks of a suite share."""

    prepared: PreparedSuite
    evaluation: EvaluationBackend
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    dtype: str
    progress: Progress
    stage: str
    base: Base

    @cached_property
    def lm(self) -> LM:
        """lm-eval's view of the model, made once a suite. Raises ModelError if that changes it."""
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        loaded = whole.logits(self.model)
        lm = self.evaluation.model(self.model, self.tokenizer, self.max_length, self.dtype, self.progress, self.stage)
        whole.require_same("model", loaded, whole.logits(self.model), "as lm-eval wraps it")
        return lm

    def rows(self, name: str) -> Measured:
        """Score the rows of a data set."""
        suite = self.prepared.suite
        self.progress.stage(self.stage, len(self.prepared.rows) * (1 if suite.text == "gold" else 2))
        try:
            samples = self._likelihood(name) if suite.kind == "likelihood" else self._divergence(name)
        except Exception as error:  # noqa: BLE001 - what a task's own code raises costs that task's score, not the others'
            return [failed(suite, name, f"{type(error).__name__}: {error}")], _no_items()
        scores = scores_of(suite, samples, OWN_METRICS[suite.kind])
        return scores if any(score.primary for score in scores) else [*scores, failed(suite, name, "no item has a value")], samples

    def _likelihood(self, name: str) -> pd.DataFrame:
        import torch

        suite, rows, items = self.prepared.suite, self.prepared.rows, self.prepared.items[name]
        half = self.dtype == "bfloat16"
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=half), halved.weights(self.model, half):
            found = likelihood.samples(
                suite.name, name, self.model, self.tokenizer, rows, items, self.evaluation, self.max_length, self.progress
            )
        return self._guessing(found)

    def _guessing(self, samples: pd.DataFrame) -> pd.DataFrame:
        """Return samples with the level of guessing that follows from metric and model."""
        return samples.assign(chance=likelihood.guessing(self.model)) if self.prepared.suite.metric == NATS else samples

    def _divergence(self, name: str) -> pd.DataFrame:
        """Compare with the base; autocast covers each forward pass separately."""
        return divergence.samples(
            self.prepared.suite,
            name,
            self.model,
            self.base,
            self.tokenizer,
            self.prepared.rows,
            self.prepared.items[name],
            self.evaluation,
            self.max_length,
            self.dtype,
            self.progress,
        )

    def task(self, name: str) -> Measured:
        """Ask the items of an lm-eval task."""
        suite, task = self.prepared.suite, self.prepared.tasks[name]
        try:
            samples = self._guessing(pd.DataFrame(rows_of(suite, name, task, self._logged(name, task), self.lm)))
            scores = scores_of(suite, samples, {metric: bool(better) for metric, better in task.higher_is_better().items()})
        except Exception as error:  # noqa: BLE001 - what a task's own code raises costs that task's score, not the others'
            return [self._failed(name, f"{type(error).__name__}: {error}")], _no_items()
        if self.prepared.apart(name):
            return [dataclasses.replace(score, primary=False) for score in scores], samples
        return scores if any(score.primary for score in scores) else [*scores, self._failed(name, "no item has a value")], samples

    def _failed(self, name: str, reason: str) -> Score:
        score = failed(self.prepared.suite, name, reason)
        return dataclasses.replace(score, **_APART) if self.prepared.apart(name) else score

    def _logged(self, name: str, task: Task) -> list[dict[str, Any]]:
        """Run lm-eval on a task; return its logged samples."""
        import lm_eval

        is_chat = self.evaluation.prompt_format == "chat"
        task.set_fewshot_seed(seed=FEWSHOT_SEED)  # every point sees the same shots
        self.lm.cut_answers.clear()
        found = lm_eval.evaluate(
            self.lm,
            {"tasks": {name: task}, "groups": {}, "group_map": {}},
            samples={name: list(self.prepared.items[name])},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=is_chat,
            fewshot_as_multiturn=is_chat,
        )
        samples: list[dict[str, Any]] = found["samples"][name]
        return samples


_APART: dict[str, Any] = {"primary": False, "metric": GENERATED_METRIC, "filter": "none", "higher_is_better": True}


class _Share:
    """Progress of a suite in items, from a backend's own units (requests, rows)."""

    def __init__(self, progress: Progress, stage: str, items: int) -> None:
        self.progress = progress
        self.items = self.total = self.units = self.reported = 0
        progress.stage(stage, items)

    def begin(self, items: int) -> None:
        """Begin a task."""
        self.items, self.total, self.units, self.reported = items, 0, 0, 0

    def end(self) -> None:
        """Report the task as done."""
        self._report(self.items)

    def stage(self, name: str, total: int) -> None:
        """Take the backend's total for the current task."""
        self.total, self.units = total, 0

    def advance(self, units: int = 1) -> None:
        """Convert the backend's units into items."""
        self.units += units
        if self.total:
            self._report(self.items * min(self.units, self.total) // self.total)

    def say(self, message: str) -> None:
        """Show a line."""
        self.progress.say(message)

    def _report(self, items: int) -> None:
        if items > self.reported:
            self.progress.advance(items - self.reported)
            self.reported = items
