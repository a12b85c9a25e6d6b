"""Costs of preference pairs and rollouts, and rejected inputs of rewards and weight mitigations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.core.errors import ConfigError, TrainingError
from harness.core.methods import LearningContext, Step
from harness.methods.objective.dpo import Dpo
from harness.methods.objective.grpo import Grpo
from harness.run import other_models
from harness.training.trl import Rollouts
from tests.support.small_runs import Runs

SMALL = ("probe_suites=[]", "data.volumes=[8,16]")
GRPO = ("data=tinyworld-skill", "objective=grpo", "objective.samples=2", "objective.max_new_tokens=4")


def test_pairs_cost_both_answers_and_the_reference(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tokens of the batches are trained on, and read again by the reference.

    Tokens with a label are the supervised ones.
    """
    seen: list[tuple[int, int]] = []
    original = Dpo.collate

    def collate(self: Dpo, *arguments: Any) -> dict[str, torch.Tensor]:
        batch = original(self, *arguments)
        seen.append((int(batch["attention_mask"].sum()), int((batch["labels"] != -100).sum())))
        return batch

    monkeypatch.setattr(Dpo, "collate", collate)
    assert runs("data=tinyworld-preferences", "objective=dpo", "training.batch_rows=8", *SMALL) == "done"
    first, both = seen[0], tuple(map(sum, zip(*seen, strict=True)))
    found = [(p.counts.trained_tokens, p.counts.supervised_tokens, p.counts.read_tokens) for p in (runs.point(8), runs.point(16))]
    assert found == [(*first, first[0]), (*both, both[0])]


def test_rollouts_cost_their_generated_tokens(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gold answers do not count; a KL to the start model reads rollouts again."""
    seen: list[tuple[int, int]] = []
    original = Grpo.answer

    def answer(self: Grpo, step: Step, context: LearningContext, pad_id: int) -> Rollouts:
        found = original(self, step, context, pad_id)
        seen.append((int(found.batch["attention_mask"].sum()), int((found.batch["labels"] != -100).sum())))
        return found

    monkeypatch.setattr(Grpo, "answer", answer)
    reward = ("objective.reward=[format]", "objective.pattern='.*a.*'", "objective.beta=0.1")
    assert runs(*GRPO, *reward, "training.batch_rows=8", *SMALL) == "done"
    first, both = seen[0], tuple(map(sum, zip(*seen, strict=True)))
    found = [
        (p.counts.trained_tokens, p.counts.supervised_tokens, p.counts.read_tokens, p.counts.generated_tokens)
        for p in (runs.point(8), runs.point(16))
    ]
    assert found == [(*first, first[0], first[1]), (*both, both[0], both[1])]


def test_rewards_that_never_differ_are_an_error(runs: Runs) -> None:
    """A model that is never right learns nothing, at any learning rate."""
    with pytest.raises(TrainingError, match="answers to each prompt had equal rewards.*fix: another reward, more objective.samples"):
        runs(*GRPO, *SMALL)


def test_weights_of_models_with_other_vocabularies_are_not_combined(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabularies have one size, but two tokens are swapped."""
    original = other_models._vocabulary

    def swapped(workspace: Any, model: Any) -> dict[str, int]:
        found = dict(original(workspace, model))
        if "chat" in repr(model):
            one, two = list(found)[:2]
            found[one], found[two] = found[two], found[one]
        return found

    pair = ("mitigation=chat_vector", "mitigation.vectors=[{chat: chat, base: base}]")
    runs.prepare(*pair)
    monkeypatch.setattr(other_models, "_vocabulary", swapped)
    with pytest.raises(ConfigError, match="mitigation=chat_vector.*: model chat: got other tokens.*fix: models of one tokenizer"):
        runs.prepare(*pair)
