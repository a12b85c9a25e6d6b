"""Formats recognised by columns and first rows, and the rows that they become."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition
from harness.core.errors import ConfigError, DataError
from harness.core.rows import Row, Turn
from harness.data import fields, formats, tokens
from harness.data.sources import Files, Hub
from harness.methods.contract import tiny

DATA_PAGE = Path(__file__).resolve().parents[2] / "docs/data.md"
USER, ANSWER, WORSE = ({"role": role, "content": text} for role, text in (("user", "w1 w2"), ("assistant", "w3"), ("assistant", "w4")))
EARLIER = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]


@pytest.fixture(autouse=True)
def _said_again() -> Iterator[None]:
    fields.say_once.cache_clear()
    yield
    fields.say_once.cache_clear()


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def turns(*pairs: tuple[str, str]) -> tuple[Turn, ...]:
    return tuple(Turn(role, text) for role, text in pairs)


DIALOGUE = turns(("user", "w1 w2"), ("assistant", "w3"))
PAIR = turns(("user", "w1 w2"), ("assistant", "w3"), ("rejected", "w4"))
LONGER = turns(("user", "w5"), ("assistant", "w6"))

FORMS: dict[str, tuple[dict[str, Any], Row, str]] = {
    "text": ({"text": "w1"}, Row(turns(("text", "w1")), "text"), "text from column text"),
    "messages": ({"messages": [USER, ANSWER]}, Row(DIALOGUE, "chat"), "messages from column messages"),
    "prompt and completion": (
        {"prompt": "w1", "completion": "w2", "id": 7},
        Row(turns(("user", "w1"), ("assistant", " w2")), "completion"),
        "prompt-completion from columns prompt, completion, 1 rows; not read: id",
    ),
    "prompt and completion of messages": (
        {"prompt": [*EARLIER, USER], "completion": [ANSWER]},
        Row((*LONGER, *DIALOGUE), "chat", prompt_turns=3),
        "prompt-completion of messages from columns prompt, completion",
    ),
    "preference": (
        {"prompt": "w1", "chosen": "w2", "rejected": " w3"},
        Row(turns(("user", "w1"), ("assistant", " w2"), ("rejected", " w3")), "preference"),
        "preference from columns prompt, chosen, rejected",
    ),
    "preference of messages": (
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
        Row(PAIR, "preference", prompt_turns=1),
        "preference of messages from columns prompt, chosen, rejected",
    ),
    "preference, implicit": (
        {"chosen": "Human: w1 Assistant: w2", "rejected": "Human: w1 Assistant: w3"},
        Row(turns(("user", "Human: w1 Assistant: w"), ("assistant", "2"), ("rejected", "3")), "preference"),
        "preference with the prompt within chosen and rejected from columns chosen, rejected",
    ),
    "preference of messages, implicit": (
        {"chosen": [*EARLIER, USER, ANSWER], "rejected": [*EARLIER, USER, WORSE]},
        Row((*LONGER, *PAIR), "preference", prompt_turns=3),
        "preference of messages with the prompt within chosen and rejected from columns chosen, rejected",
    ),
    "preference of messages, with the prompt as text too": (
        {"prompt": "w1 w2", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
        Row(PAIR, "preference", prompt_turns=1),
        "preference of messages from columns prompt, chosen, rejected",
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "w1 w2"}, {"from": "gpt", "value": "w3"}], "id": "x"},
        Row(DIALOGUE, "chat"),
        "sharegpt from column conversations, 1 rows; not read: id",
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        Row(
            turns(
                (
                    "user",
                    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
                    "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:",
                ),
                ("assistant", "\n3"),
            ),
            "completion",
        ),
        "alpaca from columns instruction, input, output",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_people_have_is_recognised_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """By the columns and the first rows; the report is one line, and said once."""
    record, expected, said = FORMS[name]
    source = Files(train=write(tmp_path / "a.jsonl", record))
    with caplog.at_level(logging.INFO, logger="harness"):
        assert source.rows("train") == source.rows("train") == [expected]
    assert source.kinds == {expected.kind}
    (reported,) = [line for line in caplog.messages if line.startswith("data: ")]
    assert reported.startswith(f"data: {source.train} read as {said}")


@pytest.mark.parametrize("name", FORMS)
def test_a_data_set_of_the_hub_is_recognised_alike(tmp_path: Path, name: str) -> None:
    """Through the library, from a folder as from the hub; a stream too."""
    record, expected, _ = FORMS[name]
    write(tmp_path / "train.jsonl", record)
    assert Hub(name=str(tmp_path)).rows("train") == [expected]
    assert Hub(name=str(tmp_path)).kinds == {expected.kind}


def test_an_alpaca_row_is_that_of_the_ready_data_set(tmp_path: Path) -> None:
    """Recognised rows equal those of conf/data/alpaca.yaml."""
    ready = composition.member("data", "alpaca")
    rows = [{"instruction": "Add.", "input": one, "output": "3"} for one in ("1 2", "")]
    form = fields.Form("alpaca", "completion", ready.fields)
    expected = fields.to_rows(rows, form, ["instruction", "input", "output"], where="here", drop_empty=False)
    assert Files(train=write(tmp_path / "a.jsonl", *rows)).rows("train") == expected
    assert Files(train=write(tmp_path / "b.jsonl", {"instruction": "Add.", "output": "3"})).rows("train") == expected[1:]


def test_columns_that_begin_late_are_read(tmp_path: Path) -> None:
    """An input after the first hundred rows; a value that no row can hold; a mark."""
    rows: list[dict[str, Any]] = [{"instruction": "Add.", "output": "3"}] * 120
    path = write(tmp_path / "a.jsonl", *rows, {"instruction": "Add.", "input": 0, "output": "3"})
    assert "### Input:\n0" in Files(train=path).rows("train")[-1].turns[0].content
    with pytest.raises(DataError, match="line 121: got a value in column 'tools'"):
        Files(train=write(tmp_path / "b.jsonl", *rows, {**rows[0], "tools": [{"name": "f"}]})).rows("train")
    pair = {"prompt": "a", "completion": "b"}
    with pytest.raises(DataError, match=r"line 121: got a column 'label' that marks answers"):
        Files(train=write(tmp_path / "c.jsonl", *[pair] * 120, {**pair, "label": False})).rows("train")


def test_a_prompt_next_to_conversations_must_be_in_them(tmp_path: Path) -> None:
    """Else something that the user gave would not be learned from."""
    record = {"prompt": "ANSWER IN FRENCH", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}
    with pytest.raises(DataError, match="line 1: got a prompt of text that neither conversation begins with"):
        Files(train=write(tmp_path / "a.jsonl", record)).rows("train")


def test_a_system_template_with_a_missing_column_is_missing(tmp_path: Path) -> None:
    """A column without a value is no system message; a template would lose its other half."""
    path = write(tmp_path / "a.jsonl", {"q": "a", "a": "b", "p": "pirate", "s": None})
    named = {"prompt": "q", "completion": "a"}
    (row,) = Files(train=path, fields={**named, "system": "s"}).rows("train")
    assert [turn.role for turn in row.turns] == ["user", "assistant"]
    with pytest.raises(DataError, match="a missing value in column 's'"):
        Files(train=path, fields={**named, "system": "You are {{ p }}. {{ s }}"}).rows("train")


TEXTS = ["p: yes.", "p: yes, sir.", "p: no", "p q", "p", "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c d"]


@pytest.mark.parametrize("chosen", TEXTS)
@pytest.mark.parametrize("rejected", TEXTS)
def test_an_implicit_prompt_is_that_of_trl(chosen: str, rejected: str) -> None:
    """The longest common beginning, without the space before the answers."""
    from trl.data_utils import extract_prompt

    if chosen != rejected and chosen[:1] == rejected[:1]:
        found = extract_prompt({"chosen": chosen, "rejected": rejected})
        assert fields.shared(chosen, rejected) == (found["prompt"], found["chosen"], found["rejected"])


@pytest.mark.parametrize("kind", ["completion", "preference"])
def test_messages_are_learned_as_trl_renders_them(tmp_path: Path, kind: str) -> None:
    """Prompt and answers are TRL's, up to the white space and EOS after the end of a turn."""
    from trl.data_utils import apply_chat_template

    answers = {"completion": [ANSWER]} if kind == "completion" else {"chosen": [ANSWER], "rejected": [WORSE]}
    record = {"prompt": [*EARLIER, USER], **answers}
    tokenizer = tiny.tokenizer()
    rendered = apply_chat_template(json.loads(json.dumps(record)), tokenizer)
    (row,) = Files(train=write(tmp_path / "a.jsonl", record)).rows("train")
    example = tokens.encode(row, tokenizer, "chat", 99, "target")
    for name, one in zip(answers, (example, example.rejected), strict=False):
        assert one is not None
        learned = [token for token, taught in zip(one.input_ids, one.supervised, strict=True) if taught]
        prompt = [token for token, taught in zip(one.input_ids, one.supervised, strict=True) if not taught]
        whole = tokenizer.encode(rendered["prompt"] + rendered[name], add_special_tokens=False)
        begin = len(tokenizer.encode(rendered["prompt"], add_special_tokens=False))
        assert learned == whole[begin : begin + len(learned)]
        assert prompt[-begin:] == whole[:begin]
        assert whole[begin + len(learned) :] == []


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "a", "completion": "b", "messages": [USER, ANSWER]}, r"messages \(messages\) and prompt-completion.*data\.format="),
        ({"question": "a", "answer": "b"}, r'"data\.fields=\{prompt: question, completion: answer\}"'),
        ({"prompt": "a"}, r"columns prompt; allowed: text: text; messages: messages; prompt-completion: prompt \+ completion"),
        ({"prompt": "a", "completion": "b", "label": True}, "KTO"),
        ({"messages": "a"}, "without lists of messages"),
        ({"messages": [USER, ANSWER], "tools": [{"name": "f"}]}, "line 1: got a value in column 'tools'"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{"name": "f"}]}]}, "line 1: got a message with tool_calls"),
        ({"prompt": [USER], "completion": [ANSWER, USER]}, "line 1: got a prompt of user, with completion of assistant, user"),
        ({"prompt": [USER], "completion": "b"}, "line 1: got messages of type str"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "line 1: got a prompt of no message"),
        ({"chosen": "a", "rejected": "b"}, "without a common beginning"),
        ({"text": ["a"]}, "line 1: got a list in column 'text'"),
    ],
)
def test_what_cannot_be_learned_is_rejected_by_name(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    """Several formats, none, and forms that rows cannot hold."""
    with pytest.raises(DataError, match=words) as caught:
        Files(train=write(tmp_path / "a.jsonl", record)).rows("train")
    assert "\n" not in str(caught.value)


def test_a_format_or_fields_override_what_is_recognised(tmp_path: Path) -> None:
    """Of two formats one is named; given fields win; both together are rejected."""
    path = write(tmp_path / "a.jsonl", {"text": "whole", "instruction": "a", "output": "b"})
    assert Files(train=path, format="text").kinds == {"text"}
    assert Files(train=path, format="alpaca").kinds == {"completion"}
    assert Files(train=path, fields={"prompt": "instruction", "completion": "text"}).rows("train")[0].turns[1] == Turn(
        "assistant", " whole"
    )
    with pytest.raises(DataError, match="data.format: got 'messages', without column messages"):
        Files(train=path, format="messages").rows("train")
    with pytest.raises(ConfigError, match=r"data\.format: got 'text'"):
        Files(train=path, format="text", fields={"text": "output"})


def test_one_space_is_put_where_there_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Between columns without a template, and reported; white space that is there is kept."""
    records = [{"q": q, "a": a} for q, a in (("p", "c"), ("p", " c"), ("p\n", "c"), ("p ", " c"))]
    source = Files(train=write(tmp_path / "a.jsonl", *records), fields={"prompt": "q", "completion": "a"})
    with caplog.at_level(logging.INFO, logger="harness"):
        assert [row.turns[1].content for row in source.rows("train")] == [" c", " c", "\nc", " c"]
    assert "one space is put between prompt and completion in 1 of 4 rows" in caplog.text
    exact = Files(train=source.train, fields={"prompt": "q", "completion": "{{ a }}"})
    assert [row.turns[1].content for row in exact.rows("train")] == ["c", " c", "c", " c"]


@pytest.mark.parametrize(
    ("sample_by", "expected"), [("line", ["a", "b", "c"]), ("paragraph", ["a\nb", "c"]), ("document", ["a\nb\n\nc\n"])]
)
def test_plain_text_is_read_by_line_paragraph_or_document(tmp_path: Path, sample_by: Any, expected: Sequence[str]) -> None:
    """As the text loader of datasets samples, blank lines left out."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n\r\nc\r\n")
    rows = Files(train=str(tmp_path / "a.txt"), sample_by=sample_by).rows("train")
    assert [row.turns[0].content for row in rows] == list(expected)


def test_rows_that_do_not_fit_the_objective_name_the_fix(tmp_path: Path) -> None:
    """Before anything is loaded, for data and anchor."""
    pair = write(tmp_path / "pair.jsonl", FORMS["preference"][0])
    chat = write(tmp_path / "chat.jsonl", FORMS["messages"][0])
    messages = write(tmp_path / "messages.jsonl", FORMS["preference of messages"][0])
    text = write(tmp_path / "text.jsonl", FORMS["text"][0])
    for overrides, fix in [
        ([f"data={pair}"], "got preference rows.*fix: objective=dpo"),
        ([f"data={chat}"], "got conversations.*fix: objective.prompt_format=chat"),
        ([f"data={messages}", "objective=dpo"], "got conversations.*fix: objective.prompt_format=chat"),
        ([f"data={text}", "objective=dpo"], "got text rows.*fix: objective=clm"),
        ([f"anchor={pair}", "mitigation=replay"], "anchor=.*got preference rows"),
    ]:
        with pytest.raises(ConfigError, match=fix):
            composition.compose([*overrides, "probe_suites=[tinyworld]"])
    assert composition.compose([f"data={pair}", "objective=dpo", "probe_suites=[tinyworld]"]).data.kinds == {"preference"}


def test_members_for_files_read_messages_too(tmp_path: Path) -> None:
    """Fields that render a column alone take messages, from every row or from none."""
    path = write(tmp_path / "a.jsonl", {"prompt": [USER], "completion": [ANSWER]}, {"prompt": "w1", "completion": "w2"})
    source = composition.compose(["data=files", f"data.train={path}", "objective.prompt_format=chat", "probe_suites=[tinyworld]"]).data
    with pytest.raises(DataError, match="line 2: got messages of type str"):
        source.rows("train")
    write(tmp_path / "a.jsonl", {"prompt": "w1", "completion": "w2"}, {"prompt": [USER], "completion": [ANSWER]})
    source = composition.compose(["data=files", f"data.train={path}", "probe_suites=[tinyworld]"]).data
    with pytest.raises(DataError, match="line 2: got a list in column 'prompt'"):
        source.rows("train")


@pytest.mark.parametrize(
    ("record", "fix"),
    [
        ({"question": "a", "answer": "b"}, '"data.fields={prompt: question, completion: answer}"'),
        ({"Prompt": "a", "Completion": "b"}, '"data.fields={prompt: Prompt, completion: Completion}"'),
        ({"prompt": "a", "chosen": "b", "reject": "c"}, '"data.fields={prompt: prompt, chosen: chosen, rejected: reject}"'),
        ({"id": 1, "body": "a"}, 'name your columns, such as "data.fields={text: body}"'),
        ({"id": 1, "ask": "a", "say": "b"}, 'name your columns, such as "data.fields={prompt: ask, completion: say}"'),
        ({"messages": "a"}, 'or learn it as text: "data.fields={text: messages}"'),
    ],
)
def test_columns_of_no_format_come_with_fields_to_paste(tmp_path: Path, record: dict[str, Any], fix: str) -> None:
    """They work: the same source with them has rows."""
    path = write(tmp_path / "rows.jsonl", record)
    with pytest.raises(DataError) as raised:
        Files(train=path).rows("train")
    assert str(raised.value).endswith(f"{fix}")
    named = dict(pair.split(": ") for pair in fix.partition("{")[2].rstrip('}"').split(", "))
    assert len(Files(train=path, fields=named).rows("train")) == 1


def test_files_of_other_formats_come_with_the_command_that_converts_them(tmp_path: Path) -> None:
    """The command writes a csv, which is read."""
    path = tmp_path / "rows.tsv"
    path.write_text("prompt\tcompletion\n01\tb\n")
    with pytest.raises(ConfigError) as raised:
        Files(train=str(path)).rows("train")
    program = str(raised.value).partition('fix: python -c "')[2].removesuffix('"')
    exec(program, {})
    (row,) = Files(train=f"{path}.csv").rows("train")
    assert row.text.startswith("01")


RECIPES = re.findall(r"^`([a-z-]+)`: .*?```jsonl\n(.*?)```", DATA_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_page_about_data_has_a_row_of_every_format() -> None:
    """Each is read as the format that its heading names."""
    assert {name for name, _ in RECIPES} == set(formats.COLUMNS)
    for name, text in RECIPES:
        records = [json.loads(line) for line in text.splitlines()]
        assert formats.recognise("auto", records, [], "rows").name == name
