from __future__ import annotations

import pytest

from harness.core.rows import Row, RowKind, Turn
from harness.methods.objective.clm import Clm
from harness.methods.objective.sft import Sft
from tests.support import tiny


def test_a_row_is_a_sequence_padded_on_the_right() -> None:
    """Labels are the supervised tokens; padding, prompts and first tokens have none."""
    batch = Sft().collate([tiny.example(5, 6, 7, supervised=[1, 2]), tiny.example(8, 9)], tiny.PAD, tiny.MAX_LENGTH)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, tiny.PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, 9, -100]]


@pytest.mark.parametrize("kind", ["completion", "chat", "text"])
def test_targets_are_the_supervised_tokens_of_the_rows(kind: RowKind) -> None:
    """The loss is over the recorded number of tokens, for every kind of row."""
    objective = Sft(prompt_format="chat" if kind == "chat" else "plain")
    examples = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows(kind, 5)]
    labels = objective.collate(examples, tiny.PAD, tiny.MAX_LENGTH)["labels"]
    assert int((labels[:, 1:] != -100).sum()) == sum(example.supervised_tokens for example in examples) > 0


def test_the_prompt_format_decides_the_tokens() -> None:
    """``plain`` joins prompt and answer, ``chat`` uses the template.

    Both supervise the end of the answer.
    """
    row = Row((Turn("user", "w1 w2"), Turn("assistant", " w3")), "completion")
    plain, chat = (Sft(prompt_format=f).encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for f in ("plain", "chat"))
    words = tiny.tokenizer()
    assert words.convert_ids_to_tokens(list(plain.input_ids)) == ["w1", "w2", "w3", "<eos>"]
    assert plain.supervised == (False, False, True, True)
    taught = [word for word, is_taught in zip(words.convert_ids_to_tokens(list(chat.input_ids)), chat.supervised, strict=True) if is_taught]
    assert taught == ["w3", "<eos>"]


def test_text_may_be_an_anchor_of_instruction_tuning_but_not_the_other_way_round() -> None:
    """Sft accepts every kind of row, clm documents alone."""
    assert Sft.needs == {"text", "completion", "chat"}
    assert Clm.needs == {"text"}
