"""Nats of gold answers, against a plain forward pass."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.errors import EvaluationError
from harness.evaluation.likelihood import answer_nats, samples
from harness.interfaces import Example, Silent


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.set_num_threads(1)
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)  # noqa: TID251 - a model of a test
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64
    )
    built = LlamaForCausalLM(config).eval()
    torch.set_rng_state(generator_state)
    return built


def example(ids: list[int], prompt: int) -> Example:
    return Example(tuple(ids), tuple(i >= prompt for i in range(len(ids))), "target", str(ids))


def test_nats_are_those_of_the_answer_given_the_prompt(model: LlamaForCausalLM) -> None:
    """Row by row, the same as summing log-probabilities of an unpadded forward pass; the first token is never a target."""
    rows = [example([1, 5, 7, 9, 2], 3), example([1, 4, 2], 1), example([3, 3, 8, 8, 8, 8, 9, 2], 0)]
    expected = []
    for row in rows:
        log_probs = torch.log_softmax(model(torch.tensor([row.input_ids])).logits[0].double(), -1)
        wanted = [t for t in range(1, len(row.input_ids)) if row.supervised[t]]
        expected.append(-sum(log_probs[t - 1, row.input_ids[t]].item() for t in wanted))
    assert answer_nats(model, rows, Silent()) == pytest.approx(expected, abs=1e-5)


def test_padding_does_not_move_a_row(model: LlamaForCausalLM) -> None:
    """A row scores the same alone as beside a longer one."""
    short, long = example([1, 4, 2], 1), example([3, 3, 8, 8, 8, 8, 9, 2] * 4, 0)
    alone = answer_nats(model, [short], Silent())[0]
    assert answer_nats(model, [short, long], Silent())[0] == pytest.approx(alone, abs=1e-5)


def test_an_answer_beyond_the_context_fails_the_suite(model: LlamaForCausalLM) -> None:
    """An item that cannot be scored is not left out silently: the suite would be of other items than before."""
    from harness import compose

    tokenizer = compose.member("model", "nursery-smoke-a").tokenizer()
    rows = compose.member("data", "tinyworld-skill").rows("test")[:4]
    with pytest.raises(EvaluationError, match="4 of 4 answers"):
        samples("s", "t", model, tokenizer, rows, range(4), "plain", 2, Silent())
