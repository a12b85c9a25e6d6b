"""A judge: log-odds by hand, braces in answers, other judges, rewards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harness.core.errors import ConfigError
from harness.methods.judge import Judge, probability
from harness.methods.objective.grpo import Grpo
from harness.methods.tuning.full import Full
from tests.support import tiny

JUDGE = Judge(template="{prompt} w9 {answer} w8", words=("w1", "w2"))


def odds_by_hand(text: str) -> float:
    """Log p(w1) - log p(w2) after a text, from the logits of the start model."""
    ids = tiny.tokenizer().encode(text, add_special_tokens=False)
    with torch.no_grad():
        logits: Any = tiny.llama()(input_ids=torch.tensor([ids])).logits[0, -1].double()
    good, bad = (tiny.tokenizer().convert_tokens_to_ids(word) for word in ("w1", "w2"))
    return float(logits[good] - logits[bad])


def test_odds_are_those_of_the_words() -> None:
    """Each answer is scored alone.

    The judge is the start model, also after training has moved the live model.
    """
    model = Full().prepare(tiny.llama(), 0)
    context = tiny.learning(model, Grpo())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    asked = [("w3", "w4"), ("w3", "w5 w6"), ("w3", "w4")]
    found, _ = JUDGE.log_odds(context.own, asked, spaced=True)
    assert found == pytest.approx([odds_by_hand(f"{prompt} w9 {answer} w8") for prompt, answer in asked], abs=1e-5)
    live, _ = JUDGE.log_odds(context.live, asked, spaced=True)
    assert live != pytest.approx(found, abs=1e-3)


def test_an_answer_is_no_template() -> None:
    """Braces in an answer are kept."""
    assert JUDGE._question("a", "{prompt} {answer}") == "a w9 {prompt} {answer} w8"


def test_another_model_is_asked_in_its_own_words() -> None:
    """Its questions are encoded by its own tokenizer and prompt format.

    Its tokens alone are counted.
    """

    class Other:
        """Encodes a text as its words in reverse, and scores by the first of them."""

        tokenizer, context_length = tiny.tokenizer(), None

        def text_prompt(self, text: str) -> tuple[int, ...]:
            return tuple(reversed(self.tokenizer.encode(text, add_special_tokens=False)))

        def nats(self, examples: Any) -> list[float]:
            worse = self.tokenizer.convert_tokens_to_ids("w2")
            return [float(example.input_ids[0]) * (example.input_ids[-1] == worse) for example in examples]

    other: Any = Other()
    odds, read = JUDGE.log_odds(other, [("w3", "w4 w5")], spaced=True)
    assert odds == [tiny.tokenizer().convert_tokens_to_ids("w8")]
    assert read == [2 * 6]  # w8 w5 w4 w9 w3 and w1 or w2


def test_questions_that_a_judge_cannot_read_are_rejected() -> None:
    """Longer than its context, in one line."""
    model = Full().prepare(tiny.llama(max_position_embeddings=8), 0)
    context = tiny.learning(model, Grpo())
    assert len(JUDGE.log_odds(context.own, [("w3", "w4 w5 w6 w7")], spaced=True)[0]) == 1
    for author in (context.own, context.live):
        with pytest.raises(ConfigError, match="objective.judge: got a question of 9 tokens; allowed: at most 8"):
            JUDGE.log_odds(author, [("w3", "w4 w5 w6 w7 w2")], spaced=True)


def test_odds_are_a_reward_from_0_to_1() -> None:
    """P(yes) / (P(yes) + P(no)), without overflow."""
    assert [probability(value) for value in (0.0, math.log(3), -math.log(3))] == pytest.approx([0.5, 0.75, 0.25])
    assert [probability(value) for value in (1e4, -1e4)] == [1.0, 0.0]


def test_a_judge_rewards_answers() -> None:
    """The reward ``judge`` is its probability.

    The judge's model is one of the objective's only if that reward is used.
    """
    objective = Grpo(reward=("judge",), judge=JUDGE, samples=2, max_new_tokens=3)
    row = objective.encode(tiny.rows("completion", 1)[0], tiny.tokenizer(), tiny.MAX_LENGTH, "target")
    assert row.row is not None
    context = tiny.learning(tiny.llama(), objective)
    expected = probability(odds_by_hand(f"{row.row.turns[0].content} w9 w4 w8"))
    assert objective.worth([row], ["w4"], context) == pytest.approx([expected], abs=1e-6)
    other = Judge(model="nursery-l", template=JUDGE.template)
    assert Grpo(reward=("judge",), judge=other).models == ("nursery-l",)
    assert Grpo(judge=other).models == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"template": "{prompt}"}, "answer"), ({"words": ("w1", " w1")}, "two different words"), ({"words": ("w1", "")}, "two different")],
)
def test_invalid_judges_are_rejected(values: dict[str, Any], message: str) -> None:
    """A template without the answer, or one word."""
    with pytest.raises(ConfigError, match=message):
        Judge(**values)
