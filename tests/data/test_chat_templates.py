"""Warnings of a tokenizer or chat template."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from harness.core.rows import Row, Turn
from harness.data import chat_templates
from harness.methods.contract import tiny

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = Row((Turn("system", "w0"), Turn("user", "w1"), Turn("assistant", "w2")), "chat")
PLAIN = Row((Turn("user", "w1"), Turn("assistant", " w2")), "completion")
DROPS = "{% for m in messages if m['role'] != 'system' %}" + tiny.TEMPLATE.split("%}", 1)[1]
SILENT = tiny.TEMPLATE.split("{% if add_generation_prompt %}", maxsplit=1)[0]


def tokenizer(template: str) -> PreTrainedTokenizerBase:
    made = copy.deepcopy(tiny.tokenizer())
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("template", "row", "word"),
    [
        (tiny.TEMPLATE, SYSTEM, ""),
        (DROPS, SYSTEM, "drops the system message"),
        (DROPS, PLAIN, ""),
        (SILENT, PLAIN, "no generation prompt"),
        (tiny.TEMPLATE.replace(" <eos> ", " <eos> <eos> "), PLAIN, "1 of 1 rows end in EOS (<eos>) twice"),
        (tiny.TEMPLATE, Row((Turn("user", "w1"), Turn("assistant", "w2 <eos>")), "chat"), "twice"),
    ],
)
def test_each_fault_of_a_template_is_one_line(template: str, row: Row, word: str) -> None:
    """A system message only matters where the data have one."""
    found = chat_templates.warnings([row], tokenizer(template), "chat")
    assert len(found) == bool(word)
    assert word in "".join(found)


def test_plain_text_that_ends_in_eos_is_said() -> None:
    """One more is added to it; a template has no part in it."""
    ended, text = Row((Turn("text", "w1 <eos>"),), "text"), Row((Turn("text", "w1"),), "text")
    assert chat_templates.warnings([text, ended], tokenizer(SILENT), "plain") == [
        "1 of 2 rows end in EOS (<eos>) twice, and both are learned"
    ]
    assert chat_templates.warnings([text, SYSTEM], tokenizer(DROPS), "plain") == []


def test_answers_of_unknown_words_are_said() -> None:
    """A vocabulary of words learns its token for unknown ones instead; bytes know every word."""
    from harness.config import composition

    words = composition.member("model", "nursery-smoke-a").tokenizer()
    rows = [Row((Turn("user", "the"), Turn("assistant", answer)), "completion") for answer in (" the", " zygote quark")]
    (line,) = chat_templates.warnings(rows, words, "plain")
    assert line == "1 of 2 rows have an answer with words that its tokenizer does not know: 2 tokens <unk> are learned in their place"
