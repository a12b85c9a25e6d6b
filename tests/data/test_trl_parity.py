"""Token ids and labels next to those of TRL's preprocessing; docs/trl.md has the differences."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from harness.core.rows import PromptFormat, Row, RowKind
from harness.data.fields import Form, to_rows
from harness.data.teaching import taught_rows
from harness.data.tokens import encode
from harness.methods.objective.clm import Clm
from harness.methods.objective.sft import Sft

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytestmark = pytest.mark.model

SPECIAL = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NEWLINES = TEMPLATE.replace("{% endfor %}", "{{ '\\n' }}{% endfor %}")
FIELDS: dict[RowKind, dict[str, str]] = {
    "text": {"text": "text"},
    "completion": {"prompt": "{{ prompt }}", "completion": "{{ completion }}"},
    "chat": {"messages": "messages"},
    "preference": {"prompt": "{{ prompt }}", "chosen": "{{ chosen }}", "rejected": "{{ rejected }}"},
}
COLUMNS: dict[RowKind, dict[str, str]] = {"completion": {"prompt": "prompt", "completion": "completion"}}
Encoded = list[tuple[str, str]]
"""Text of each token, and of its label, which is empty without a loss."""


@cache
def tokenizer(*, adds_bos: bool = True, template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes that merges ``?`` and ``b``."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *letters, "?b"])}, [("?", "b")]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    ends = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **ends, extra_special_tokens=SPECIAL[3:])
    made.chat_template = template
    return made


def with_bos(*, adds_bos: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose template writes a BOS where the tokenizer adds one."""
    return tokenizer(adds_bos=adds_bos, template=("{{ bos_token }}" if adds_bos else "") + TEMPLATE)


@cache
def model() -> PreTrainedModel:
    from harness.methods.contract import tiny

    return tiny.llama(vocab_size=len(tokenizer()), hidden_size=8, intermediate_size=8, num_hidden_layers=1)


def rows(records: Sequence[dict[str, Any]], kind: RowKind, fields: dict[RowKind, dict[str, str]] = FIELDS) -> list[Row]:
    return to_rows(records, Form(kind, kind, fields[kind]), list(records[0]), where="test", drop_empty=False)


def words(ids: Sequence[int], learned: Sequence[bool], coder: PreTrainedTokenizerFast) -> Encoded:
    shown = [str(coder.decode([token])) for token in ids]
    return [(token, token if on else "") for token, on in zip(shown, learned, strict=True)]


def ours(
    records: Sequence[dict[str, Any]],
    kind: RowKind,
    prompt_format: PromptFormat,
    coder: PreTrainedTokenizerFast,
    max_length: int,
    fields: dict[RowKind, dict[str, str]] = FIELDS,
) -> list[Encoded]:
    """Encode rows, of a pair both answers."""
    examples = [encode(row, coder, prompt_format, max_length, "target") for row in rows(records, kind, fields)]
    every = [one for example in examples for one in (example, example.rejected) if one]
    return [words(one.input_ids, one.supervised, coder) for one in every]


def theirs(
    records: Sequence[dict[str, Any]], coder: PreTrainedTokenizerFast, folder: Any, max_length: int, **settings: Any
) -> list[Encoded]:
    """Encode rows as TRL's SFTTrainer or, where they are pairs, DPOTrainer does."""
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    pairs = "chosen" in records[0]
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "max_length": max_length,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": None,
    }
    config = (DPOConfig if pairs else SFTConfig)(**common, **settings)
    given: dict[str, Any] = {"model": model(), "args": config, "train_dataset": Dataset.from_list(list(records)), "processing_class": coder}
    trainer: Any = DPOTrainer(**given, ref_model=copy.deepcopy(model())) if pairs else SFTTrainer(**given)
    if not pairs:
        return [words(row["input_ids"], [label != -100 for label in row["labels"]], coder) for row in trainer.train_dataset]
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = [
        words(ids[on].tolist(), learned[on].bool().tolist(), coder)
        for ids, on, learned in zip(batch["input_ids"], batch["attention_mask"].bool(), batch["completion_mask"], strict=True)
    ]
    count = len(found) // 2
    return [found[place] for pair in range(count) for place in (pair, pair + count)]


def said(*messages: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, _, content in (message.partition(": ") for message in messages)]


TALK = said("user: hi", "assistant: yes", "user: so", "assistant: no")
EQUAL: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], RowKind, PromptFormat, dict[str, Any]]] = {
    "text": ([{"text": "ab c"}], [{"text": "ab c"}], "text", "plain", {}),
    "completion": ([{"prompt": "q", "completion": " a"}], [{"prompt": "q", "completion": " a"}], "completion", "plain", {}),
    "token across the border": ([{"prompt": "q?", "completion": "b"}], [{"prompt": "q?", "completion": "b"}], "completion", "plain", {}),
    "completion as chat": (
        [{"prompt": "q", "completion": "a"}],
        [{"prompt": said("user: q"), "completion": said("assistant: a")}],
        "completion",
        "chat",
        {},
    ),
    "chat": ([{"messages": TALK[:2]}], [{"messages": TALK[:2]}], "chat", "chat", {"assistant_only_loss": True}),
    "chat of two turns": ([{"messages": TALK}], [{"messages": TALK}], "chat", "chat", {"assistant_only_loss": True}),
    "pair": (
        [{"prompt": "q", "chosen": " a", "rejected": " bc"}],
        [{"prompt": "q", "chosen": " a", "rejected": " bc"}],
        "preference",
        "plain",
        {},
    ),
    "pair as chat": (
        [{"prompt": "q", "chosen": "a", "rejected": "bc"}],
        [{"prompt": said("user: q"), "chosen": said("assistant: a"), "rejected": said("assistant: bc")}],
        "preference",
        "chat",
        {},
    ),
}


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("name", EQUAL)
def test_ids_and_labels_are_those_of_trl(tmp_path: Any, name: str, adds_bos: bool) -> None:
    """For each kind of rows and prompt format, whether the tokenizer adds a BOS or not."""
    records, same, kind, prompt_format, settings = EQUAL[name]
    coder = with_bos(adds_bos=adds_bos)
    assert ours(records, kind, prompt_format, coder, 64) == theirs(same, coder, tmp_path, 64, **settings)


@pytest.mark.parametrize(("name", "length"), [("text", 4), ("completion", 4), ("chat of two turns", 8), ("pair as chat", 6)])
def test_long_rows_are_cut_where_trl_cuts_them(tmp_path: Any, name: str, length: int) -> None:
    """At the end; a part of an answer is left."""
    records, same, kind, prompt_format, settings = EQUAL[name]
    coder = with_bos(adds_bos=True)
    found = ours(records, kind, prompt_format, coder, length)
    assert found == theirs(same, coder, tmp_path, length, **settings)
    assert max(map(len, found)) == length


def test_rows_that_teach_nothing_are_those_that_trl_drops(tmp_path: Any) -> None:
    """Of three prompts, the one of 8 tokens with its BOS leaves no room."""
    records = [{"prompt": "q" * length, "completion": "a"} for length in (6, 7, 1)]
    kept = taught_rows(rows(records, "completion"), (), Sft(), tokenizer(), 8).rows
    assert [len(row.turns[0].content) for row in kept] == [6, 1]
    assert len(theirs(records, tokenizer(), tmp_path, 8)) == 2


DIFFERENT: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], RowKind, PromptFormat, str, str, str]] = {
    "white space at the end of a plain prompt": (
        [{"prompt": "q ", "completion": "a"}],
        [{"prompt": "q ", "completion": "a"}],
        "completion",
        "plain",
        TEMPLATE,
        "q[a</s>]",
        "q [a</s>]",
    ),
    "columns without a space between them": (
        [{"prompt": "q", "completion": "a"}],
        [{"prompt": "q", "completion": "a"}],
        "completion",
        "plain",
        TEMPLATE,
        "q[ a</s>]",
        "q[a</s>]",
    ),
    "columns with white space at the end of the prompt": (
        [{"prompt": "q ", "completion": "a"}],
        [{"prompt": "q ", "completion": "a"}],
        "completion",
        "plain",
        TEMPLATE,
        "q[ a</s>]",
        "q [a</s>]",
    ),
    "white space around an answer under a template": (
        [{"prompt": "q", "completion": " a"}],
        [{"prompt": said("user: q"), "completion": [{"role": "assistant", "content": " a"}]}],
        "completion",
        "chat",
        TEMPLATE,
        "<|user|>q<|end|><|assistant|>[a<|end|>]",
        "<|user|>q<|end|><|assistant|>[ a<|end|>]",
    ),
    "white space behind the end of a turn": (
        [{"prompt": "q", "completion": "a"}],
        [{"prompt": said("user: q"), "completion": said("assistant: a")}],
        "completion",
        "chat",
        NEWLINES,
        "<|user|>q<|end|>\n<|assistant|>[a<|end|>]\n",
        "<|user|>q<|end|>\n<|assistant|>[a<|end|>\n]",
    ),
    "BOS under a template that writes none, of a tokenizer that adds one": (
        [{"prompt": "q", "completion": "a"}],
        [{"prompt": said("user: q"), "completion": said("assistant: a")}],
        "completion",
        "chat",
        TEMPLATE,
        "<s><|user|>q<|end|><|assistant|>[a<|end|>]",
        "<|user|>q<|end|><|assistant|>[a<|end|>]",
    ),
    "questions of a conversation": (
        [{"messages": TALK[:2]}],
        [{"messages": TALK[:2]}],
        "chat",
        "chat",
        TEMPLATE,
        "<|user|>hi<|end|><|assistant|>[yes<|end|>]",
        "[<|user|>hi<|end|><|assistant|>yes<|end|>]",
    ),
    "a text that ends in EOS": (
        [{"text": "a</s>"}],
        [{"text": "a</s>"}],
        "text",
        "plain",
        TEMPLATE,
        "[a</s></s>]",
        "[a</s>]",
    ),
    "an answer that is not to learn": (
        [{"messages": [*TALK[:1], {**TALK[1], "train": False}, *TALK[2:]]}],
        [{"messages": TALK}],
        "chat",
        "chat",
        TEMPLATE,
        "<|user|>hi<|end|><|assistant|>yes<|end|><|user|>so<|end|><|assistant|>[no<|end|>]",
        "[<|user|>hi<|end|><|assistant|>yes<|end|><|user|>so<|end|><|assistant|>no<|end|>]",
    ),
}


def marked(encoded: Encoded) -> str:
    """Return the text of tokens, with brackets around those that are learned."""
    shown, open_ = "", False
    for token, label in encoded:
        shown += "[" * (bool(label) and not open_) + "]" * (open_ and not label) + token
        open_ = bool(label)
    return shown + "]" * open_


@pytest.mark.parametrize("name", DIFFERENT)
def test_differences_from_trl_are_exactly_these(tmp_path: Any, name: str) -> None:
    """Each is a row of the table in docs/trl.md, with its reason."""
    records, same, kind, prompt_format, template, here, there = DIFFERENT[name]
    coder = tokenizer(adds_bos=name.startswith("BOS"), template=template)
    fields = COLUMNS if name.startswith("columns") else FIELDS
    assert [marked(one) for one in ours(records, kind, prompt_format, coder, 64, fields)] == [here]
    assert [marked(one) for one in theirs(same, coder, tmp_path, 64)] == [there]


def test_a_token_across_the_border_of_one_answer_of_a_pair(tmp_path: Any) -> None:
    """TRL begins both answers where the earlier one begins, we each at its own place."""
    records = [{"prompt": "q?", "chosen": "b", "rejected": "c"}]
    assert [marked(one) for one in ours(records, "preference", "plain", tokenizer(), 64)] == ["<s>q[?b</s>]", "<s>q?[c</s>]"]
    assert [marked(one) for one in theirs(records, tokenizer(), tmp_path, 64)] == ["<s>q[?b</s>]", "<s>q[?c</s>]"]


def test_documents_that_trl_cuts_are_split_by_clm(tmp_path: Any) -> None:
    """TRL's default drops the end; here it is a row of its own."""
    records = [{"text": "abcdef"}]
    [row] = rows(records, "text")
    pieces = taught_rows([row], (), Clm(), tokenizer(), 5).rows
    assert [marked(one) for one in theirs(records, tokenizer(), tmp_path, 5)] == ["[<s>abcd]"]
    shown = [Clm().encode(piece, tokenizer(), 5, "target").input_ids for piece in pieces]
    assert [tokenizer().decode(list(ids)) for ids in shown] == ["<s>abc", "cdef</s>"]
