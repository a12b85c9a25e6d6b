"""`prefix` against HFLM on the project's suites, with a trained model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.config import composition
from harness.core.progress import Silent
from harness.evaluation import evaluator, suites
from harness.evaluation.backends import Evaluation, HfEvaluation, PrefixEvaluation
from harness.evaluation.evaluator import Result
from tests.support.families import TOLERANCE

SUITES = ["tinyworld", "tinyworld-people", "tinyworld-language", "tinyworld-skill", "tinyworld_protocols"]


@pytest.fixture(scope="module")
def nursery() -> PreTrainedModel:
    """The smallest model of the nursery; the first use trains it."""
    model: PreTrainedModel = composition.member("model", "nursery-smoke-a").load()
    return model.eval()


def evaluated(name: str, backend: Evaluation, model: PreTrainedModel, words: PreTrainedTokenizerBase) -> Result:
    suite = dataclasses.replace(suites.load(name), report=60)
    prepared = evaluator.prepare(suite, backend)
    return evaluator.evaluate(prepared, backend, model, words, max_length=128, dtype="float32", progress=Silent(), stage="")


@pytest.mark.parametrize("backend", [PrefixEvaluation(), PrefixEvaluation(token_budget=48)], ids=["found", "small"])
@pytest.mark.parametrize("name", SUITES)
def test_scores_items_and_answers_are_those_of_hflm(
    name: str, backend: Evaluation, nursery: PreTrainedModel, words: PreTrainedTokenizerBase
) -> None:
    """The same choices, answers and accuracies; log-likelihoods within 0.001 nats."""
    one, other = (evaluated(name, each, nursery, words) for each in (HfEvaluation(), backend))
    assert [score.status for score in one.scores] == ["ok"] * len(one.scores)
    compared: dict[Any, float | None] = {(score.task, score.metric, score.filter): score.value for score in other.scores}
    assert compared == {(score.task, score.metric, score.filter): score.value for score in one.scores}
    assert [*one.samples["prompt_hash"]] == [*other.samples["prompt_hash"]]
    assert [*one.samples["text"]] == [*other.samples["text"]]
    worst = 0.0
    for first, second in zip(one.samples["log_likelihoods"], other.samples["log_likelihoods"], strict=True):
        if first is not None:
            worst = max(worst, float(np.abs(np.asarray(first) - np.asarray(second)).max()))
    assert 0 < worst < TOLERANCE
