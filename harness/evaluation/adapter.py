"""lm-eval in, tidy scores out: the one place that evaluates a live model on a suite."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness import compose
from harness.data.subsets import fingerprint
from harness.errors import EvaluationError
from harness.evaluation import likelihood
from harness.evaluation.backends import Evaluation
from harness.evaluation.samples import failed, rows_of, scores_of
from harness.evaluation.suites import Suite, choose
from harness.evaluation.tasks import FEWSHOT_SEED, build_tasks, chosen_items
from harness.interfaces import Progress, Row
from harness.schema import SAMPLE_COLUMNS, Score
from harness.seeds import untouched_global_streams

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedSuite:
    """A suite whose data are loaded and whose items are chosen: everything that can be wrong with it has been found."""

    suite: Suite
    tasks: Mapping[str, Task]
    items: Mapping[str, Sequence[int]]
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class Result:
    """A suite's scores and items; ``seconds`` is wall time."""

    scores: tuple[Score, ...]
    samples: pd.DataFrame
    seconds: float


def prepare(suite: Suite, evaluation: Evaluation) -> PreparedSuite:
    """Load a suite's tasks and choose its items. Raises EvaluationError, ConfigError or DataError."""
    if suite.kind == "lm_eval":
        tasks = build_tasks(suite)
        return PreparedSuite(suite, tasks, {name: chosen_items(suite, task, evaluation.items) for name, task in tasks.items()})
    rows = compose.member("data", str(suite.data)).rows(suite.split)
    chosen = choose(suite, str(suite.data), len(rows), lambda index: rows[index].id, evaluation.items)
    return PreparedSuite(suite, {}, {str(suite.data): chosen}, [rows[index] for index in chosen])


def identity(suite: Suite) -> dict[str, Any]:
    """Return what decides a suite's scores: its definition and, where it scores rows, their content."""
    if suite.kind == "lm_eval":
        return suite.identity()
    return suite.identity() | {"rows": fingerprint(compose.member("data", str(suite.data)).rows(suite.split))}


def evaluate(
    prepared: PreparedSuite,
    evaluation: Evaluation,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    dtype: str,
    progress: Progress,
    stage: str,
) -> Result:
    """Evaluate a live model on a suite. Leaves the model's mode and the global random streams as they were.

    A task that fails is a score with status ``failed`` and the reason; the others keep theirs.

    Args:
        prepared: from ``prepare``.
        evaluation: the settings.
        model: plain or PEFT, on its device.
        tokenizer: the start model's.
        max_length: of the model's context, in tokens.
        dtype: ``float32`` or ``bfloat16``, of the forward pass.
        progress: advanced by rows of forward passes (one-letter answers of one question share a row).
        stage: what to call it there.
    """
    began, was_training = time.perf_counter(), model.training
    model.train(False)
    try:
        with untouched_global_streams():
            if prepared.suite.kind == "likelihood":
                scores, samples = _likelihood(prepared, evaluation, model, tokenizer, max_length, dtype, progress, stage)
            else:
                scores, samples = _lm_eval(prepared, evaluation, model, tokenizer, max_length, dtype, progress, stage)
    finally:
        model.train(was_training)
    return Result(tuple(scores), samples, time.perf_counter() - began)


def _likelihood(
    prepared: PreparedSuite,
    evaluation: Evaluation,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dtype: str,
    progress: Progress,
    stage: str,
) -> tuple[list[Score], pd.DataFrame]:
    import torch

    suite = prepared.suite
    progress.stage(stage, len(prepared.rows))
    ((task, ids),) = prepared.items.items()
    try:
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            samples = likelihood.samples(
                suite.name, task, model, tokenizer, prepared.rows, ids, evaluation.prompt_format, max_length, progress
            )
    except (EvaluationError, RuntimeError) as error:
        return [failed(suite, task, f"{type(error).__name__}: {error}")], pd.DataFrame({column: [] for column in SAMPLE_COLUMNS})
    return scores_of(suite, samples, {}), samples


def _lm_eval(
    prepared: PreparedSuite,
    evaluation: Evaluation,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dtype: str,
    progress: Progress,
    stage: str,
) -> tuple[list[Score], pd.DataFrame]:
    suite = prepared.suite
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = evaluation.model(model, tokenizer, max_length, dtype, progress, stage)
    rows: list[dict[str, Any]] = []
    scores: list[Score] = []
    higher: dict[str, bool] = {}
    groups = _groups(prepared)
    while groups:
        group = groups.pop(0)
        try:
            logged = _logged(lm, group, prepared, evaluation)
            found = [row for name, task in group.items() for row in rows_of(suite, name, task, logged[name], tokenizer, max_length)]
        except (EvaluationError, RuntimeError, ValueError, LookupError, TypeError, OSError, AssertionError, ArithmeticError) as error:
            if len(group) > 1:  # find the one that fails; the others keep their scores
                groups = [{name: task} for name, task in group.items()] + groups
            else:
                scores += [failed(suite, name, f"{type(error).__name__}: {error}") for name in group]
            continue
        rows += found
        for task in group.values():
            higher |= {metric: bool(better) for metric, better in task.higher_is_better().items()}
    samples = pd.DataFrame(rows) if rows else pd.DataFrame({column: [] for column in SAMPLE_COLUMNS})
    measured = scores_of(suite, samples, higher) if rows else []
    present = {score.task for score in [*measured, *scores] if score.primary}
    scores += [failed(suite, name, "no item has a value") for name in prepared.tasks if name not in present]
    return measured + scores, samples


def _groups(prepared: PreparedSuite) -> list[dict[str, Task]]:
    """Group tasks that can share batches; a generation task, dear and the likeliest to fail, goes alone."""
    together = {name: task for name, task in prepared.tasks.items() if task.OUTPUT_TYPE != "generate_until"}
    alone = [{name: task} for name, task in prepared.tasks.items() if task.OUTPUT_TYPE == "generate_until"]
    return [*([together] if together else []), *alone]


def _logged(lm: LM, tasks: dict[str, Task], prepared: PreparedSuite, evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Run lm-eval on tasks; return its logged samples by task."""
    import lm_eval

    for task in tasks.values():
        task.set_fewshot_seed(seed=FEWSHOT_SEED)  # every point sees the same shots
    found = lm_eval.evaluate(
        lm,
        {"tasks": tasks, "groups": {}, "group_map": {}},
        samples={name: list(prepared.items[name]) for name in tasks},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=evaluation.prompt_format == "chat",
    )
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples
