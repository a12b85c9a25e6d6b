"""A live model on tinyworld's tasks, against lm-eval itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.progress import Silent
from harness.evaluation import evaluator, suites
from harness.evaluation.backends import Evaluation, HfEvaluation, PrefixEvaluation
from harness.evaluation.evaluator import PreparedSuite, Result


@pytest.fixture(scope="module")
def tokenizer(words: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return words


@pytest.fixture(scope="module")
def model(random_model: LlamaForCausalLM) -> LlamaForCausalLM:
    return random_model


@pytest.fixture(scope="module")
def prepared() -> PreparedSuite:
    suite = suites.load("tinyworld")
    return evaluator.prepare(suite, HfEvaluation())


@pytest.fixture(scope="module", params=[HfEvaluation(), PrefixEvaluation()], ids=["hf", "prefix"])
def backend(request: pytest.FixtureRequest) -> Evaluation:
    """Each backend, at its default settings."""
    found: Evaluation = request.param
    return found


def evaluate(prepared: PreparedSuite, backend: Evaluation, model: Any, tokenizer: PreTrainedTokenizerBase) -> Result:
    return evaluator.evaluate(prepared, backend, model, tokenizer, max_length=64, dtype="float32", progress=Silent(), stage="")


@pytest.fixture(scope="module")
def result(prepared: PreparedSuite, backend: Evaluation, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Result:
    return evaluate(prepared, backend, model, tokenizer)


def test_scores_are_those_that_lm_eval_reports(
    prepared: PreparedSuite, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, result: Result
) -> None:
    """Our means over items and their standard errors are lm-eval's, task by task."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=64)
    found = lm_eval.evaluate(
        lm,
        {"tasks": dict(prepared.tasks), "groups": {}, "group_map": {}},
        samples={name: list(items) for name, items in prepared.items.items()},
        bootstrap_iters=100,
    )
    ours = {score.task: score for score in result.scores if score.metric == "acc"}
    assert set(ours) == set(prepared.tasks)
    for task, score in ours.items():
        assert score.value == pytest.approx(found["results"][task]["acc,none"])
        assert score.stderr == pytest.approx(found["results"][task]["acc_stderr,none"], rel=1e-6)


def test_the_same_items_are_asked_every_time(
    prepared: PreparedSuite, backend: Evaluation, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, result: Result
) -> None:
    """Another evaluation of the suite asks the same prompts, in any batches."""
    again = evaluate(prepared, backend.otherwise(), model, tokenizer)
    keys = ["task", "filter", "doc_id", "doc_hash", "prompt_hash", "target_hash"]
    assert again.samples[keys].equals(result.samples[keys])
    assert not result.samples.duplicated(["task", "filter", "doc_hash"]).any()


def test_every_item_knows_its_level_of_guessing(result: Result) -> None:
    """An item's chance is 1 / number of choices, a score's is the mean."""
    levels = result.samples["choices"].map(len).rdiv(1.0)
    assert result.samples["chance"].tolist() == pytest.approx(levels.tolist())
    for score in result.scores:
        own = result.samples.loc[result.samples["task"] == score.task, "chance"]
        assert score.chance == pytest.approx(own.mean())


def test_evaluating_leaves_the_model_and_the_streams_alone(
    prepared: PreparedSuite, backend: Evaluation, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Training is unaffected: same mode, same weights, same random numbers."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    model.train()
    evaluate(prepared, backend, model, tokenizer)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model.train(False)


def test_an_adapter_that_has_not_learned_scores_exactly_as_the_base(
    prepared: PreparedSuite, backend: Evaluation, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, result: Result
) -> None:
    """LoRA with B = 0 is the base, item by item, to the last bit."""
    import copy

    from harness.methods.tuning.lora import Lora

    wrapped = Lora(rank=2).prepare(copy.deepcopy(model), 0)
    same = evaluate(prepared, backend, wrapped, tokenizer)
    assert [list(x) for x in same.samples["log_likelihoods"]] == [list(x) for x in result.samples["log_likelihoods"]]


def test_a_task_that_breaks_costs_no_other_its_score(
    prepared: PreparedSuite,
    backend: Evaluation,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    result: Result,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broken task is failed with its reason; the others score as before."""
    name = sorted(prepared.tasks)[0]

    def broken(*_: Any) -> None:
        raise ValueError("no answer here")

    monkeypatch.setattr(prepared.tasks[name], "process_results", broken)
    scores = {score.task: score for score in evaluate(prepared, backend, model, tokenizer).scores if score.primary}
    assert (scores[name].status, scores[name].value) == ("failed", None)
    assert "no answer here" in str(scores[name].reason)
    before = {score.task: score.value for score in result.scores if score.primary}
    assert {task: score.value for task, score in scores.items() if task != name} == {task: v for task, v in before.items() if task != name}


def test_a_model_of_no_numbers_has_failed_and_has_not_guessed(
    prepared: PreparedSuite, backend: Evaluation, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Diverged weights give NaN, whose argmax is the first choice: not an accuracy."""
    import copy

    broken = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
    scores = evaluate(prepared, backend, broken, tokenizer).scores
    assert {(score.status, score.value) for score in scores} == {("failed", None)}
    assert all("that is NaN" in str(score.reason) for score in scores)


def test_an_item_is_searched_for_by_its_question_and_right_answer(result: Result) -> None:
    """The text compared with training rows has the answer's words, not the choice's index."""
    for _, row in result.samples.sample(20, random_state=0).iterrows():
        answer = row["choices"][int(row["target"])].strip()
        assert row["item"].endswith(answer)
        assert row["prompt"].strip() in row["item"]


def test_a_backend_that_changes_the_model_gives_failed_scores(
    prepared: PreparedSuite, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Such as weights that a library ties again; the reason has the difference."""

    class Tying(HfEvaluation):
        def model(self, model: Any, *arguments: Any) -> Any:
            with torch.no_grad():
                model.lm_head.weight.add_(1.0)
                model.lm_head.weight[0].mul_(2.0)
            return super().model(model, *arguments)

    result = evaluate(prepared, Tying(), copy.deepcopy(model), tokenizer)
    assert {score.status for score in result.scores} == {"failed"}
    assert all("logits that differ by" in str(score.reason) and "as lm-eval wraps it" in str(score.reason) for score in result.scores)
