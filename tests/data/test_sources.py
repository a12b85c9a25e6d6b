"""Data sets from files and the hub's library, and every error in them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition, paths
from harness.core.errors import ConfigError, DataError
from harness.core.rows import Turn
from harness.data.sequence import StageSequence
from harness.data.sources import Files, Hub

COMPLETION = {"prompt": "{{ question }}", "completion": " {{ answer }}"}


def write(path: Path, records: Sequence[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


def files(path: str, **changes: Any) -> Files:
    values: dict[str, Any] = {"train": path, "kind": "completion", "fields": COMPLETION}
    return Files(**(values | changes))


def test_templates_and_columns_become_rows(tmp_path: Path) -> None:
    """A completion is user then assistant; the space between them belongs to the completion."""
    path = write(tmp_path / "a.jsonl", [{"question": "2+2? ", "answer": "4"}, {"question": "3+3?", "answer": "6"}])
    first, second = files(path).rows("train")
    assert first.turns == (Turn("user", "2+2?"), Turn("assistant", " 4"))
    assert first.kind == "completion"
    (plain, _) = files(path, kind="text", fields={"text": "answer"}).rows("train")
    assert plain.turns == (Turn("text", "4"),)
    assert first.id != second.id


def test_a_system_field_comes_first_and_may_be_empty(tmp_path: Path) -> None:
    """The optional system text is a turn where there is one."""
    path = write(tmp_path / "a.jsonl", [{"s": "Be brief.", "q": "Why?", "a": "So."}, {"s": None, "q": "Why?", "a": "So."}])
    rows = files(path, fields={"system": "s", "prompt": "q", "completion": "a"}).rows("train")
    assert [turn.role for turn in rows[0].turns] == ["system", "user", "assistant"]
    assert [turn.role for turn in rows[1].turns] == ["user", "assistant"]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    """The name's ending decides between JSON lines, JSON, CSV and parquet."""
    import pyarrow
    import pyarrow.parquet

    records = [{"question": "Où?", "answer": "Ici, là."}, {"question": "a\nb", "answer": '"c"'}]
    write(tmp_path / "a.jsonl", records)
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.csv").write_text('question,answer\nOù?,"Ici, là."\n"a\nb","""c"""\n', encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    rows = [[row.id for row in files(str(tmp_path / f"a.{ending}")).rows("train")] for ending in ("jsonl", "json", "csv", "parquet")]
    assert rows[0] == rows[1] == rows[2] == rows[3]


def test_several_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    """A pattern means all files that match."""
    for name in ("b", "a"):
        write(tmp_path / f"{name}.jsonl", [{"question": name, "answer": "x"}])
    assert [row.turns[0].content for row in files(str(tmp_path / "*.jsonl")).rows("train")] == ["a", "b"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}],
    ],
)
def test_both_dialects_of_conversations_are_read(tmp_path: Path, messages: list[dict[str, str]]) -> None:
    """OpenAI's and ShareGPT's names mean the same."""
    path = write(tmp_path / "a.jsonl", [{"messages": messages}])
    (row,) = files(path, kind="chat", fields={"messages": "messages"}).rows("train")
    assert row.turns == (Turn("user", "Hi"), Turn("assistant", "Yes"))


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ("Hi", "messages of type str"),
        ([{"role": "robot", "content": "Hi"}], "role 'robot'"),
        ([{"role": "assistant", "content": "Hi"}], "begins with the user"),
        ([{"role": "user", "content": "Hi"}], "assistant answers"),
        ([{"role": "user", "content": 3}], "content of type int"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_row(tmp_path: Path, messages: Any, word: str) -> None:
    """The message says which row, what was found and what is allowed."""
    good = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    path = write(tmp_path / "a.jsonl", [{"messages": good}, {"messages": messages}])
    with pytest.raises(DataError, match=f"line 2.*{word}"):
        files(path, kind="chat", fields={"messages": "messages"}).rows("train")


def test_a_missing_column_is_refused_naming_those_there_are(tmp_path: Path) -> None:
    """Both for bare names and inside templates."""
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    for field in ("anwser", "{{ anwser }}"):
        with pytest.raises(DataError, match="no column 'anwser'; allowed: question, answer; fix: did you mean 'answer'"):
            files(path, fields={"prompt": "question", "completion": field}).rows("train")


def test_a_broken_template_is_refused(tmp_path: Path) -> None:
    """Syntax and run-time failures are one line each; unsafe access is not possible."""
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    for template, error in [
        ("{{ answer", ConfigError),
        ("{{ answer.nothing.more }}", DataError),
        ("{{ answer.__class__.mro() }}", DataError),
    ]:
        with pytest.raises(error, match=r"data\.fields\.completion") as caught:
            files(path, fields={"prompt": "question", "completion": template}).rows("train")
        assert "\n" not in str(caught.value)


def test_empty_texts_are_refused_with_their_row_and_number_unless_dropped(tmp_path: Path) -> None:
    """Nothing is left out silently."""
    records = [{"question": "q", "answer": answer} for answer in ("a", None, " ", "b")]
    path = write(tmp_path / "a.jsonl", records)
    with pytest.raises(DataError, match="2 of 4 rows, the first is line 2"):
        files(path).rows("train")
    assert [row.turns[1].content for row in files(path, drop_empty=True).rows("train")] == [" a", " b"]


def test_a_template_that_only_wraps_nothing_is_empty(tmp_path: Path) -> None:
    """A None is rendered as nothing, never as the word None."""
    path = write(tmp_path / "a.jsonl", [{"question": None, "answer": "a"}])
    with pytest.raises(DataError, match="line 1: a missing value in column 'question'"):
        files(path).rows("train")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.jsonl", '{"question": "q", "answer": "a"}\n{"question": ', "line 2"),
        ("a.jsonl", "[1]\n", "line 1: list instead of an object"),
        ("a.json", '{"question": "q"}', "dict instead of a list"),
        ("a.csv", "question,answer\n1,2,3\n", "line 2 has more cells"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.md", "x", "ends in .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: str, word: str) -> None:
    """It names the file, and the line where there are lines."""
    (tmp_path / name).write_text(content)
    with pytest.raises((DataError, ConfigError), match=word) as caught:
        files(str(tmp_path / name)).rows("train")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_splits_are_refused(tmp_path: Path) -> None:
    """A path that is not a file, and a test split that was not given."""
    with pytest.raises(DataError, match="not a file"):
        files(str(tmp_path / "nothing.jsonl")).rows("train")
    with pytest.raises(DataError, match=r"data\.test: got nothing"):
        files(str(tmp_path / "nothing.jsonl")).rows("test")


@pytest.mark.parametrize("volumes", [(), (0,), (8, -8), (8, 8)])
def test_bad_volumes_are_refused(volumes: tuple[int, ...]) -> None:
    """At least one, positive, each once; any order will do."""
    with pytest.raises(ConfigError, match=r"data\.volumes"):
        files("a.jsonl", volumes=volumes)
    assert files("a.jsonl", volumes=(16, 8)).volumes == (16, 8)


@pytest.mark.parametrize(
    ("fields", "word"), [({"prompt": "q"}, "completion: got nothing"), (COMPLETION | {"promt": "q"}, "did you mean 'prompt'")]
)
def test_wrong_fields_are_refused_before_anything_is_read(fields: dict[str, str], word: str) -> None:
    """Which fields there are depends on the kind."""
    with pytest.raises(ConfigError, match=word):
        files("a.jsonl", fields=fields)


def test_the_library_reads_a_folder_as_it_reads_the_hub(tmp_path: Path) -> None:
    """Splits, slices, streaming, and unknown splits, by load_dataset itself."""
    write(tmp_path / "train.jsonl", [{"question": f"q{i}", "answer": "a"} for i in range(10)])
    write(tmp_path / "test.jsonl", [{"question": "held out", "answer": "a"}])
    hub = Hub(name=str(tmp_path), splits={"train": "train[:80%]", "test": "test"}, kind="completion", fields=COMPLETION)
    assert [row.turns[0].content for row in hub.rows("train")] == [f"q{i}" for i in range(8)]
    assert len(hub.rows("test")) == 1
    streamed = dataclasses.replace(hub, splits={"train": "train"}, stream_rows=3)
    assert [row.turns[0].content for row in streamed.rows("train")] == ["q0", "q1", "q2"]
    with pytest.raises(DataError, match="no test split; allowed: train"):
        streamed.rows("test")
    with pytest.raises(DataError, match=r"data\.splits: got 'validation'"):
        dataclasses.replace(hub, splits={"train": "validation"}).rows("train")


def test_a_data_set_that_is_not_there_is_one_line() -> None:
    """Without a network, the name that was asked for and what to do."""
    with pytest.raises(DataError, match=r"nobody/nothing.*check data\.name") as caught:
        Hub(name="nobody/nothing", kind="text", fields={"text": "text"}).rows("train")
    assert "\n" not in str(caught.value)


def real(name: str) -> bool:
    return not name.startswith(("files", "hub", "path", "sequence", "tinyworld"))


@pytest.mark.parametrize("name", [name for name in paths.members("conf/data") if real(name)])
def test_every_ready_data_set_is_valid(name: str) -> None:
    """Its yaml passes every check that needs no data."""
    source = composition.member("data", name)
    assert isinstance(source, Hub | StageSequence)
    assert all(volume % 8 == 0 for volume in source.volumes), "the default batch divides the default volumes"


@pytest.mark.hub
@pytest.mark.parametrize(
    ("name", "other", "train", "begins", "ends"),
    [
        ("gsm8k", None, 7473, "Question: Natalia", "Answer:"),
        ("pubmed-qa", None, 500, "Abstract: ", "Answer:"),
        ("alpaca", "offline/alpaca_subset", 1809, "Below is an instruction", "### Response:"),
        ("code-alpaca", "offline/code_alpaca", 4308, "Below is an instruction", "### Response:"),
        ("dolly", "offline/dolly_subset", 368, "Below is an instruction", "### Response:"),
    ],
)
def test_real_data_sets_read_as_they_are_configured(name: str, other: str | None, train: int, begins: str, ends: str) -> None:
    """Local sets with the columns of the hub's, by the ready yaml and another name."""
    source = composition.member("data", name)
    rows = (dataclasses.replace(source, name=other) if other else source).rows("train")
    assert len(rows) == train
    prompt, completion = rows[0].turns[-2].content, rows[0].turns[-1].content
    assert prompt.startswith(begins)
    assert prompt.endswith(ends)
    assert completion[0] in " \n"
    assert completion[1].strip()


@pytest.mark.parametrize(
    ("marks", "taught"),
    [
        ({}, True),
        ({"train": False}, False),
        ({"weight": 0}, False),
        ({"train": True, "weight": 1}, True),
        ({"weight": 0.0, "train": None}, False),
    ],
)
def test_an_answer_marked_as_not_to_learn_is_not(tmp_path: Path, marks: dict[str, Any], taught: bool) -> None:
    """Of a message: ``train`` of axolotl, ``weight`` of OpenAI; nothing means learned."""
    messages = [{"role": "user", "content": "q", "train": False}, {"role": "assistant", "content": "a", **marks}]
    path = write(tmp_path / "rows.jsonl", [{"messages": messages}])
    [row] = files(path, kind="chat", fields={"messages": "messages"}).rows("train")
    assert [turn.taught for turn in row.turns] == [True, taught]


@pytest.mark.parametrize(
    ("role", "marks", "word"),
    [
        ("assistant", {"weight": 0.5}, "weight: 0.5"),
        ("assistant", {"weight": True}, "weight: True"),
        ("assistant", {"train": "no"}, "train: 'no'"),
        ("assistant", {"train": True, "weight": 0}, "train: True, weight: 0"),
        ("assistant", {"train_detail": [{"begin_offset": 0}]}, "train_detail"),
        ("user", {"train": True}, "user's message with train: True"),
    ],
)
def test_marks_that_cannot_be_honoured_are_rejected(tmp_path: Path, role: str, marks: dict[str, Any], word: str) -> None:
    """Answers are learned with one weight or not at all; questions never are."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    messages = [message | (marks if message["role"] == role else {}) for message in messages]
    path = write(tmp_path / "rows.jsonl", [{"messages": messages}])
    with pytest.raises(DataError, match=re.escape(word)):
        files(path, kind="chat", fields={"messages": "messages"}).rows("train")
