"""Tokenizers that append EOS to every text: scores and prompts are without it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from harness.core.progress import Silent
from harness.core.sources import EvaluationBackend
from harness.evaluation.backends import HfEvaluation, PrefixEvaluation
from tests.support import families, tiny
from tests.support.appending import APPENDING
from tests.support.families import TOLERANCE, requests

pytestmark = pytest.mark.model

EVALUATIONS = [HfEvaluation(), PrefixEvaluation(), HfEvaluation(add_bos=True), PrefixEvaluation(add_bos=True)]


@pytest.mark.parametrize("evaluation", EVALUATIONS, ids=["hf", "prefix", "hf with BOS", "prefix with BOS"])
@pytest.mark.parametrize("kind", ["template", "sequence", "bert"])
def test_scores_and_answers_are_those_of_a_tokenizer_that_appends_nothing(
    kind: str, evaluation: EvaluationBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Against lm-eval's class with a tokenizer that adds BOS alone.

    With an appended EOS lm-eval scores the EOS as every answer.
    """
    caplog.set_level(logging.ERROR, logger="lm_eval")
    model = families.built("llama")
    expected, wrong = (HFLM(batch_size=4, **families.arguments(model, tokenizer=one)) for one in (families.with_bos(), APPENDING[kind]()))
    lm: Any = evaluation.model(model, APPENDING[kind](), families.MAX_LENGTH, "float32", Silent(), "")
    pairs = [*requests("multi-token"), *requests("empty")]
    families.compare(expected, lm, pairs)
    scored = families.scored(requests("one-token"))
    assert abs(wrong.loglikelihood(scored, disable_tqdm=True)[0][0] - lm.loglikelihood(scored, disable_tqdm=True)[0][0]) > TOLERANCE
    rolled, asked = (
        families.rolled(["w1 w2 w3"]),
        families.asked([("w1 w2", {"until": ["#"], "max_gen_toks": 4}), ("w3", {"until": ["#"], "max_gen_toks": 4})]),
    )
    assert lm.loglikelihood_rolling(rolled, disable_tqdm=True) == pytest.approx(
        expected.loglikelihood_rolling(rolled, disable_tqdm=True), abs=TOLERANCE
    )
    assert lm.generate_until(asked, disable_tqdm=True) == expected.generate_until(asked, disable_tqdm=True)
    assert lm.tok_encode("w1")[-1] != tiny.EOS
