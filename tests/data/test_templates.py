"""Only text is text: values of files, bare or inside a template."""

from __future__ import annotations

import csv
import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import ConfigError, DataError
from harness.data.sources import Files
from harness.data.templates import Spelled, render

NOT_TEXT: list[tuple[Any, str]] = [
    (["a", "b"], "a list in column 'a'"),
    ({"x": 1}, "a mapping in column 'a'"),
    (True, "the boolean True in column 'a'"),
    (math.inf, "the number inf in column 'a'"),
]


def learned(path: Path, completion: str, **settings: Any) -> list[str]:
    """Return the completions of a file."""
    rows = Files(train=str(path), fields={"prompt": "q", "completion": completion}, **settings).rows("train")
    return [row.turns[-1].content for row in rows]


@pytest.mark.parametrize(("value", "word"), NOT_TEXT)
@pytest.mark.parametrize("completion", ["a", "{{ a }}", " Answer: {{ a }}", "{{ q ~ a }}", "{{ [q, a] | join(' ') }}", "{{ a | string }}"])
def test_what_is_not_text_is_rejected_with_file_line_and_column(tmp_path: Path, value: Any, word: str, completion: str) -> None:
    """A bare column, a template, and every way in which a template makes text of a value."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"q": "q", "a": one}) for one in ("fine", value)))
    with pytest.raises(DataError, match=f"a.jsonl, line 2: got {word}"):
        learned(path, completion)


COMPUTED = {
    "{{ a | int }}": "1",
    "{{ ['no', 'yes'][a | int] }}": "yes",
    "{{ 'yes' if a is sameas true else 'no' }}": "yes",
    "{{ [a, a] | map('int') | sum }}": "2",
}


@pytest.mark.parametrize("completion", COMPUTED)
def test_filters_compute_with_the_value_and_not_with_their_default(tmp_path: Path, completion: str) -> None:
    """As plain Jinja does with true; a missing value is no number."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "q", "a": true}')
    assert learned(path, completion) == [COMPUTED[completion]]
    path.write_text('{"q": "q", "a": null}')
    if "int" in completion:
        with pytest.raises(DataError, match="line 1: a missing value in column 'a'"):
            learned(path, completion)


@pytest.mark.parametrize(
    "completion", ["{{ a[:2] | string }}", "{{ a | trim }}", "{{ a | batch(2) | join(',') }}", "{{ (a + a) | string }}"]
)
def test_a_list_that_a_template_has_touched_is_still_one(tmp_path: Path, completion: str) -> None:
    """Slices, sums and filters that make text."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "q", "a": ["u", "v", "w"]}')
    with pytest.raises(DataError, match="a list"):
        learned(path, completion)


@pytest.mark.parametrize("cell", ["[{'role': 'user', 'content': 'x'}]", '[{"from": "human", "value": "x"}]'])
def test_messages_written_as_text_are_rejected(tmp_path: Path, cell: str) -> None:
    """As pandas writes lists into a csv."""
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([["q", "a"], ["q", cell]])
    for completion in ("a", "{{ a }}"):
        with pytest.raises(DataError, match="messages written as text.*in column 'a'"):
            learned(path, completion)


def test_messages_that_a_template_writes_as_json_are_text(tmp_path: Path) -> None:
    """The user asked for that."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "q", "a": [{"role": "user"}]}')
    assert learned(path, "{{ a | tojson }}") == ['[{"role": "user"}]']


@pytest.mark.parametrize("missing", ['"a": null', '"a": NaN', '"other": 1'])
@pytest.mark.parametrize("completion", ["a", "{{ a }}", " Answer: {{ a }}", "{{ q ~ a }}", "{{ '%s' | format(a) }}", "{{ a | upper }}"])
def test_missing_values_are_rejected_or_left_out(tmp_path: Path, missing: str, completion: str) -> None:
    """Null, NaN and a key that a line lacks: never the words None or nan."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"q": "p", "a": "x"}}\n{{"q": "q", {missing}}}\n{{"q": "r", "a": "y"}}\n')
    with pytest.raises(DataError, match="1 of 3 rows, the first is line 2: a missing value in column 'a'.*drop_empty"):
        learned(path, completion)
    kept = learned(path, completion, drop_empty=True)
    assert [text[-1].lower() for text in kept] == ["x", "y"]


def test_a_template_may_compute_with_what_is_not_text(tmp_path: Path) -> None:
    """Conditions, items, loops and joins over values that are not rendered themselves."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "q", "a": ["x", "y"], "none": null, "yes": true, "deep": {"key": 3}, "half": 0.50}\n')
    for completion, expected in {
        "{{ a[0] }}{{ a[-1] }}": "xy",
        "{{ a | join('-') }}": "x-y",
        "{% for one in a %}<{{ one }}>{% endfor %}": "<x><y>",
        "{% if none %}never{% endif %}z": "z",
        "{{ 'missing' if none is none else none }}": "missing",
        "{{ none | default('instead', true) }}": "instead",
        "{{ 'true' if yes else 'false' }} {{ 'T' if yes is true }}": "true T",
        "{{ deep.key + 1 }}": "4",
        "{{ half }}": "0.50",
        "{{ '%.1f' | format(half) }}": "0.5",
        "{{ a | tojson }}": '["x", "y"]',
    }.items():
        assert learned(path, completion) == [expected]


def test_numbers_are_learned_as_the_file_spells_them(tmp_path: Path) -> None:
    """A fraction in a binary file has no spelling unless a template gives it one."""
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "q", "a": 12}\n{"q": "q", "a": 1.50}\n{"q": "q", "a": 1e3}\n')
    assert learned(path, "a") == [" 12", " 1.50", " 1e3"]
    table = pyarrow.table({"q": ["q"], "a": pyarrow.array([0.1], pyarrow.float32())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 0: got 0\.1.*without a spelling of its own.*in column 'a'"):
        learned(tmp_path / "a.parquet", "a")
    assert learned(tmp_path / "a.parquet", "{{ '%.1f' | format(a) }}") == ["0.1"]
    assert float(Spelled("1.50")) == 1.5


@pytest.mark.parametrize(("value", "word"), [(b"x", "bytes"), (datetime.date(2024, 1, 2), "type date"), ([b"x"], "a list")])
def test_values_of_parquet_that_are_not_text_are_rejected(tmp_path: Path, value: Any, word: str) -> None:
    """Types that JSON does not have."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"q": "q", "a": value}]), tmp_path / "a.parquet")
    for completion in ("a", "{{ a }}"):
        with pytest.raises(DataError, match=f"a.parquet, row 0: got .*{word}.* in column 'a'"):
            learned(tmp_path / "a.parquet", completion)


def test_words_of_a_csv_are_text(tmp_path: Path) -> None:
    """NaN, null and True are words there; a row without the cell has a missing value."""
    path = tmp_path / "a.csv"
    path.write_text("q,a\nq,NaN\nq,null\nq,True\nq,007\n")
    assert learned(path, "a") == [" NaN", " null", " True", " 007"]
    path.write_text('q,a\n"q\nq",x\nq\n')
    with pytest.raises(DataError, match="the first is line 4: a missing value"):
        learned(path, "a")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"q": "q", "a": "x"}\n{"q": "q", "a": "6 \\ud83d"}\n', r"line 2: column 'a': \\ud83d, half of a surrogate pair"),
        ("a.json", '[{"q": "q", "a": ["\\uDC00 x"]}]', r"column 'a': \\udc00, half"),
        ("a.jsonl", '{"q": "q", "a": {"\\ud800": "x"}}', r"\\ud800, half"),
        ("a.jsonl", '{"q": "q", "a": "x"}\n{"q": "q", "a": "x", "a": "y"}\n', "line 2: duplicate key 'a'"),
        ("a.json", '[{"q": "q", "a": {"b": 1, "b": 2}}]', "duplicate key 'b'"),
        ("a.csv", "q,a,a\nq,x,y\n", "duplicate column 'a'"),
    ],
)
def test_what_would_be_lost_in_reading_is_rejected_with_its_place(tmp_path: Path, name: str, content: str, words: str) -> None:
    """Half of a surrogate pair, a key or a column twice."""
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: got a file that cannot be read .*{words}"):
        learned(tmp_path / name, "a")


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    """JSON may write a character beyond the first plane as a pair."""
    (tmp_path / "a.jsonl").write_text('{"q": "q", "a": "\\ud83d\\ude00"}\n')
    assert learned(tmp_path / "a.jsonl", "a") == [" \U0001f600"]


def test_columns_twice_in_parquet_are_rejected(tmp_path: Path) -> None:
    """The second would replace the first."""
    import pyarrow
    import pyarrow.parquet

    columns = [pyarrow.array(["q"]), pyarrow.array(["x"]), pyarrow.array(["y"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["q", "a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="duplicate column 'a'"):
        learned(tmp_path / "a.parquet", "a")


def test_unsafe_templates_stay_unsafe() -> None:
    """Values that refuse to become text give no way out of the sandbox."""
    for template in ("{{ a._raw }}", "{{ a.__class__ }}", "{{ a._column }}"):
        with pytest.raises(DataError, match="a template that fails"):
            render("text", template, ["a"], "here")({"a": [None]})


STOPPED = {
    "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}{{ a }}": "more than 1,000,000 steps",
    "{{ a * 10**11 }}": "more than 10,000,000",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}{{ a }}": "calls nested too deeply",
    "{{ [q, a] | random }}": "a random draw, which gives another text each time",
    "{{ cycler.__init__.__globals__ }}{{ a }}": "unsafe",
    "{{ a.__class__ }}": "unsafe",
}


@pytest.mark.parametrize("completion", STOPPED)
def test_templates_that_would_not_end_draw_or_reach_python_are_stopped(tmp_path: Path, completion: str) -> None:
    """With the field and the reason in one line."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "q", "a": "x"}')
    with pytest.raises(DataError, match=f"data.fields.completion: got a template that fails .*{STOPPED[completion]}") as error:
        learned(path, completion)
    assert "\n" not in str(error.value)


NESTED = {
    "blocks": "".join(f"{{% for x{i} in a %}}" for i in range(25)) + "{% endfor %}" * 25,
    "brackets": "{{ " + "(" * 3000 + "a" + ")" * 3000 + " }}",
    "words": "{{ " + "not " * 5000 + "a }}",
}


@pytest.mark.parametrize("kind", NESTED)
def test_templates_that_nest_too_deeply_are_rejected_before_a_row_is_rendered(tmp_path: Path, kind: str) -> None:
    """The message quotes the beginning of a long template."""
    with pytest.raises(ConfigError, match="data.fields.completion: got '{. ") as error:
        render("completion", NESTED[kind], ["a"], "rows.jsonl")
    assert len(str(error.value)) < 500
