"""Records to rows: each part of a row is a column or a template.

A field is a bare column name (``question``), or a Jinja2 template over the columns (``"Question: {{
question }}"``), rendered in a sandbox where a column that does not exist is an error. What is not
text is rejected (``harness.data.templates``).

Spaces: BPE tokenizers join a space to the word that follows it, so the space between prompt and
completion belongs to the completion. A prompt therefore loses its trailing white space, and a
completion begins with the separator in its template (``completion: " {{ answer }}"``). A completion
named by its column alone keeps its own white space, else that of the end of the prompt, and gets
one space where there is none. Under a chat template, ``tokens.encode`` strips both.

Prompts, completions and preferences may be lists of messages (TRL's conversational forms): the
prompt's turns have no loss, and a prompt that both answers of a preference begin with is found as
``trl.extract_prompt`` finds it.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.strict import check
from harness.core.errors import ConfigError, DataError, did_you_mean, explain
from harness.core.rows import Row, RowKind, Turn
from harness.data.templates import NotTextError, Render, column_of, is_missing, is_template, render

log = logging.getLogger(__name__)

FIELDS: Mapping[RowKind, tuple[frozenset[str], frozenset[str]]] = {
    "text": (frozenset({"text"}), frozenset()),
    "completion": (frozenset({"prompt", "completion"}), frozenset({"system"})),
    "chat": (frozenset({"messages"}), frozenset()),
    "preference": (frozenset({"chosen", "rejected"}), frozenset({"prompt", "system"})),
}
"""Kind of row that fields describe → required fields, optional fields."""

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
"""Names of speakers in data sets (``human`` and ``gpt`` are ShareGPT's) → our roles."""

UNLEARNABLE = ("tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking", "images", "audio")
"""Keys of messages that hold what rows cannot."""

ALLOWED_MESSAGES = "a list of {role, content} or {from, value}"


@dataclass(frozen=True)
class Form:
    """How the records of a data set become rows.

    Attributes:
        name: for the user, such as ``preference``.
        shape: kind of row that the fields describe.
        fields: part of a row → column name or template.
        messages: whether the fields of a prompt and its answers are lists of messages.
        absent: columns that must be empty, since a row cannot hold what is in them.
    """

    name: str
    shape: RowKind
    fields: Mapping[str, str]
    messages: bool = False
    absent: tuple[str, ...] = ()

    @property
    def kind(self) -> RowKind:
        """Kind of the rows."""
        return "chat" if self.messages and self.shape == "completion" else self.shape

    @property
    def conversations(self) -> bool:
        """Whether only a chat template can write the rows."""
        return self.messages or self.shape == "chat"


@functools.cache
def say_once(text: str) -> None:
    """Tell the user something about the data, once, and not in each worker process."""
    if multiprocessing.parent_process() is None:
        logging.getLogger("harness").info("%s", text)


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


def kind_of(fields: Mapping[str, str]) -> RowKind:
    """Return the kind of row that has these fields. Raises ConfigError."""
    for kind, (required, _) in FIELDS.items():
        if required <= set(fields):
            check_fields(kind, fields)
            return kind
    allowed = "; ".join(", ".join(sorted(required)) for required, _ in FIELDS.values())
    lacking: frozenset[str] = next((required - set(fields) for required, _ in FIELDS.values() if required & set(fields)), frozenset())
    whole = {**fields, **dict.fromkeys(sorted(lacking), "COLUMN")}
    fix = f'"data.fields={{{", ".join(f"{name}: {text}" for name, text in whole.items())}}}"' if lacking else ""
    raise ConfigError(explain("data.fields", got=", ".join(fields) or "nothing", allowed=allowed, fix=fix))


def to_rows(
    records: Iterable[Mapping[str, Any]],
    form: Form,
    columns: Sequence[str],
    *,
    where: str,
    drop_empty: bool,
    place: Callable[[int], str] | None = None,
) -> list[Row]:
    """Map records to rows.

    Args:
        records: column → value.
        form: how they become rows.
        columns: of the data set.
        where: the data set and split, for messages.
        drop_empty: leave out rows with an empty or missing text instead of rejecting them.
        place: position of a record → its place in words.

    Raises:
        DataError: for a missing column, an empty text, a value that is not text, invalid messages,
            or if no row is left.
    """
    if not columns:
        raise DataError(explain(where, got="no rows", allowed="at least one row with text"))
    maker, place = _Maker(form, columns, where), place or (lambda number: f"{where}, row {number}")
    rows: list[Row] = []
    empty: list[tuple[int, str]] = []
    for number, record in enumerate(records):
        try:
            row = maker.row(record, functools.partial(place, number))
            missing = "" if row.turns and all(turn.content.strip() for turn in row.turns) else "an empty text"
        except NotTextError as error:
            if not error.missing:
                fix = "text; a template of data.fields can write it as text"
                raise DataError(explain(place(number), got=error.what, allowed="text or integers", fix=fix)) from error
            missing = error.what
        if missing:
            empty.append((number, missing))
        else:
            rows.append(row)
    if empty and not drop_empty:
        got = f"an empty or missing text in {len(empty)} of {len(rows) + len(empty)} rows, the first is {_first(empty[0], place, where)}"
        fix = "correct the rows, or leave them out with data.drop_empty=true"
        raise DataError(explain(where, got=got, allowed="text in every field", fix=fix))
    if empty:
        log.info("%s: %d of %d rows have an empty text and are left out", where, len(empty), len(rows) + len(empty))
    if not rows:
        raise DataError(explain(where, got="no rows", allowed="at least one row with text"))
    if maker.spaced:
        written = ", ".join(f"{name}: '{{{{ {column_of(text) or name} }}}}'" for name, text in form.fields.items())
        template = f'templates decide otherwise: "data.fields={{{written}}}"'
        say_once(f"{where}: one space is put between prompt and completion in {maker.spaced} of {len(rows)} rows; {template}")
    return rows


def _first(empty: tuple[int, str], place: Callable[[int], str], where: str) -> str:
    """Return the place of the first empty row, and what it lacks."""
    return f"{place(empty[0]).removeprefix(f'{where}, ')}: {empty[1]}"


class _Maker:
    """Make rows of one form.

    Attributes:
        spaced: number of rows that got a space between prompt and completion.
    """

    def __init__(self, form: Form, columns: Sequence[str], where: str) -> None:
        self.form = form
        self.renders: dict[str, Render] = {}
        self.spaced = 0
        for name, text in form.fields.items():
            column = column_of(text)
            takes_messages = form.shape == "chat" or (form.messages and name != "system")
            rendered = render(name, text, columns, where)
            self.renders[name] = functools.partial(_value, column) if takes_messages and column else rendered
        self.make = {"text": self._text, "completion": self._completion, "chat": self._chat, "preference": self._preference}[form.shape]

    def row(self, record: Mapping[str, Any], place: Callable[[], str]) -> Row:
        """Return the row of a record. Raises NotTextError, DataError."""
        for column in self.form.absent:
            if not is_missing(record.get(column)) and record[column] not in ([], {}, ""):
                got, fix = f"a value in column '{column}', which a row cannot hold", "remove the column, or name columns with data.fields"
                raise DataError(explain(place(), got=got, allowed=f"rows without {column}", fix=fix))
        if self.form.name == "prompt-completion" and _is_mark(record.get("label")):
            got, fix = (
                "a column 'label' that marks answers as good or bad (KTO)",
                "keep the good rows, or name columns with data.fields",
            )
            raise DataError(explain(place(), got=got, allowed="completions to learn from, or preference pairs", fix=fix))
        return self.make({name: self._value(name, rendered, record) for name, rendered in self.renders.items()}, place)

    def _value(self, name: str, rendered: Render, record: Mapping[str, Any]) -> Any:
        """Return the value of a field; a missing system text is none, if the field is a column."""
        try:
            return rendered(record)
        except NotTextError as error:
            if name == "system" and error.missing and column_of(self.form.fields[name]):
                return ""
            raise

    def _text(self, values: Mapping[str, Any], _: Callable[[], str]) -> Row:
        return Row((Turn("text", values["text"]),), "text")

    def _chat(self, values: Mapping[str, Any], place: Callable[[], str]) -> Row:
        turns = _messages(values["messages"], place)
        _require_dialogue(turns, place)
        return Row(turns, "chat")

    def _completion(self, values: Mapping[str, Any], place: Callable[[], str]) -> Row:
        if self.form.messages:
            asked = (*_system(values), *_messages(values["prompt"], place))
            return Row((*asked, _answer(asked, values["completion"], "completion", place)), "chat", prompt_turns=len(asked))
        prompt, answer = self._joined(values["prompt"], values["completion"], "completion")
        return Row((*_system(values), Turn("user", prompt), Turn("assistant", answer)), "completion")

    def _preference(self, values: Mapping[str, Any], place: Callable[[], str]) -> Row:
        if self.form.messages:
            return _preferred_messages(values, place)
        if "prompt" in values:
            prompt, better = self._joined(values["prompt"], values["chosen"], "chosen")
            _, worse = self._joined(values["prompt"], values["rejected"], "rejected")
        else:
            common, better, worse = shared(values["chosen"], values["rejected"])
            prompt = common.rstrip()
            better, worse = common[len(prompt) :] + better, common[len(prompt) :] + worse
            if not prompt:
                raise DataError(explain(place(), got="chosen and rejected without a common beginning", allowed="a prompt that both share"))
        turns = (Turn("user", prompt), Turn("assistant", better), Turn("rejected", worse))
        return Row((*_system(values), *turns), "preference")

    def _joined(self, prompt: str, answer: str, name: str) -> tuple[str, str]:
        """Return the prompt without trailing white space, and the answer with what is between."""
        short = prompt.rstrip()
        if is_template(self.form.fields[name]):
            return short, answer
        if not answer.strip() or answer[0].isspace():
            return short, answer
        self.spaced += name != "rejected" and len(short) == len(prompt)
        return short, (prompt[len(short) :] or " ") + answer


def _value(column: str, record: Mapping[str, Any]) -> Any:
    if is_missing(value := record.get(column)):
        raise NotTextError(value, column)
    return value


def _is_mark(label: Any) -> bool:
    """Return whether a label marks an answer as good or bad: a boolean, also as a csv spells it."""
    return isinstance(label, bool) or str(label).strip().lower() in ("true", "false", "0", "1")


def _system(values: Mapping[str, Any]) -> tuple[Turn, ...]:
    system = values.get("system", "")
    return (Turn("system", system),) if system.strip() else ()


def shared(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Return the prompt that two texts or conversations begin with, and their answers.

    The same as ``trl.extract_prompt``, but equal ones have no prompt: the space before the answers
    is theirs.
    """
    if chosen == rejected:
        return chosen[:0], chosen, rejected
    length = min(len(chosen), len(rejected))
    end = next((i for i in range(length) if chosen[i] != rejected[i]), length - 1)
    if end and chosen[end] != rejected[end] and chosen[end - 1] == " ":
        end -= 1
    return chosen[:end], chosen[end:], rejected[end:]


def _preferred_messages(values: Mapping[str, Any], place: Callable[[], str]) -> Row:
    """Return a preference between messages, whose prompt may be within both of them.

    A prompt of text next to whole conversations repeats a message that they begin with.

    Raises DataError.
    """
    prompt, chosen, rejected = values.get("prompt"), values["chosen"], values["rejected"]
    if not isinstance(prompt, list | tuple):
        for name in ("chosen", "rejected"):
            _messages(values[name], place)
        text = prompt
        prompt, chosen, rejected = shared(chosen, rejected)
        begun = [str(message.get("content", message.get("value"))).strip() for message in prompt]
        if isinstance(text, str) and text.strip() and text.strip() not in begun:
            got = "a prompt of text that neither conversation begins with"
            raise DataError(explain(place(), got=got, allowed="a prompt that both share", fix="remove the column prompt, or the messages"))
    turns = (*_system(values), *_messages(prompt, place))
    better, worse = _answer(turns, chosen, "chosen", place), _answer(turns, rejected, "rejected", place)
    return Row((*turns, better, Turn("rejected", worse.content)), "preference", prompt_turns=len(turns))


def _answer(prompt: Sequence[Turn], messages: Any, name: str, place: Callable[[], str]) -> Turn:
    """Return the single message that answers a prompt of messages. Raises DataError."""
    turns = _messages(messages, place)
    if [turn.role for turn in prompt[-1:]] != ["user"] or [turn.role for turn in turns] != ["assistant"]:
        got = f"a prompt of {_roles(prompt)}, with {name} of {_roles(turns)}"
        allowed = f"a prompt that ends with the user, and {name} of one message of the assistant"
        raise DataError(explain(place(), got=got, allowed=allowed))
    _require_dialogue((*prompt, *turns), place)
    return turns[0]


def _roles(turns: Sequence[Turn]) -> str:
    return ", ".join(turn.role for turn in turns) or "no message"


def _messages(messages: Any, place: Callable[[], str]) -> tuple[Turn, ...]:
    """Return messages as turns. Raises DataError."""
    if not isinstance(messages, list | tuple) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError(explain(place(), got=f"messages of type {type(messages).__name__}", allowed=ALLOWED_MESSAGES))
    return tuple(_turn(message, place(), ALLOWED_MESSAGES) for message in messages)


def _require_dialogue(turns: Sequence[Turn], place: Callable[[], str]) -> None:
    spoken = [turn.role for turn in turns if turn.role != "system"]
    if turns and (spoken[:1] != ["user"] or "assistant" not in spoken):
        got, allowed = f"a conversation of {_roles(turns)}", "one that begins with the user and that the assistant answers"
        raise DataError(explain(place(), got=got, allowed=allowed))


def _turn(message: Mapping[str, Any], where: str, allowed: str) -> Turn:
    role, content = (_first_given(message, names) for names in (("role", "from"), ("content", "value")))
    if not isinstance(role, str) or role not in ROLES:
        fix = f"the roles {', '.join(ROLES)}"
        raise DataError(explain(where, got=f"a message with keys {sorted(message)} and role {role!r}", allowed=allowed, fix=fix))
    if held := [key for key in UNLEARNABLE if message.get(key)]:
        raise DataError(explain(where, got=f"a message with {', '.join(held)}", allowed="messages of text alone"))
    if content is not None and not isinstance(content, str):
        raise DataError(explain(where, got=f"a message with content of type {type(content).__name__}", allowed="text"))
    return Turn(ROLES[role], content or "", _is_taught(message, ROLES[role], where))


def _first_given(message: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((message[name] for name in names if not is_missing(message.get(name))), None)


def _is_taught(message: Mapping[str, Any], role: str, where: str) -> bool:
    """Return whether an answer is learned: not with ``train: false`` or ``weight: 0``.

    Only answers can be learned, and all with one weight; DataError is raised for a message that
    asks for anything else.
    """
    given = {name: message[name] for name in ("train", "weight", "train_detail") if not is_missing(message.get(name))}
    allowed = "train: true or false, or weight: 1 or 0, of an answer"
    for name, value in given.items():
        is_kind = isinstance(value, bool) == (name == "train") and isinstance(value, int | float)
        if name == "train_detail" or not is_kind or value not in (0, 1):
            raise DataError(explain(where, got=f"a message with {name}: {value!r}", allowed=allowed, fix="leave it out"))
    asked = {bool(value) for value in given.values()}
    if len(asked) > 1 or (True in asked and role != "assistant"):
        got = f"{role}'s message with {', '.join(f'{name}: {value!r}' for name, value in given.items())}"
        raise DataError(explain(where, got=got, allowed=allowed, fix="leave it out"))
    return role != "assistant" or asked != {False}
