"""Which launcher carries a sweep: ``launcher=NAME`` of conf/launcher, with its values set by ``launcher.KEY=VALUE``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

from harness import compose, overrides, paths
from harness.config import build
from harness.errors import ConfigError, did_you_mean, explain
from harness.plan import Machine

DEFAULT = "local"


class Launcher(Protocol):
    """Who carries units: a member of conf/launcher."""

    @property
    def machine(self) -> Machine:
        """What one run may use."""
        ...

    def check(self) -> None:
        """Raise ConfigError where it cannot carry anything from this machine."""
        ...


def split(overrides: Sequence[str]) -> tuple[Launcher, list[str]]:
    """Take the launcher out of overrides (``launcher=slurm launcher.partition=gpu``).

    Returns:
        The launcher, and the other overrides.

    Raises:
        ConfigError: no such launcher, or a value that it does not take.
    """
    own = [text for text in overrides if text.lstrip("+").split("=", 1)[0].split(".", 1)[0] == "launcher"]
    return chosen(own), [text for text in overrides if text not in own]


def chosen(own: Sequence[str]) -> Launcher:
    """Make the launcher that overrides ask for; ``local`` where they name none. Raises ConfigError."""
    known, name, set_values = paths.members("conf/launcher"), DEFAULT, []
    for text in own:
        key, equals, value = text.lstrip("+").partition("=")
        if not equals:
            raise ConfigError(explain("override", got=repr(text), allowed="key=value"))
        if key == "launcher":
            name = value
        else:
            set_values.append((key.split(".")[1:], value))
    if name not in known:
        raise ConfigError(explain("launcher", got=repr(name), allowed=", ".join(known), fix=did_you_mean(name, known)))
    fields = compose.load_yaml(known[name])
    for path, value in set_values:
        _set(fields, path, overrides.value_of(value))
    module, _, attribute = str(fields.pop("class", "")).rpartition(".")
    if not module.startswith("harness.sweep."):
        raise ConfigError(explain(f"{known[name]}: class", got=repr(f"{module}.{attribute}"), allowed="a launcher in harness.sweep"))
    return cast(Launcher, build(getattr(importlib.import_module(module), attribute), fields, "launcher"))


def _set(fields: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value at a path of keys, making mappings on the way."""
    for key in path[:-1]:
        inner = fields.get(key)
        fields[key] = inner if isinstance(inner, dict) else {}
        fields = fields[key]
    fields[path[-1]] = value
