"""Hydra's override grammar: overrides of the command line or of an experiment's axes, parsed."""

from __future__ import annotations

import functools
import glob
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep, ValueType
from hydra.errors import HydraException, OverrideParseException

from harness.config import paths
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, did_you_mean, explain, shortened

PACKAGES = {
    "model": "harness.models",
    "tuning": "harness.methods.tuning",
    "objective": "harness.methods.objective",
    "mitigation": "harness.methods.mitigation",
    "data": "harness.data",
    "anchor": "harness.data",
    "reference": "harness.models",
    "evaluation": "harness.evaluation",
}
"""Group → the package in which its yaml's ``class: module.Class`` is found."""

GROUPS = [*PACKAGES, "experiment"]

HYDRA_KEYS = {"anchor": "data@anchor", "reference": "model@reference"}
"""Group → its key in Hydra's grammar, for groups that take members of another group and may be
empty."""


MODELS = ("model", "reference")
"""Groups whose members are models."""

FILE_ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".txt")
"""Endings of files of rows."""

PATH_MEMBER, HUB_MEMBER = "path", "hub"
"""Members of ``conf/data`` that read the file or the hub's data set named in their place."""


MOST_VALUES = 10_000
"""Most values of an axis, and points of a sweep: more are a slip, and take hours to check."""

NOT_SET = "~"
"""A value of a zip: the key is not set at that point, such as a setting of a method that is not
chosen there."""


@dataclass(frozen=True)
class Parsed:
    """Overrides of the command line.

    Attributes:
        choices: group → its member; None where the group is left empty.
        values: key → value, as typed.
        sweeps: key → values of an axis, as typed.
    """

    choices: Mapping[str, str | None]
    values: Mapping[str, str]
    sweeps: Mapping[str, tuple[str, ...]]

    @property
    def keys(self) -> set[str]:
        """Every key that is overridden."""
        return {*self.choices, *self.values, *self.sweeps}

    def hydra_lines(self) -> list[str]:
        """Return the choices and values in Hydra's form, also for keys that no yaml lists."""
        return [_chosen(key, value) for key, value in self.choices.items()] + [f"++{key}={value}" for key, value in self.values.items()]


def _chosen(group: str, member: str | None) -> str:
    name = HYDRA_KEYS.get(group, group)
    return f"~{name}" if member is None else f"{name}={member}"  # Hydra has no group=null


def folder_of(group: str) -> str:
    """Return the folder of a group's yaml files.

    An anchor is any member of data, a reference any member of model.
    """
    return f"conf/{HYDRA_KEYS.get(group, group).partition('@')[0]}"


def parse(overrides: Sequence[str]) -> Parsed:
    """Parse overrides and check that the group members exist.

    Of a key given twice the last value counts, so that a script may append to its arguments.

    Raises:
        ConfigError: not Hydra's grammar; an unknown member; two mitigations, which cannot be
            combined in one run; an axis and another value for the same key.
    """
    choices: dict[str, str | None] = {}
    values: dict[str, str] = {}
    sweeps: dict[str, tuple[str, ...]] = {}
    named: dict[str, str] = {}
    for text in overrides:
        if (none := text.removeprefix("~")) != text and none in {*GROUPS, *HYDRA_KEYS.values()}:
            _choose(choices, none.rpartition("@")[2], None)
            continue
        override = _parse_one(text)
        key = key_of(override)
        if override.is_sweep_override():
            if key in sweeps:
                got, fix = f"{','.join(sweeps[key])} and {','.join(_swept(override))}", "one axis with all the values"
                raise ConfigError(explain(key, got=got, allowed="one axis", fix=fix))
            sweeps[key] = _swept(override)
            for item in sweeps[key]:
                check_choice(key, None if item.lower() == "null" else meant(key, _unquoted(item))[0])
        elif key in GROUPS:
            value = override.value()
            member, settings = meant(key, None if value is None else str(value))
            _choose(choices, key, member)
            named = {name: text for name, text in named.items() if not name.startswith(f"{key}.")} | settings
        else:
            values[key] = _with_line_breaks(key, override.get_value_string())
    for key in sorted(sweeps.keys() & {*choices, *values}):
        got = f"{','.join(sweeps[key])} and {choices.get(key, values.get(key))}"
        raise ConfigError(explain(key, got=got, allowed="a value or an axis", fix="remove one"))
    for key, text in named.items():
        if values.setdefault(key, text) != text:
            got, fix = f"{text} and {values[key]}", f"one of {key.partition('.')[0]} and {key}"
            raise ConfigError(explain(key, got=got, allowed="one", fix=fix))
    return Parsed(choices=choices, values=values, sweeps=sweeps)


def meant(group: str, named: str | None) -> tuple[str | None, dict[str, str]]:
    """Return the member of a group that a value means, and the settings that it stands for.

    A member comes first. Else data and anchors may be a file, a pattern of files, or a data set of
    the hub; models and references a folder, a name of the hub, or either with ``@REVISION``. Any
    other value is returned as it is.

    Raises ConfigError for a file that does not exist, or a directory of data.
    """
    if named is None or named in paths.members(folder_of(group)):
        return named, {}
    if group in ("data", "anchor"):
        return _of_data(group, named)
    return _of_model(group, named) if group in MODELS else (named, {})


def _of_data(group: str, named: str) -> tuple[str, dict[str, str]]:
    """Return what a file, a pattern of files, or a name of the hub means, see ``meant``."""
    path = paths.expanded(named)
    if not named:
        raise ConfigError(explain(group, got="an empty name", allowed="a member, a file or ORG/NAME", fix=f"`harness list {group}`"))
    if path.is_dir():
        fix = f"{group}='{named.rstrip('/')}/*.jsonl' for all such files"
        raise ConfigError(explain(group, got=f"'{named}', a directory", allowed=f"files: {', '.join(FILE_ENDINGS)}", fix=fix))
    if path.is_file() or named.endswith(FILE_ENDINGS) or named.startswith((".", "/", "~")) or "*" in named:
        if not path.is_file() and not glob.glob(str(path)):  # noqa: PTH207 - may be absolute
            fix = "check the path; a relative one starts from the current directory"
            raise ConfigError(explain(group, got=f"'{named}', a file that does not exist", allowed=", ".join(FILE_ENDINGS), fix=fix))
        return PATH_MEMBER, {f"{group}.train": quoted(named)}
    if re.fullmatch(r"[\w.-]+/[\w.-]+", named):
        return HUB_MEMBER, {f"{group}.name": quoted(named)}
    return named, {}


def _unquoted(text: str) -> str:
    return text[1:-1].replace("\\'", "'") if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _with_line_breaks(key: str, text: str) -> str:
    r"""Return the text of fields with a typed ``\n`` as a line break; ``\\n`` stays as it is."""
    if not re.match(r"(data|anchor)\.fields(\.|$)", key):
        return text
    return re.sub(r"(?<!\\)((?:\\\\)*)\\n", r"\1\n", text)


def _of_model(group: str, named: str) -> tuple[str, dict[str, str]]:
    """Return what a folder or a name of the hub means, see ``meant``."""
    members = paths.members(folder_of(group))
    member, _, revision = named.partition("@")
    if paths.expanded(named).is_dir() or re.fullmatch(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?", named):
        return "hf", {f"{group}.name": quoted(named)}
    if member in members and revision:
        if not str(load_yaml(members[member]).get("class")).startswith("hub."):
            raise ConfigError(explain(group, got=repr(named), allowed=f"{member}, which has no revisions", fix=f"{group}={member}"))
        return member, {f"{group}.revision": quoted(revision)}
    if revision and paths.expanded(member).is_dir():
        got = f"'{named}', a revision of a folder"
        raise ConfigError(explain(group, got=got, allowed="revisions of hub models", fix=f"{group}={member}"))
    return named, {}


def quoted(text: str) -> str:
    """Return a text as a quoted value of Hydra's override grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if "'" in text else text
    return f"'{escaped}'"


def _choose(choices: dict[str, str | None], group: str, member: str | None) -> None:
    """Set the member of a group. Raises ConfigError for a second mitigation."""
    check_choice(group, member)
    before = choices.get(group, member)
    if group == "mitigation" and before != member:
        fix = f"remove one, or for a run of each: harness sweep … mitigation={before},{member}"
        raise ConfigError(explain(group, got=f"{before} and {member}", allowed="one for a run", fix=fix))
    choices[group] = member


def key_of(override: Override) -> str:
    """Return an override's key, see ``our_key``."""
    placed = f"{override.key_or_group}@{override.package}"
    return our_key(placed) if placed in HYDRA_KEYS.values() else override.key_or_group


def our_key(key: str) -> str:
    """Return a key as this project writes it: Hydra's ``data@anchor`` is ``anchor``."""
    return key.partition("@")[2] if key in HYDRA_KEYS.values() else key


def axis(key: str, value: Any) -> tuple[str, ...]:
    """Return the values of an axis in yaml, as they would be typed.

    A value that is not an axis is its only one; NOT_SET is one of them. Raises ConfigError.
    """
    text = typed(value)
    if NOT_SET in (parts := [part.strip() for part in text.split(",")]):
        return tuple(parts)
    return parse([f"{key}={text}"]).sweeps.get(our_key(key)) or (text,)


def typed(value: Any) -> str:
    """Return a yaml value as it would be typed."""
    return "null" if value is None else str(value)


def for_hydra(text: str) -> list[str]:
    """Return an override or axis in Hydra's form, also for keys that no yaml lists.

    They are two for a model's folder or hub name.

    Raises ConfigError.
    """
    parsed = parse([text])
    if not parsed.sweeps:
        return parsed.hydra_lines()
    ((key, _),) = parsed.sweeps.items()
    return [f"{HYDRA_KEYS.get(key, key) if key in GROUPS else f'++{key}'}={text.split('=', 1)[1]}"]


@functools.lru_cache(maxsize=10_000)
def value_of(text: str) -> Any:
    """Return the plain value of a text in Hydra's grammar. Raises ConfigError."""
    return int(text) if re.fullmatch(r"0|[1-9]\d{0,18}", text) else _parse_one(f"key={text}").value()


def _parse_one(text: str) -> Override:
    fix = "write key=value; put quotes around values with commas or spaces"
    if "=" not in text or text.startswith("~"):
        fix = next((f"{group}={text}" for group in GROUPS if text in paths.members(folder_of(group))), fix)
        fix = f"harness sweep {fix}" if fix.startswith("experiment=") else fix
        raise ConfigError(explain("override", got=repr(text), allowed="key=value", fix=fix))
    try:
        (override,) = _parser().parse_overrides([text])
    except (OverrideParseException, HydraException, RecursionError, ValueError) as error:  # ValueError: an integer of over 4,300 digits
        raise ConfigError(explain("override", got=repr(shortened(text)), allowed="Hydra's override syntax", fix=fix)) from error
    return override


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _swept(override: Override) -> tuple[str, ...]:
    """Return the values of an axis.

    Those of a plain list as the user typed them, so that revision 12e45678 is not infinity.
    """
    text = override.get_value_string()
    if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP and not set(text) & set("'\"[]{}()\\"):
        return tuple(item.strip() for item in text.split(","))
    allowed = "values separated by commas, range(first, end, step) or choice(a, b)"
    _require_finite(override, text)
    try:
        values = tuple(str(item) for item in override.sweep_string_iterator())
    except HydraException as error:
        raise ConfigError(explain(override.key_or_group, got=text, allowed=allowed)) from error
    if not values:
        raise ConfigError(explain(override.key_or_group, got=f"{text}, without a value", allowed=allowed))
    return values


def _require_finite(override: Override, text: str) -> None:
    """Raise ConfigError for a range of too many values, which are counted without making them."""
    found = override.value()
    if not isinstance(found, RangeSweep):
        return
    allowed = f"a range of 1 to {MOST_VALUES} values"
    first, end, step = found.start, found.stop, found.step
    if first is None or end is None or not step or not all(math.isfinite(number) for number in (first, end, step)):
        raise ConfigError(explain(override.key_or_group, got=text, allowed=allowed))
    if (end - first) / step > MOST_VALUES:
        raise ConfigError(explain(override.key_or_group, got=f"{text}, {_counted((end - first) / step)} values", allowed=allowed))


def _counted(number: float) -> str:
    return f"{math.ceil(number):,}" if number < 1e15 else f"{number:.0e}"


def check_choice(group: str, member: str | None) -> None:
    """Raise ConfigError for an unknown member of a group, naming the known ones."""
    if group not in GROUPS or member is None:
        return
    known = paths.members(folder_of(group))
    if member not in known and group in MODELS and member.startswith((".", "/", "~")):
        folder = paths.expanded(member)
        near = did_you_mean(folder.name, [path.name for path in folder.parent.glob("*") if path.is_dir()])
        fix = near or "check the path; a relative one starts from the current directory"
        raise ConfigError(explain(group, got=f"'{member}', a directory that does not exist", allowed="a folder of a model", fix=fix))
    if member not in known:
        others = (
            [f"{'a folder' if group in MODELS else 'a file'}, or a hub name such as org/name"]
            if group in (*MODELS, "data", "anchor")
            else []
        )
        fix = paths.not_on_path(folder_of(group), member) or did_you_mean(member, known) or f"`harness list {group}`"
        raise ConfigError(explain(group, got=repr(member), allowed=", ".join([*known, *others]), fix=fix))
