"""An interrupted evaluation continues, for the same weights and settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.progress import Silent
from harness.evaluation import evaluator, suites
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.evaluator import PreparedSuite, Result
from harness.models.weights import state_sha256
from harness.records.partial import Partial


@pytest.fixture(scope="module")
def prepared() -> PreparedSuite:
    return evaluator.prepare(dataclasses.replace(suites.load("tinyworld"), report=20), HfEvaluation())


@dataclasses.dataclass
class Counted:
    """Evaluate and count the computed tasks, with an interruption in the task of this number."""

    prepared: PreparedSuite
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    monkeypatch: pytest.MonkeyPatch
    computed: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, partial: Partial | None, *, stop_at: int = 0) -> Result:
        """Evaluate."""
        import lm_eval

        self.computed.clear()
        evaluate = lm_eval.evaluate

        def counted(lm: Any, tasks: Any, **settings: Any) -> Any:
            self.computed.extend(tasks["tasks"])
            if len(self.computed) == stop_at:
                raise KeyboardInterrupt
            return evaluate(lm, tasks, **settings)

        with self.monkeypatch.context() as patch:
            patch.setattr(lm_eval, "evaluate", counted)
            settings: dict[str, Any] = {"max_length": 64, "dtype": "float32", "progress": Silent(), "stage": ""}
            return evaluator.evaluate(self.prepared, HfEvaluation(), self.model, self.tokenizer, partial=partial, **settings)


@pytest.fixture
def evaluate(
    prepared: PreparedSuite, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> Counted:
    return Counted(prepared, random_model, words, monkeypatch)


def test_a_finished_task_is_not_computed_again(evaluate: Counted, tmp_path: Path) -> None:
    """After an interruption in the second of three tasks, the second and third are computed.

    Every number equals that of an uninterrupted evaluation.
    """
    whole = evaluate(None)
    first, second, third = evaluate.computed
    with pytest.raises(KeyboardInterrupt):
        evaluate(Partial(tmp_path, "k"), stop_at=2)
    assert evaluate.computed == [first, second]
    resumed = evaluate(Partial(tmp_path, "k"))
    assert evaluate.computed == [second, third]
    assert resumed.scores == whole.scores
    lists = ["choices", "log_likelihoods"]
    assert resumed.samples.drop(columns=lists).equals(whole.samples.drop(columns=lists))
    for name in lists:
        assert [list(value) for value in resumed.samples[name]] == [list(value) for value in whole.samples[name]]


def test_what_was_kept_of_other_weights_is_dropped(evaluate: Counted, tmp_path: Path) -> None:
    """Another key (weights, settings, items) finds nothing and clears the first one."""
    evaluate(Partial(tmp_path, "k"))
    evaluate(Partial(tmp_path, "other"))
    assert len(evaluate.computed) == 3
    evaluate(Partial(tmp_path, "k"))
    assert len(evaluate.computed) == 3


def test_a_failed_task_is_tried_again(evaluate: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a reason and no value; the next try computes it alone."""
    name = next(iter(evaluate.prepared.tasks))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate.prepared.tasks[name], "process_results", lambda *_: 1 / 0)
        scores = evaluate(Partial(tmp_path, "k")).scores
    assert [score.task for score in scores if score.status == "failed"] == [name]
    assert all(score.status == "ok" for score in evaluate(Partial(tmp_path, "k")).scores)
    assert evaluate.computed == [name]


def test_a_damaged_file_is_work_to_do(evaluate: Counted, tmp_path: Path) -> None:
    """An unreadable file is not an error: its task is computed again."""
    evaluate(Partial(tmp_path, "k"))
    for file, content in zip(sorted(tmp_path.rglob("*.*")), [b"{", b"PAR1"], strict=False):
        file.write_bytes(content)
    evaluate(Partial(tmp_path, "k"))
    assert 1 <= len(evaluate.computed) <= 2


def test_a_task_scores_the_same_whatever_stands_beside_it(evaluate: Counted) -> None:
    """Its batches are its own: alone or after others, to the last bit."""
    name = list(evaluate.prepared.tasks)[-1]
    whole = evaluate(None)
    evaluate.prepared = dataclasses.replace(
        evaluate.prepared, tasks={name: evaluate.prepared.tasks[name]}, items={name: evaluate.prepared.items[name]}
    )
    alone = evaluate(None)
    beside = whole.samples[whole.samples["task"] == name]
    assert [list(value) for value in alone.samples["log_likelihoods"]] == [list(value) for value in beside["log_likelihoods"]]


def test_one_bit_of_one_weight_is_another_model(random_model: LlamaForCausalLM) -> None:
    """The key of the kept tasks changes with it."""
    weight = random_model.lm_head.weight.data
    before, value = state_sha256(random_model), weight[0, 0].clone()
    weight[0, 0] = value * (1 + 2**-20)
    assert state_sha256(random_model) != before
    weight[0, 0] = value
    assert state_sha256(random_model) == before
