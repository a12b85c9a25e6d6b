"""The arms of an experiment: named sets of overrides that make one axis.

    arms:
      none: {mitigation: none}
      replay: {mitigation: replay, mitigation.fraction: 0.2}

A value with commas is an axis within its arm. On the command line ``arms=none,replay`` selects
arms; a group member (``mitigation=replay``) keeps the arms that have it; any other value replaces
the key's in every arm that sets it. Arms that do not set the key take the value too, unless it is a
setting of a member, such as ``mitigation.fraction``, of a group whose members the arms choose.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config.overrides import GROUPS, Parsed, axis, our_key, parse
from harness.core.errors import ConfigError, did_you_mean, explain

ARM = "arm"
"""Key of the arm's name in a point and in an exclusion."""

ARMS = "arms"
"""Key that selects arms on the command line."""

WHERE = "hydra.sweeper.arms"

Arms = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Name → key → values, as they would be typed."""


def read(written: Any) -> Arms:
    """Read the arms of an experiment's yaml. Raises ConfigError."""
    if written is None:
        return {}
    if not isinstance(written, Mapping):
        raise ConfigError(explain(WHERE, got=repr(written), allowed="a mapping of names to overrides"))
    for name, own in written.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", str(name)):
            allowed = "letters, digits, '.', '_' and '-', beginning with a letter"
            raise ConfigError(explain(WHERE, got=f"an arm named {str(name)!r}", allowed=allowed))
        if not isinstance(own, Mapping) or not own:
            got = "no overrides" if not own else repr(own)
            raise ConfigError(explain(f"{WHERE}.{name}", got=got, allowed="a mapping of keys to values"))
    return {str(name): {our_key(str(key)): axis(str(key), value) for key, value in own.items()} for name, own in written.items()}


def selected(arms: Arms, selecting: Sequence[str]) -> Arms:
    """Return the arms that ``arms=…`` names, or all. Raises ConfigError for an unknown name."""
    parsed = parse(selecting)
    names = [*parsed.values.values(), *parsed.sweeps.get(ARMS, ())]
    for name in names:
        if name not in arms:
            allowed = ", ".join(arms) or "nothing: the experiment has no arms"
            raise ConfigError(explain(ARMS, got=repr(name), allowed=allowed, fix=did_you_mean(name, arms)))
    return {name: arms[name] for name in arms if not names or name in names}


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those that select arms, and the others."""
    own = [text for text in overrides if text.lstrip("+").partition("=")[0] == ARMS]
    return own, [text for text in overrides if text not in own]


def points(arms: Arms, given: Parsed) -> list[tuple[tuple[str, str], ...]]:
    """Return the points of arms, adjusted to the command line.

    Args:
        arms: those selected.
        given: the command line.

    Returns:
        For each point the arm's name under ARM, then keys and values.

    Raises:
        ConfigError: no arm has the group members that the command line gives.
    """
    replaced = _replaced(arms, given)
    chosen = {key for own in arms.values() for key in own} & set(GROUPS)
    rows = []
    for name, own in arms.items():
        columns = dict(own)
        for key, values in replaced.items():
            if key in GROUPS:
                columns[key] = tuple(value for value in own.get(key, values) if value in values)
            elif key in own or key == "data.volumes" or key.partition(".")[0] not in chosen:  # every data set has volumes
                columns[key] = values
        rows += [((ARM, name), *zip(columns, row, strict=True)) for row in itertools.product(*columns.values())]
    if arms and not rows:
        got = " ".join(f"{key}={','.join(values)}" for key, values in replaced.items() if key in GROUPS)
        raise ConfigError(explain(ARMS, got=f"no arm with {got}", allowed=f"members of one of {', '.join(arms)}"))
    return rows


def _replaced(arms: Arms, given: Parsed) -> dict[str, tuple[str, ...]]:
    """Return the keys of the arms that the command line gives, with its values."""
    plain = {**{key: "null" if member is None else member for key, member in given.choices.items()}, **given.values}
    found = {}
    for key in dict.fromkeys(key for own in arms.values() for key in own if key in given.keys):
        found[key] = given.sweeps.get(key) or (plain[key],)
        known = list(dict.fromkeys(value for own in arms.values() for value in own.get(key, ())))
        for member in found[key] if key in GROUPS else ():
            if member not in known:
                allowed = f"{', '.join(known)}, as in the experiment's arms"
                raise ConfigError(explain(key, got=repr(member), allowed=allowed, fix=f"add an arm with {key}: {member}"))
    return found
