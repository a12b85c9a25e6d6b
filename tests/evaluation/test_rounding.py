"""Differences between two measurements of the same model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.progress import Silent
from harness.evaluation import evaluator, suites
from harness.evaluation.backends import Evaluation, HfEvaluation, PrefixEvaluation
from harness.evaluation.evaluator import Result
from harness.evaluation.rounding import with_spread
from harness.evaluation.samples import failed, scores_of
from harness.evaluation.suites import Suite

SUITE = Suite(name="s", tasks=("t",), metric="acc")


def result(values: list[float], log_likelihoods: list[Any] | None) -> Result:
    n = len(values)
    fixed = {"task": "t", "filter": "none", "chance": 0.5, "unparsed": False, "prompt_truncated": False, "answer_truncated": False}
    samples = pd.DataFrame([fixed | {"doc_hash": f"d{i}", "metric.acc": value} for i, value in enumerate(values)])
    samples["log_likelihoods"] = pd.Series(log_likelihoods or [None] * n, dtype=object)
    return Result(tuple(scores_of(SUITE, samples, {})), samples, 1.0)


def test_the_spread_is_between_the_two_values_and_the_farthest_log_likelihoods() -> None:
    """Accuracy 2/4 and then 3/4; one log-likelihood moved by 0.25 nats, the others by less.

    Items pair by document, in any order.
    """
    first = result([1.0, 1.0, 0.0, 0.0], [[-1.0, -2.0], [-1.0, -3.0], [-1.0], [-2.0]])
    second = result([1.0, 1.0, 1.0, 0.0], [[-1.0, -2.0], [-1.25, -3.0], np.array([-1.125]), [-2.0]])
    second = Result(second.scores, second.samples.iloc[::-1].reset_index(drop=True), 1.0)
    (score,) = with_spread(first, second)
    assert (score.value, score.remeasured, score.numeric_spread, score.numeric_spread_nats) == (0.5, 0.75, 0.25, 0.25)


def test_a_second_measurement_that_failed_is_no_spread_of_0() -> None:
    """The spread is unknown then, and stays empty."""
    second = Result((failed(SUITE, "t", "out of memory"),), pd.DataFrame(columns=["task", "filter", "doc_hash", "log_likelihoods"]), 1.0)
    (score,) = with_spread(result([1.0, 0.0], [[-1.0], [-2.0]]), second)
    assert (score.remeasured, score.numeric_spread, score.numeric_spread_nats) == (None, None, None)


def test_text_has_no_spread_in_nats() -> None:
    """Generated answers have no log-likelihoods to compare."""
    (score,) = with_spread(result([1.0, 0.0], None), result([1.0, 0.0], None))
    assert (score.numeric_spread, score.numeric_spread_nats) == (0.0, None)


def test_other_batches_are_other_batches() -> None:
    """Every backend's second measurement has other batches."""
    kinds: list[Evaluation] = [HfEvaluation(), HfEvaluation(batch_size=1, likelihood_tokens=1), PrefixEvaluation()]
    for evaluation in [*kinds, PrefixEvaluation(token_budget=96)]:
        other = evaluation.otherwise()
        changed = {name for name, value in vars(other).items() if value != getattr(evaluation, name)}
        assert changed == {"likelihood_tokens", "batch_size" if isinstance(evaluation, HfEvaluation) else "parts"}


@pytest.mark.parametrize("backend", [HfEvaluation(), PrefixEvaluation()], ids=["hf", "prefix"])
@pytest.mark.parametrize("name", ["tinyworld-people", "tinyworld_text", "drift_target_base"])
def test_a_real_spread_is_rounding(name: str, backend: Evaluation, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> None:
    """A real model's log-likelihoods differ by less than a thousandth of a nat.

    In suites of every kind.
    """
    suite = suites.load(name)
    rows = _rows(suite)
    prepared = evaluator.prepare(suite, backend, rows)
    settings: dict[str, Any] = {"max_length": 64, "dtype": "float32", "progress": Silent(), "stage": ""}
    first, second = (evaluator.evaluate(prepared, one, random_model, words, **settings) for one in [backend, backend.otherwise()])
    for score in with_spread(first, second):
        assert score.numeric_spread_nats is not None
        assert score.numeric_spread_nats < 1e-3


def _rows(suite: Suite) -> Any:
    from harness.config import composition

    data = {"target": "tinyworld-skill"}.get(str(suite.data), str(suite.data))
    return () if suite.kind == "lm_eval" else composition.member("data", data).rows(suite.split)[:24]
