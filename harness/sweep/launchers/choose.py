"""Which launcher carries a sweep: ``launcher=NAME`` of conf/launcher, with its values set by ``launcher.KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from harness.config import composition, overrides, paths
from harness.config.resolution import Machine
from harness.config.strict import build
from harness.core.errors import ConfigError, did_you_mean, explain

DEFAULT = "local"

PACKAGE = "harness.sweep.launchers"
"""In which conf/launcher's ``class: module.Class`` is found."""


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
    """Make the launcher that overrides ask for; ``local`` where they name none.

    Raises ConfigError.
    """
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
    fields = composition.load_yaml(known[name])
    for path, value in set_values:
        _set(fields, path, overrides.value_of(value))
    cls = composition.find_class(str(fields.pop("class", "")), PACKAGE, f"launcher={name}")
    return cast(Launcher, build(cls, fields, "launcher"))


def _set(fields: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value at a path of keys, making mappings on the way."""
    for key in path[:-1]:
        inner = fields.get(key)
        fields[key] = inner if isinstance(inner, dict) else {}
        fields = fields[key]
    fields[path[-1]] = value
