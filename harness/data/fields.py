"""Records to rows: each part of a row is a column or a template.

A field is a bare column name (``question``), or a Jinja2 template over the columns (``"Question: {{
question }}"``), rendered in a sandbox where a column that does not exist is an error.

Spaces: BPE tokenizers join a space to the word that follows it, so the space between prompt and
completion belongs to the completion. A prompt therefore loses its trailing white space, and a
completion begins with the separator in its template (``completion: " {{ answer }}"``). Under a chat
template, ``tokens.encode`` strips both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.config.strict import check
from harness.core.errors import ConfigError, DataError, did_you_mean, explain
from harness.core.rows import Row, RowKind, Turn

log = logging.getLogger(__name__)

FIELDS: Mapping[RowKind, tuple[frozenset[str], frozenset[str]]] = {
    "text": (frozenset({"text"}), frozenset()),
    "completion": (frozenset({"prompt", "completion"}), frozenset({"system"})),
    "chat": (frozenset({"messages"}), frozenset()),
    "preference": (frozenset({"prompt", "chosen", "rejected"}), frozenset({"system"})),
}
"""Row kind → required fields, optional fields."""

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
"""Names of speakers in data sets (``human`` and ``gpt`` are ShareGPT's) → our roles."""

Render = Callable[[Mapping[str, Any]], Any]


def check_fields(kind: RowKind, fields: Mapping[str, str]) -> None:
    """Raise ConfigError for a missing field, or one that the kind does not have."""
    required, optional = FIELDS[kind]
    allowed = ", ".join([*sorted(required), *(f"{name} (optional)" for name in sorted(optional))])
    for name in fields:
        if name not in required | optional:
            fix = did_you_mean(name, required | optional)
            raise ConfigError(explain(f"data.fields.{name}", got="an unknown field", allowed=f"{allowed} for kind: {kind}", fix=fix))
    for name in sorted(required - set(fields)):
        fix = "name a column, or write a template such as '{{ column }}'"
        raise ConfigError(explain(f"data.fields.{name}", got="nothing", allowed=f"{allowed} for kind: {kind}", fix=fix))


def check_volumes(volumes: Sequence[int]) -> None:
    """Raise ConfigError unless volumes are positive and different; any order is allowed."""
    allowed = "at least one positive integer, each once"
    check("data.volumes", list(volumes), allowed, lambda v: bool(v) and min(v) > 0 and len(set(v)) == len(v))


def to_rows(
    records: Iterable[Mapping[str, Any]], kind: RowKind, fields: Mapping[str, str], columns: Sequence[str], *, where: str, drop_empty: bool
) -> list[Row]:
    """Map records to rows.

    Args:
        records: column → value.
        kind: of the rows.
        fields: part of a row → column name or template.
        columns: of the data set.
        where: the data set and split, for messages.
        drop_empty: leave out rows with an empty text instead of rejecting them.

    Raises:
        DataError: for a missing column, an empty text, invalid messages, or if no row is left.
    """
    if not columns:
        raise DataError(explain(where, got="no rows", allowed="at least one row with text"))
    renders = {name: _render(name, text, columns, where) for name, text in fields.items()}
    make = {"text": _text_row, "completion": _completion_row, "chat": _chat_row, "preference": _preference_row}[kind]
    rows: list[Row] = []
    empty: list[int] = []
    for number, record in enumerate(records):
        row = make({name: render(record) for name, render in renders.items()}, f"{where}, row {number}")
        if _is_empty(row):
            empty.append(number)
        else:
            rows.append(row)
    if empty and not drop_empty:
        got = f"an empty or missing text in {len(empty)} of {len(rows) + len(empty)} rows, the first is row {empty[0]}"
        fix = "correct the rows, or leave them out with data.drop_empty=true"
        raise DataError(explain(where, got=got, allowed="text in every field", fix=fix))
    if empty:
        log.info("%s: %d of %d rows have an empty text and are left out", where, len(empty), len(rows) + len(empty))
    if not rows:
        raise DataError(explain(where, got="no rows", allowed="at least one row with text"))
    return rows


def _is_empty(row: Row) -> bool:
    return not row.turns or any(not turn.content.strip() for turn in row.turns)


def _render(name: str, text: str, columns: Sequence[str], where: str) -> Render:
    """Compile a field; raise DataError if one of its columns does not exist."""
    is_template = "{{" in text or "{%" in text
    needed = _columns_of(name, text, where) if is_template else {text}
    for column in sorted(needed - set(columns)):
        fix = did_you_mean(column, columns) or "set data.fields to columns of the data set"
        raise DataError(explain(f"{where}: data.fields.{name}", got=f"no column '{column}'", allowed=", ".join(columns), fix=fix))
    if not is_template:
        return lambda record: record.get(text)
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # finalize: a None would be rendered as the word "None"
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, finalize=lambda value: "" if value is None else value
    )
    template = environment.from_string(text)

    def render(record: Mapping[str, Any]) -> str:
        try:
            return template.render(record)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            message = explain(f"{where}: data.fields.{name}", got=f"a template that fails ({error})", fix=f"correct {text!r}")
            raise DataError(message) from error

    return render


def _columns_of(name: str, text: str, where: str) -> set[str]:
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment()
    try:
        return meta.find_undeclared_variables(environment.parse(text)) - set(environment.globals)
    except TemplateSyntaxError as error:
        message = explain(f"{where}: data.fields.{name}", got=f"{text!r} ({error})", allowed="a Jinja2 template over the columns")
        raise ConfigError(message) from error


def _string(value: Any) -> str:
    return "" if value is None else str(value)


def _text_row(values: Mapping[str, Any], _where: str) -> Row:
    return Row((Turn("text", _string(values["text"])),), "text")


def _completion_row(values: Mapping[str, Any], _where: str) -> Row:
    system = _string(values.get("system"))
    turns = (Turn("user", _string(values["prompt"]).rstrip()), Turn("assistant", _string(values["completion"])))
    return Row((Turn("system", system), *turns) if system.strip() else turns, "completion")


def _preference_row(values: Mapping[str, Any], _where: str) -> Row:
    better = _completion_row({**values, "completion": values["chosen"]}, _where)
    return Row((*better.turns, Turn("rejected", _string(values["rejected"]))), "preference")


def _chat_row(values: Mapping[str, Any], where: str) -> Row:
    messages = values["messages"]
    if messages is None:
        return Row((), "chat")
    allowed = "a list of {role, content} or {from, value}"
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not all(isinstance(m, Mapping) for m in messages):
        raise DataError(explain(where, got=f"messages of type {type(messages).__name__}", allowed=allowed))
    turns = tuple(_turn(message, where, allowed) for message in messages)
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if turns and (spoken[:1] != ["user"] or "assistant" not in spoken):
        got = f"a conversation of {', '.join(turn.role for turn in turns)}"
        raise DataError(explain(where, got=got, allowed="one that begins with the user and that the assistant answers"))
    return Row(turns, "chat")


def _turn(message: Mapping[str, Any], where: str, allowed: str) -> Turn:
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if role not in ROLES:
        fix = f"the roles {', '.join(ROLES)}"
        raise DataError(explain(where, got=f"a message with keys {sorted(message)} and role {role!r}", allowed=allowed, fix=fix))
    if content is not None and not isinstance(content, str):
        raise DataError(explain(where, got=f"a message with content of type {type(content).__name__}", allowed="text"))
    return Turn(ROLES[role], content or "", _is_taught(message, ROLES[role], where))


def _is_taught(message: Mapping[str, Any], role: str, where: str) -> bool:
    """Return whether an answer is learned: not with ``train: false`` or ``weight: 0``.

    Only answers can be learned, and all with one weight; DataError is raised for a message that
    asks for anything else.
    """
    given = {name: message[name] for name in ("train", "weight", "train_detail") if message.get(name) is not None}
    allowed = "train: true or false, or weight: 1 or 0, of an answer"
    for name, value in given.items():
        numbers = (bool,) if name == "train" else (int, float)
        if name == "train_detail" or type(value) not in numbers or value not in (0, 1):
            raise DataError(explain(where, got=f"a message with {name}: {value!r}", allowed=allowed, fix="leave it out"))
    asked = {bool(value) for value in given.values()}
    if len(asked) > 1 or (True in asked and role != "assistant"):
        got = f"{role}'s message with {', '.join(f'{name}: {value!r}' for name, value in given.items())}"
        raise DataError(explain(where, got=got, allowed=allowed, fix="leave it out"))
    return role != "assistant" or asked != {False}
