"""Rows to tokens: supervision, BOS and EOS, and cuts, by tokenizers small enough to read."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from harness.core.errors import ConfigError, DataError
from harness.core.rows import Example, Row, Turn
from harness.data.tokens import encode, supervision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORDS = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<end>", "q", "a", "b", "c", "d"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
FORGETFUL = TEMPLATE.replace("{{ m['content'] }}", "{% if loop.last %}{{ m['content'] }}{% else %}d{% endif %}")


def tokenizer(*, adds_bos: bool = False, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Return a tokenizer that splits at white space."""
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=["<user>", "<assistant>", "<end>"],
    )
    made.chat_template = template
    return made


def row(*turns: tuple[str, str], kind: str = "completion") -> Row:
    return Row(tuple(Turn(role, content) for role, content in turns), kind)  # type: ignore[arg-type]


def shown(example: Example) -> list[str]:
    """Write the tokens as words, supervised ones in capitals."""
    return [WORDS[i].upper() if on else WORDS[i] for i, on in zip(example.input_ids, example.supervised, strict=True)]


QUESTION = row(("user", "q a"), ("assistant", " b c"))


def test_text_is_supervised_throughout_and_ends_with_eos() -> None:
    """Each document is closed, so that packed neighbours stay separate."""
    example = encode(row(("text", "a b"), kind="text"), tokenizer(), "plain", 16, "anchor")
    assert shown(example) == ["A", "B", "<EOS>"]
    assert (example.origin, example.truncated, example.supervised_tokens) == ("anchor", False, 2)


def test_only_the_completion_and_its_eos_are_supervised() -> None:
    """The prompt has no loss; the model learns to stop."""
    example = encode(QUESTION, tokenizer(), "plain", 16, "target")
    assert shown(example) == ["q", "a", "B", "C", "<EOS>"]
    assert example.row_id == QUESTION.id


def test_a_system_text_stands_before_the_prompt() -> None:
    """Without a chat template it is one more paragraph."""
    example = encode(row(("system", "d"), ("user", "q"), ("assistant", " b")), tokenizer(), "plain", 16, "target")
    assert shown(example) == ["d", "q", "B", "<EOS>"]


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
@pytest.mark.parametrize("kind", ["text", "completion"])
def test_bos_is_there_exactly_once_if_the_tokenizer_adds_one(prompt_format: str, kind: str) -> None:
    """Also where the text or the template writes it already."""
    adding = tokenizer(adds_bos=True)
    plain = row(("text", "a b"), kind="text") if kind == "text" else QUESTION
    again = row(("text", "<bos> a b"), kind="text") if kind == "text" else row(("user", "<bos> q"), ("assistant", " b"))
    for one in [plain] if prompt_format == "chat" else [plain, again]:
        ids = encode(one, adding, prompt_format, 16, "target").input_ids  # type: ignore[arg-type]
        assert ids[0] == WORDS.index("<bos>")
        assert ids.count(WORDS.index("<bos>")) == 1


def test_every_assistant_turn_is_supervised_with_its_end_of_turn() -> None:
    """Without the role, the white space after the end of turn, and other speakers."""
    chat = row(("user", "q"), ("assistant", "a b"), ("user", "c"), ("assistant", "d"), kind="chat")
    example = encode(chat, tokenizer(), "chat", 32, "target")
    expected = "<bos> <user> q <end> <assistant> A B <END> <user> c <end> <assistant> D <END>"
    assert shown(example) == expected.split()


def test_completions_become_messages_under_chat() -> None:
    """The separator between prompt and completion is the template's business then."""
    example = encode(QUESTION, tokenizer(), "chat", 32, "target")
    assert shown(example) == ["<bos>", "<user>", "q", "a", "<end>", "<assistant>", "B", "C", "<END>"]


def test_long_rows_are_cut_at_the_end_and_say_so() -> None:
    """A cut may remove every supervised token."""
    example = encode(QUESTION, tokenizer(), "plain", 3, "target")
    assert shown(example) == ["q", "a", "B"]
    assert example.truncated
    assert encode(QUESTION, tokenizer(), "plain", 2, "target").supervised_tokens == 0
    assert not encode(QUESTION, tokenizer(), "plain", 5, "target").truncated


def test_supervision_sums_up_and_refuses_rows_that_teach_nothing() -> None:
    """One of two rows lost its answer; without any, a run would train on nothing."""
    short, whole = encode(QUESTION, tokenizer(), "plain", 2, "target"), encode(QUESTION, tokenizer(), "plain", 16, "target")
    found = supervision([short, whole])
    assert dataclasses.astuple(found) == (2, 7, 3, 1, 1)
    with pytest.raises(DataError, match=r"no supervised token in 1 rows \(1 of them cut"):
        supervision([short])


@pytest.mark.parametrize(
    ("template", "error", "word"),
    [
        (None, ConfigError, "no chat template"),
        (FORGETFUL, DataError, "one that only appends"),
        (TEMPLATE.replace(" <end>", ""), DataError, "end-of-turn token"),
        ("{{ raise_exception('no such role') }}", DataError, "no such role"),
    ],
)
def test_chat_templates_that_cannot_be_masked_are_refused(template: str | None, error: type[Exception], word: str) -> None:
    """A wrong mask would train on the wrong words, with a normal loss curve."""
    chat = row(("user", "q"), ("assistant", "a"), ("user", "c"), ("assistant", "b"), kind="chat")
    with pytest.raises(error, match=word):
        encode(chat, tokenizer(template=template), "chat", 32, "target")


def test_conversations_need_the_chat_format() -> None:
    """There is no plain way to write one."""
    with pytest.raises(DataError, match="prompt_format=chat"):
        encode(row(("user", "q"), ("assistant", "a"), kind="chat"), tokenizer(), "plain", 32, "target")


def test_a_token_across_the_border_is_supervised_and_no_text_is_lost() -> None:
    """'a' and 'b' merge to 'ab' without a space: the merged token is the completion's."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"q": 0, "a": 1, "b": 2, "ab": 3, "c": 4, "<eos>": 5}
    merging = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [("a", "b")])), eos_token="<eos>")
    example = encode(row(("user", "qa"), ("assistant", "bc")), merging, "plain", 16, "target")
    assert example.input_ids == (0, 3, 4, 5)
    assert example.supervised == (False, True, True, True)


@pytest.mark.hub
def test_a_real_tokenizer_splits_prompt_and_completion_as_lm_eval_does() -> None:
    """The prompt's tokens are its own encoding, the completion's the rest, as in lm-eval."""
    from harness.models.hub import HubModel

    real = HubModel(name="offline/SmolLM2-135M-Instruct-Q4").tokenizer()
    prompt, completion = "Question: What is 6 × 7?\nAnswer:", " It is 42.\n#### 42"
    example = encode(row(("user", prompt), ("assistant", completion)), real, "plain", 128, "target")
    border = example.supervised.index(True)
    assert list(example.input_ids[:border]) == real.encode(prompt)
    assert list(example.input_ids) == [*real.encode(prompt + completion), real.eos_token_id]


@pytest.mark.hub
def test_a_real_chat_template_is_masked_to_the_answer_and_its_end() -> None:
    """Decoded, the supervised tokens are what the assistant says and the end-of-turn token."""
    from harness.models.hub import HubModel

    real = HubModel(name="offline/SmolLM2-135M-Instruct-Q4").tokenizer()
    chat = row(("user", "Hi"), ("assistant", "\nHello there.\n\n"), ("user", "你好"), ("assistant", "你好 !"), kind="chat")
    example = encode(chat, real, "chat", 128, "target")
    said = str(real.decode([i for i, on in zip(example.input_ids, example.supervised, strict=True) if on]))
    assert said.replace("\n", "") == "Hello there.<|im_end|>你好 !<|im_end|>"
    messages = [{"role": turn.role, "content": turn.content} for turn in chat.turns]
    assert list(example.input_ids) == dict(real.apply_chat_template(messages))["input_ids"]  # type: ignore[arg-type]


def test_answers_that_are_not_taught_only_give_context() -> None:
    """The first answer is read, the second is learned."""
    turns = (Turn("user", "q"), Turn("assistant", "a", taught=False), Turn("user", "q"), Turn("assistant", "b"))
    example = encode(Row(turns, "chat"), tokenizer(), "chat", 32, "target")
    assert shown(example) == "<bos> <user> q <end> <assistant> a <end> <user> q <end> <assistant> B <END>".split()


def test_ids_of_ordinary_rows_are_what_they_were() -> None:
    """They are part of a run's identity; a mark or a part makes another row."""
    plain = row(("user", "q"), ("assistant", "a"), kind="chat")
    assert plain.id == "1eb7221b33efd1ba"
    marked = Row((Turn("user", "q"), Turn("assistant", "a", taught=False)), "chat")
    assert len({plain.id, marked.id, dataclasses.replace(plain, part=(0, -1)).id}) == 3


def test_a_part_of_a_text_has_those_tokens_alone() -> None:
    """Without its EOS, or a piece from the middle."""
    whole = row(("text", "a b c"), kind="text")
    example = encode(dataclasses.replace(whole, part=(0, -1)), tokenizer(adds_bos=True), "plain", 16, "anchor")
    assert shown(example) == ["<BOS>", "A", "B", "C"]
    assert shown(encode(dataclasses.replace(whole, part=(1, 3)), tokenizer(adds_bos=True), "plain", 16, "target")) == ["A", "B"]
