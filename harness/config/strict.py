"""Plain values to dataclasses, strictly, and back."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from harness.config import outside
from harness.core.errors import ConfigError, did_you_mean, explain


class Part:
    """Base of dataclasses whose place decides their class, such as ``RunConfig.training``.

    Plain values of a member of a group name its class, those of a part do not.
    """


def check(where: str, value: Any, allowed: str, accept: typing.Callable[[Any], bool], fix: str = "") -> None:
    """Raise ConfigError unless ``accept(value)``; NaN and infinity are never accepted."""
    broken = isinstance(value, float) and not math.isfinite(value)
    if broken or not accept(value):
        raise ConfigError(explain(where, got=repr(value), allowed=allowed, fix=fix))


def require_keys(where: str, values: Mapping[str, Any], allowed: typing.Collection[str]) -> None:
    """Raise ConfigError for a key that is not allowed."""
    for key in values:
        check(where, key, ", ".join(allowed), lambda key: key in allowed, did_you_mean(key, allowed))


LATER: Mapping[str, Any] = types.MappingProxyType({"later": True})
"""Metadata of a setting that its class got later: plain values lack it at its default, so that the
ids of runs that do not use it stay the same."""


def build(cls: type[Any], values: Mapping[str, Any], where: str, raw: Mapping[str, str] | None = None) -> Any:
    """Build a dataclass from plain values, strictly.

    Args:
        cls: a dataclass; its ``__post_init__`` checks ranges.
        values: plain values, as read from yaml or JSON.
        where: dotted path of this object, for messages; may be empty.
        raw: texts as the user typed them, by dotted path. A text field whose value was parsed as a
            number (a revision such as ``12e45678``) takes its text from here.

    Raises:
        ConfigError: for an unknown key, a missing key or a wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(explain(where or cls.__name__, got=repr(values), allowed="a mapping"))
    hints = _hints(cls)  # type: ignore[arg-type] # a class is hashable
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    dot = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            allowed = ", ".join(sorted(fields)) or f"nothing: {cls.__name__} has no settings"
            fix = did_you_mean(str(key), fields) if fields else "arms of an experiment file, where only some values of an axis have it"
            raise ConfigError(explain(f"{dot}{key}", got="an unknown key", allowed=allowed, fix=fix))
    for name, f in fields.items():
        no_default = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise ConfigError(explain(f"{dot}{name}", got="nothing", allowed=describe(hints[name]), fix=f"set {dot}{name}=…"))
    return cls(**{key: convert(value, hints[key], f"{dot}{key}", raw or {}) for key, value in values.items()})


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def convert(value: Any, hint: Any, where: str, raw: Mapping[str, str]) -> Any:
    """Convert a plain value to the type of its field. Raises ConfigError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_built(value, hint) or (value is None and type(None) in args):
        return value
    if origin in (typing.Union, types.UnionType):
        return convert(value, next(arg for arg in args if arg is not type(None)), where, raw)
    error = ConfigError(explain(where, got=repr(value), allowed=describe(hint), fix=_near(value, origin, args)))
    if origin is Literal:
        return _require(value, value in args and not isinstance(value, bool), error)
    if origin in (tuple, list):
        items = _require(value, isinstance(value, list | tuple), error)
        return tuple(convert(item, args[0], f"{where}[{i}]", raw) for i, item in enumerate(items))
    if _is_mapping(origin):
        pairs = _require(value, isinstance(value, Mapping), error)
        return {str(key): convert(item, args[1], f"{where}.{key}", raw) for key, item in pairs.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, _require(value, isinstance(value, Mapping), error), where, raw)
    return _scalar(value, hint, where, raw, error)


def _is_built(value: Any, hint: Any) -> bool:
    """Return whether a value is built already: a group's member, or of the hint's class."""
    if hint is Any or getattr(hint, "_is_protocol", False):
        return True
    return isinstance(hint, type) and hint not in (str, int, float, bool) and isinstance(value, hint)


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _near(value: Any, origin: Any, args: tuple[Any, ...]) -> str:
    return did_you_mean(str(value), map(str, args)) if origin is Literal else ""


def _require(value: Any, accepted: bool, error: ConfigError) -> Any:
    if not accepted:
        raise error
    return value


def _scalar(value: Any, hint: Any, where: str, raw: Mapping[str, str], error: ConfigError) -> Any:
    if hint is str and not isinstance(value, str):
        if where in raw and isinstance(value, bool | int | float):
            return raw[where]
        if isinstance(value, bool | int | float):
            raise ConfigError(explain(where, got=repr(value), allowed="text", fix="put it in quotes in the yaml"))
        raise error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as overflow:
            raise ConfigError(explain(where, got=f"an integer of {value.bit_length()} bits", allowed="a number below 1e308")) from overflow
    if hint is int and isinstance(value, bool):
        raise error
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise error


def describe(hint: Any) -> str:
    """Return a type hint in words, for messages."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else describe(arg) for arg in args)
    if origin is Literal:
        return ", ".join(map(str, args))
    if origin in (tuple, list):
        return f"a list, each {describe(args[0])}"
    if _is_mapping(origin):
        return f"a mapping of names to {describe(args[1])}"
    if dataclasses.is_dataclass(hint):
        return "a mapping"
    names = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def plain(value: Any) -> Any:
    """Return a configuration object as plain JSON values.

    A member of a group also has its ``class``: a name, without its module.
    """
    return _plain(value, for_identity=False)


def identifying(value: Any) -> Any:
    """Return plain values for an identity: with the ``source`` hash of a user's own class."""
    return _plain(value, for_identity=True)


def _plain(value: Any, *, for_identity: bool) -> Any:
    # The most frequent case comes first: a plan makes thousands of configurations plain.
    if value is None or isinstance(value, str | int | float):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {} if isinstance(value, Part) else {"class": type(value).__qualname__}
        if for_identity and outside.is_outside(type(value)):
            found["source"] = outside.source_digest(type(value))
        fields = [f for f in dataclasses.fields(value) if "later" not in f.metadata or getattr(value, f.name) != f.default]
        return found | {f.name: _plain(getattr(value, f.name), for_identity=for_identity) for f in fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, for_identity=for_identity) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, for_identity=for_identity) for item in value]
    return value
