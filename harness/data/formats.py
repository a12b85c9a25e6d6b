"""Formats of data sets, recognised by their columns and first rows.

TRL's forms (text, messages, prompt and completion, preference; as text or as messages; with the
prompt within both answers of a preference), ShareGPT's conversations, Alpaca's instructions.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from harness.config.strict import check
from harness.core.errors import DataError, explain
from harness.core.rows import RowKind
from harness.data.fields import Form, check_fields, kind_of, say_once
from harness.data.templates import column_of, is_missing

Format = Literal["auto", "text", "messages", "prompt-completion", "preference", "sharegpt", "alpaca"]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
}
"""Format → columns that it must have."""

HEAD = 100
"""Rows from which a format is recognised; all others must have the same."""

ABSENT = ("tools", "chat_template_kwargs", "image", "images", "audio", "video", "videos", "history", "functions")
"""Columns that decide what TRL or others learn of a row, and that our rows cannot hold."""

PAIRS = (("question", "answer"), ("query", "response"), ("prompt", "response"), ("instruction", "response"), ("input", "output"))
"""Usual names of a prompt and its answer that no format has."""

ALPACA = (
    "Below is an instruction that describes a task{input_clause}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{{{{ instruction }}}}{input_part}\n\n### Response:"
)
"""The prompt published with Stanford Alpaca, as in conf/data/alpaca.yaml."""


def check_settings(format_: str, kind: RowKind | None, fields: Mapping[str, str] | None) -> None:
    """Raise ConfigError for a format next to fields, or a kind without fields."""
    if fields is None:
        fix = "data.fields={…} too, or data.format instead"
        check("data.kind", kind, "null where data.fields is null: the format decides", lambda value: value is None, fix)
    else:
        fix = "data=PATH or data=ORG/NAME with data.format, or data.fields alone"
        check("data.format", format_, "auto where data.fields is given", lambda value: value == "auto", fix)
        check_fields(kind, fields) if kind else kind_of(fields)


def of_fields(kind: RowKind | None, fields: Mapping[str, str], records: Iterable[Mapping[str, Any]] = ()) -> Form:
    """Return the form of given fields; messages are recognised in the first records."""
    head = list(itertools.islice(records, HEAD))
    columns = [column_of(text) for name, text in fields.items() if name != "system"]
    shape = kind or kind_of(fields)
    messages = shape in ("completion", "preference") and any(_holds_messages(head, column) for column in columns if column)
    return Form("fields", shape, fields, messages)


def recognise(format_: Format, records: Iterable[Mapping[str, Any]], columns: Sequence[str], where: str) -> Form:
    """Return the form of a data set.

    Args:
        format_: the user's, or ``auto``.
        records: of the data set, from the first on.
        columns: of the data set; empty for those of the first records.
        where: the data set, for messages.

    Raises:
        DataError: for a format that is not known, or not the one asked for, or several.
    """
    head = list(itertools.islice(records, HEAD))
    columns = columns or list(dict.fromkeys(column for record in head for column in record))
    if not head:
        raise DataError(explain(where, got="no rows", allowed="at least one row with text"))
    found = [name for name, needed in COLUMNS.items() if set(needed) <= set(columns)]
    if format_ != "auto":
        missing = [column for column in COLUMNS[format_] if column not in columns]
        if missing:
            got = f"'{format_}', without column {', '.join(missing)}"
            raise DataError(explain(f"{where}: data.format", got=got, allowed=_expected(), fix=_advice(columns, head)))
        found = [format_]
    if len(found) > 1:
        got = " and ".join(f"{name} ({', '.join(COLUMNS[name])})" for name in found)
        fix = " or ".join(f"data.format={name}" for name in found)
        raise DataError(explain(where, got=f"columns of {got}", allowed="one format", fix=fix))
    if not found:
        raise DataError(explain(where, got=f"columns {', '.join(columns)}", allowed=_expected(), fix=_advice(columns, head)))
    return _form(found[0], head, columns, where)


def _expected() -> str:
    return "; ".join(f"{name}: {' + '.join(columns)}" for name, columns in COLUMNS.items())


def _advice(columns: Sequence[str], head: Sequence[Mapping[str, Any]]) -> str:
    """Return the fields that the columns suggest, by their names or else by their texts."""
    for pair in (("prompt", "chosen", "rejected"), COLUMNS["preference"], COLUMNS["prompt-completion"], *PAIRS):
        named = [_near(name, columns) for name in pair]
        if all(named):
            return _fields(dict(zip(pair if "chosen" in pair else ("prompt", "completion"), named, strict=True)))
    texts = [column for column in columns if any(isinstance(record.get(column), str) for record in head)]
    texts = [column for column in texts if column.isidentifier()] or ["COLUMN", "COLUMN"]
    found = {"text": texts[0]} if len(texts) == 1 else {"prompt": texts[0], "completion": texts[1]}
    return f"name your columns, such as {_fields(found)}"


def _near(name: str, columns: Sequence[str]) -> str:
    """Return the column that is meant by a name, in another case or with a typing error."""
    typed = {column.lower(): column for column in columns if column.isidentifier()}
    return typed.get(next(iter(difflib.get_close_matches(name, typed, n=1, cutoff=0.8)), ""), "")


def _fields(named: Mapping[str, str]) -> str:
    return f'"data.fields={{{", ".join(f"{name}: {column}" for name, column in named.items())}}}"'


def _form(name: str, head: Sequence[Mapping[str, Any]], columns: Sequence[str], where: str) -> Form:
    """Return the form of a known format. Raises DataError for one that cannot be learned."""
    absent = ABSENT
    if name == "alpaca":
        return Form(name, "completion", _alpaca(columns), absent=absent)
    if name in ("messages", "sharegpt"):
        (column,) = COLUMNS[name]
        if not _holds_messages(head, column):
            got = f"column '{column}' without lists of messages"
            fix = f"correct the rows, or learn it as text: {_fields({'text': column})}"
            raise DataError(explain(where, got=got, allowed="lists of {role, content} or {from, value}", fix=fix))
        return Form(name, "chat", {"messages": column}, absent=absent)
    if name == "text":
        return Form(name, "text", {"text": "text"}, absent=absent)
    shape: RowKind = "completion" if name == "prompt-completion" else "preference"
    fields = {column: column for column in ("prompt", *COLUMNS[name]) if column in columns}
    messages = any(_holds_messages(head, column) for column in fields)
    return Form(name, shape, fields, messages, absent)


def _alpaca(columns: Sequence[str]) -> dict[str, str]:
    given = "{%- if input is not none and input != '' %}"  # 0 is an input
    clause = f"{given}, paired with an input that provides further context{{% endif -%}}" if "input" in columns else ""
    part = f"{given}\n\n### Input:\n{{{{ input }}}}\n{{%- endif %}}" if "input" in columns else ""
    fields = {"prompt": ALPACA.format(input_clause=clause, input_part=part), "completion": "\n{{ output }}"}
    return fields | ({"system": "system"} if "system" in columns else {})


def _holds_messages(head: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Return whether the first values of a column are lists of messages."""
    value = next((record[column] for record in head if not is_missing(record.get(column)) and record[column] != []), None)
    return isinstance(value, list | tuple) and all(isinstance(one, Mapping) and ("role" in one or "from" in one) for one in value)


def report(form: Form, columns: Sequence[str], rows: int, where: str) -> None:
    """Tell the user how a data set was understood."""
    if form.name == "fields" and not form.messages:
        return
    read = {text: None for text in form.fields.values() if text in columns}
    if form.name == "alpaca":
        read = dict.fromkeys(column for column in ("system", "instruction", "input", "output") if column in columns)
    if form.messages:
        read = dict.fromkeys(str(column_of(text)) for text in form.fields.values())
    unread = [column for column in columns if column not in read]
    implied = "prompt" not in form.fields and form.shape == "preference"
    details = [
        *(["of messages"] if form.messages else []),
        *(["with the prompt within chosen and rejected"] if implied else []),
        f"from column{'s' if len(read) > 1 else ''} {', '.join(read)}",
    ]
    name = {"fields": form.shape}.get(form.name, form.name)
    ignored = f"; not read: {', '.join(unread)}" if unread else ""
    say_once(f"data: {where} read as {name} {' '.join(details)}, {rows} rows{ignored}")
