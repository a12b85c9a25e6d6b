"""Nats of gold answers, against a plain forward pass."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from harness.core.errors import EvaluationError
from harness.core.progress import Silent
from harness.core.rows import Example, Row, Turn
from harness.data.tokens import encode, written
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.likelihood import samples
from harness.models.score import answer_nats


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
    """Row by row, the same as summing log-probabilities of an unpadded forward pass.

    The first token is never a target.
    """
    rows = [example([1, 5, 7, 9, 2], 3), example([1, 4, 2], 1), example([3, 3, 8, 8, 8, 8, 9, 2], 0)]
    expected = []
    for row in rows:
        log_probs = torch.log_softmax(model(torch.tensor([row.input_ids])).logits[0].double(), -1)
        wanted = [t for t in range(1, len(row.input_ids)) if row.supervised[t]]
        expected.append(-sum(log_probs[t - 1, row.input_ids[t]].item() for t in wanted))
    assert answer_nats(model, rows, 64, Silent()) == pytest.approx(expected, abs=1e-5)


def test_padding_does_not_move_a_row(model: LlamaForCausalLM) -> None:
    """A row scores the same alone as next to a longer one."""
    short, long = example([1, 4, 2], 1), example([3, 3, 8, 8, 8, 8, 9, 2] * 4, 0)
    alone = answer_nats(model, [short], 64, Silent())[0]
    assert answer_nats(model, [short, long], 64, Silent())[0] == pytest.approx(alone, abs=1e-5)


def test_an_answer_beyond_the_context_fails_the_suite(model: LlamaForCausalLM) -> None:
    """It is not left out silently: the suite would have other items than before."""
    from harness.config import composition

    tokenizer = composition.member("model", "nursery-smoke-a").tokenizer()
    rows = composition.member("data", "tinyworld-skill").rows("test")[:4]
    with pytest.raises(EvaluationError, match="4 of 4 answers"):
        samples("s", "t", model, tokenizer, rows, range(4), HfEvaluation(), 2, Silent())


WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "jö", "mag", "東京", "nicht", "ja"]


def tokenizer(*, adds_bos: bool) -> PreTrainedTokenizerBase:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def text(content: str) -> Row:
    return Row((Turn("text", content),), "text")


@pytest.mark.parametrize(
    ("row", "adds_bos", "max_length", "spelled", "size"),
    [
        (text("jö mag 東京"), True, 9, [4, 5, 6], 3 + 1 + 3 + 1 + 6),
        (text("jö mag 東京"), False, 9, [5, 6], 1 + 3 + 1 + 6),  # the first word is predicted from nothing
        (text("jö mag 東京"), True, 3, [4, 5], 3 + 1 + 3),  # cut: BOS and two words are left
        (text("jö mag 東京"), False, 1, [], 0),
        (Row((Turn("user", "jö mag"), Turn("assistant", " 東京")), "completion"), True, 9, [6], 1 + 6),
        (Row((Turn("user", "jö mag "), Turn("assistant", "東京 ja")), "completion"), False, 9, [6, 8], 1 + 6 + 1 + 2),
    ],
)
def test_bytes_are_those_of_the_scored_text_in_utf_8(row: Row, adds_bos: bool, max_length: int, spelled: list[int], size: int) -> None:
    """ö is 2 bytes, 東京 6.

    EOS and unscored tokens have no bytes; a space belongs to the next word.
    """
    made = tokenizer(adds_bos=adds_bos)
    example = encode(row, made, "plain", max_length, "target")
    found = written(row, made, example)
    assert [token for token, on in zip(example.input_ids, found.spells, strict=True) if on] == spelled
    assert found.bytes == size


def test_bits_per_byte_by_hand(model: LlamaForCausalLM) -> None:
    """It is Σ nats / ln 2 / Σ bytes, without EOS; nats per token count EOS.

    The means are weighted by bytes and by tokens.
    """
    made, rows = tokenizer(adds_bos=True), [text("jö mag 東京"), text("nicht ja")]
    table = samples("s", "t", model, made, rows, range(2), HfEvaluation(), 16, Silent())
    nats = []
    for ids in ([1, 4, 5, 6, 2], [1, 7, 8, 2]):
        log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        nats.append([-log_probs[t - 1, ids[t]].item() for t in range(1, len(ids))])
    bits = sum(sum(row[:-1]) for row in nats) / math.log(2) / (14 + 8)
    found = (table["metric.bits_per_byte"] * table["weight.bits_per_byte"]).sum() / table["weight.bits_per_byte"].sum()
    assert found == pytest.approx(bits, rel=1e-5)
    assert table["weight.bits_per_byte"].tolist() == [14, 8]
    assert table["metric.nats_per_token"].tolist() == pytest.approx([sum(row) / len(row) for row in nats], rel=1e-5)
    assert table["weight.nats_per_token"].tolist() == [4, 3]
