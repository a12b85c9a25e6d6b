"""A tiny model with random weights and the nursery's tokenizer, for all these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from harness.config import composition


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerBase:
    """The nursery's tokenizer, one token per word."""
    found: PreTrainedTokenizerBase = composition.member("model", "nursery-smoke-a").tokenizer()
    return found


@pytest.fixture(scope="session")
def random_model(words: PreTrainedTokenizerBase) -> Iterator[LlamaForCausalLM]:
    """An untrained model of two layers."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # noqa: TID251 - a model of a test
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    built = LlamaForCausalLM(config).eval()
    torch.set_rng_state(state)
    yield built
    torch.set_num_threads(threads)
