"""Columns and Jinja2 templates to text; a value that is not text is rejected.

Text is: text, integers, and numbers with a fraction where the file spells them (JSON). A template
may compute with other values (``{% if input %}``, ``{{ choices[0] }}``, a loop, ``join``), but
never render one: they reach it as objects that refuse to become text.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigError, DataError, did_you_mean, explain, shortened

if TYPE_CHECKING:
    from jinja2 import Environment

Render = Callable[[Mapping[str, Any]], Any]

MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|from|content|value)["']\s*:""")
"""How a list of messages begins that was written as text, by Python or as JSON."""

TO_TEXT = "string trim format replace upper lower capitalize title escape e forceescape striptags center indent truncate wordwrap".split()
"""Filters that turn what they are given to text."""


class Spelled(float):
    """A number of a JSON file, with its spelling: 1.50 stays 1.50."""

    text: str

    def __new__(cls, text: str) -> Spelled:
        """Parse the number."""
        found = super().__new__(cls, text)
        found.text = text
        return found

    def __str__(self) -> str:
        return self.text


class NotTextError(Exception):
    """A value that is not text.

    Attributes:
        what: noun phrase, with the column.
        missing: whether there is no value, so that the row may be left out.
    """

    def __init__(self, value: Any, column: str) -> None:
        self.missing = is_missing(value)
        self.what = f"{_described(value)}{f' in column {column!r}' if column else ' as the result of a template'}"
        super().__init__(self.what)


def is_missing(value: Any) -> bool:
    """Return whether a value stands for none: null, or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_text(value: Any) -> bool:
    """Return whether a value is text, or a number with one spelling."""
    if isinstance(value, bool):
        return False
    return isinstance(value, str | Integral) or (isinstance(value, Spelled) and math.isfinite(value))


def text_of(value: Any, column: str) -> str:
    """Return the text of a value. Raises NotTextError."""
    if not is_text(value) or _are_messages(value):
        raise NotTextError(value, column)
    return str(value)


def _are_messages(value: Any) -> bool:
    """Return whether the text of a column is a list of messages that was written as text."""
    return isinstance(value, str) and MESSAGES.match(value) is not None


def _described(value: Any) -> str:
    if is_missing(value):
        return "a missing value"
    if isinstance(value, str):
        return "messages written as text, as a csv has them (JSON lines and parquet hold lists)"
    names = {bool: f"the boolean {value}", bytes: "bytes", dict: "a mapping", list: "a list", tuple: "a list"}
    for kind, name in names.items():
        if isinstance(value, kind):
            return name
    if isinstance(value, float):
        return f"{value}, a number without a spelling of its own (a template formats it)" if math.isfinite(value) else f"the number {value}"
    return f"a value of type {type(value).__name__}"


class _Refusing:
    """Mixin: becoming text raises NotTextError."""

    _raw: Any
    _column: str

    def _refuse(self, *_: Any) -> str:
        raise NotTextError(self._raw, self._column)

    __str__ = __repr__ = __format__ = _refuse


class _List(_Refusing, list[Any]):
    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _refusing(_List(found), self._raw, self._column) if isinstance(place, slice) else found

    def __add__(self, other: Any) -> Any:
        return _refusing(_List([*self, *other]), self._raw, self._column)


class _Mapping(_Refusing, dict[str, Any]):
    pass


class _Number(_Refusing, float):
    pass


class _Other(_Refusing):
    """Any other value: it can be tested and compared, and keeps its methods."""

    def __bool__(self) -> bool:
        return not is_missing(self._raw) and bool(self._raw)

    def __eq__(self, other: object) -> bool:
        return bool(self._raw == (other._raw if isinstance(other, _Other) else other))

    def __hash__(self) -> int:
        return hash(self._raw)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._raw, name)


def _guarded(value: Any, column: str) -> Any:
    """Return a value as templates see it."""
    if is_text(value) and not _are_messages(value):
        return value
    found: Any
    if isinstance(value, Mapping):
        found = _Mapping((key, _guarded(item, column)) for key, item in value.items())
    elif isinstance(value, list | tuple):
        found = _List(_guarded(item, column) for item in value)
    elif isinstance(value, float) and math.isfinite(value):
        found = _Number(value)
    else:
        found = _Other()
    return _refusing(found, value, column)


def _refusing(found: Any, value: Any, column: str) -> Any:
    found._raw, found._column = value, column
    return found


def is_template(text: str) -> bool:
    """Return whether a field is a template rather than the name of a column."""
    return "{{" in text or "{%" in text


def column_of(text: str) -> str | None:
    """Return the column that a field names, or that its template renders alone."""
    if not is_template(text):
        return text
    alone = re.fullmatch(r"\s*\{\{-?\s*(\w+)\s*-?\}\}\s*", text)
    return alone[1] if alone else None


def render(name: str, text: str, columns: Sequence[str], where: str) -> Render:
    """Compile a field to a function of a record, which raises NotTextError.

    Raises DataError if one of its columns does not exist, ConfigError for a template that is
    invalid.
    """
    needed = _columns_of(name, text, where) if is_template(text) else {text}
    for column in sorted(needed - set(columns)):
        fix = did_you_mean(column, columns) or "set data.fields to columns of the data set, or data=PATH to have its format recognised"
        raise DataError(explain(f"{where}: data.fields.{name}", got=f"no column '{column}'", allowed=", ".join(columns), fix=fix))
    if not is_template(text):
        return lambda record: text_of(record.get(text), text)
    from jinja2 import TemplateError

    from harness.core.sandbox import FAILING, reason

    template = _environment().from_string(text)

    def rendered(record: Mapping[str, Any]) -> str:
        try:
            return template.render({column: _guarded(record.get(column), column) for column in needed})
        except (TemplateError, *FAILING) as error:
            got = f"a template that fails ({reason(error)})"
            raise DataError(explain(f"{where}: data.fields.{name}", got=got, fix=f"correct {shortened(text)!r}")) from error

    return rendered


@functools.cache
def _environment() -> Environment:
    """Return a sandbox in which every rendered or joined value passes ``_finished``."""
    from jinja2 import StrictUndefined, nodes

    from harness.core.sandbox import LimitedEnvironment

    class Strict(LimitedEnvironment):
        def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
            parsed = super()._parse(source, name, filename)
            for joined in parsed.find_all(nodes.Concat):
                joined.nodes = [nodes.Filter(one, "finished", [], [], None, None, lineno=joined.lineno) for one in joined.nodes]
            return parsed

    environment = Strict(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_finished)
    environment.filters["finished"] = _finished
    for name in TO_TEXT:
        environment.filters[name] = _of_text(environment.filters[name])
    environment.filters["join"] = _of_joined(environment.filters["join"])
    for name in ("int", "float", "round", "abs"):
        environment.filters[name] = _of_number(environment.filters[name])
    environment.tests["sameas"] = lambda value, other: _raw(value) is _raw(other)
    environment.tests["none"] = lambda value: _raw(value) is None
    environment.tests["true"] = lambda value: _raw(value) is True
    environment.tests["false"] = lambda value: _raw(value) is False
    environment.tests["boolean"] = lambda value: isinstance(_raw(value), bool)
    return environment


def _of_text(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that turns its input and arguments to text, for values that are text."""
    formats = filter_.__name__ == "do_format"  # gives a number its spelling

    @functools.wraps(filter_)
    def checked(*values: Any, **options: Any) -> Any:
        for value in (*values, *options.values()):
            if isinstance(value, _Refusing | list | tuple | dict) and not (formats and isinstance(value, float)):
                _finished(value)
        return filter_(*values, **options)

    return checked


def _of_joined(join: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter ``join``, for items that are text."""

    @functools.wraps(join)
    def checked(context: Any, items: Any, separator: Any = "", attribute: Any = None) -> Any:
        items = list(items)
        for item in items if attribute is None else ():
            if isinstance(item, _Refusing | list | tuple | dict):
                _finished(item)
        return join(context, items, separator, attribute)

    return checked


def _of_number(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that computes with numbers, for values of any type that are not missing."""

    @functools.wraps(filter_)
    def computed(value: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(value, _Other):
            if is_missing(value._raw):
                value._refuse()
            value = value._raw
        return filter_(value, *arguments, **options)

    return computed


def _raw(value: Any) -> Any:
    raw = value._raw if isinstance(value, _Other) else value
    return None if is_missing(raw) else raw


def _finished(value: Any) -> Any:
    """Return a value that a template renders, if it is text. Raises NotTextError."""
    from jinja2 import Undefined

    if isinstance(value, _Refusing):
        value._refuse()
    computed = isinstance(value, float) and math.isfinite(value)
    if not (is_text(value) or computed or isinstance(value, Undefined)):
        raise NotTextError(value, "")
    return value


def _columns_of(name: str, text: str, where: str) -> set[str]:
    from jinja2 import TemplateError, meta

    from harness.core.sandbox import INVALID, reason

    environment = _environment()
    try:
        environment.from_string(text)
        return meta.find_undeclared_variables(environment.parse(text)) - set(environment.globals)
    except (TemplateError, *INVALID) as error:
        message = explain(
            f"{where}: data.fields.{name}", got=f"{shortened(text)!r} ({reason(error)})", allowed="a Jinja2 template over the columns"
        )
        raise ConfigError(message) from error
