"""The same items asked by choice and by generation."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.errors import ConfigError, EvaluationError
from harness.core.progress import Silent
from harness.evaluation import evaluator, suites
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.evaluator import PreparedSuite, Result
from harness.evaluation.tasks import generated


@pytest.fixture(scope="module")
def prepared() -> PreparedSuite:
    return evaluator.prepare(dataclasses.replace(suites.load("tinyworld_protocols"), report=12), HfEvaluation())


def evaluate(prepared: PreparedSuite, model: Any, tokenizer: PreTrainedTokenizerBase) -> Result:
    return evaluator.evaluate(prepared, HfEvaluation(), model, tokenizer, max_length=64, dtype="float32", progress=Silent(), stage="")


@pytest.fixture(scope="module")
def result(prepared: PreparedSuite, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> Result:
    return evaluate(prepared, random_model, words)


def test_items_pair_by_their_document(result: Result) -> None:
    """Both protocols ask the same documents with the same prompt."""
    for name in ["tinyworld_facts", "tinyworld_arithmetic"]:
        one, other = (result.samples[result.samples["task"] == task].set_index("doc_hash") for task in [name, f"{name}_generated"])
        assert set(one.index) == set(other.index)
        assert (one["prompt"] == other.loc[one.index, "prompt"]).all()
        right = [choices[int(target)] for choices, target in zip(one["choices"], one["target"], strict=True)]
        assert [choice.strip() for choice in right] == other.loc[one.index, "target"].tolist()


def test_generated_answers_stand_apart(result: Result) -> None:
    """They have a metric of their own and are not part of the suite's mean.

    There is no chance level.
    """
    apart = {score.task: score for score in result.scores if score.task.endswith("_generated")}
    assert set(apart) == {"tinyworld_facts_generated", "tinyworld_arithmetic_generated"}
    assert {(score.metric, score.primary, score.chance, score.n) for score in apart.values()} == {("exact_match", False, None, 12)}
    assert {score.metric for score in result.scores if score.primary} == {"acc"}


@pytest.mark.parametrize(
    ("answer", "right"),
    [("{}", True), (" {} ", True), ("{}.", True), ("{} .", True), ("{} of course", False), ("-{}", False), ("", False)],
)
def test_an_answer_is_right_but_for_case_space_and_a_full_stop(prepared: PreparedSuite, answer: str, right: bool) -> None:
    """A sign or a word more is another answer."""
    task = prepared.tasks["tinyworld_arithmetic_generated"]
    doc = task.eval_docs[prepared.items["tinyworld_arithmetic_generated"][3]]
    text = answer.format(task.doc_to_target(doc).upper())
    assert task.process_results(doc, [text])["exact_match"] == float(right)


def test_a_generated_task_that_fails_costs_the_suite_nothing(
    prepared: PreparedSuite, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row has the reason; the suite's own tasks are all there."""
    monkeypatch.setattr(prepared.tasks["tinyworld_facts_generated"], "process_results", lambda *_: 1 / 0)
    scores = evaluate(prepared, random_model, words).scores
    (broken,) = [score for score in scores if score.status == "failed"]
    assert (broken.task, broken.metric, broken.primary) == ("tinyworld_facts_generated", "exact_match", False)
    assert len([score for score in scores if score.primary]) == 2


def test_only_choices_of_one_prompt_can_be_generated(prepared: PreparedSuite) -> None:
    """A task that generates already, or has the choices in the prompt, is rejected."""
    name = "tinyworld_facts_generated"
    with pytest.raises(EvaluationError, match="protocols"):
        generated(prepared.suite, name, prepared.tasks[name], prepared.items[name])


def test_protocols_are_checked() -> None:
    """Choices are always asked by likelihood; a suite of another kind has no second protocol."""
    suite = suites.load("tinyworld_protocols")
    wrong: list[Any] = [("generation",), (), ("loglikelihood", "loglikelihood")]
    for protocols in wrong:
        with pytest.raises(ConfigError, match="protocols"):
            dataclasses.replace(suite, protocols=protocols)
    with pytest.raises(ConfigError, match="protocols"):
        suites.Suite(
            name="s",
            kind="likelihood",
            data="gsm8k",
            metric="nats_per_token",
            higher_is_better=False,
            chance=None,
            protocols=("loglikelihood", "generation"),
        )
