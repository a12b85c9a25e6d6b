"""Yaml and overrides to a frozen RunConfig. Hydra and OmegaConf stop here.

Hydra resolves the defaults list, the choice of group members and the override grammar. Everything else is ours: a group yaml
names its class, the class must lie in the group's package, and its fields are filled strictly (unknown keys, wrong types and
ranges are refused in one line), so that a typo never waits in a queue.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness import paths
from harness.config import Labels, RunConfig, build
from harness.errors import ConfigError, did_you_mean, explain
from harness.plan import SearchedRate, check

PACKAGES = {
    "model": "harness.models",
    "tuning": "harness.tuning",
    "objective": "harness.objective",
    "mitigation": "harness.mitigation",
    "data": "harness.data",
    "anchor": "harness.data",
    "evaluation": "harness.evaluation",
}
"""The groups, and the package that the class a member names must lie in."""

GROUPS = [*PACKAGES, "experiment"]


@dataclass(frozen=True)
class Parsed:
    """Overrides as given on the command line, sorted by what they do."""

    choices: Mapping[str, str | None]
    values: Mapping[str, str]
    sweeps: Mapping[str, tuple[str, ...]]


def folder_of(group: str) -> str:
    """Return where the members of a group lie; an anchor is any data yaml."""
    return "conf/data" if group == "anchor" else f"conf/{group}"


def parse(overrides: Sequence[str]) -> Parsed:
    """Parse Hydra's override grammar and check the group members named. Raises ConfigError."""
    choices: dict[str, str | None] = {}
    values: dict[str, str] = {}
    sweeps: dict[str, tuple[str, ...]] = {}
    for text in overrides:
        override = _parse_one(text)
        key = override.key_or_group
        if override.is_sweep_override():
            sweeps[key] = tuple(str(item) for item in override.sweep_string_iterator())
            for item in sweeps[key]:
                _check_choice(key, item)
        elif key in GROUPS:
            value = override.value()
            choices[key] = None if value is None else str(value)
            _check_choice(key, choices[key])
        else:
            values[key] = cast(str, override.input_line).split("=", 1)[1]
    return Parsed(choices=choices, values=values, sweeps=sweeps)


def _parse_one(text: str) -> Override:
    fix = "write key=value; put quotes around values with commas or spaces"
    if "=" not in text or text.startswith("~"):
        raise ConfigError(explain("override", got=repr(text), allowed="key=value", fix=fix))
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except (OverrideParseException, HydraException) as error:
        raise ConfigError(explain("override", got=repr(text), allowed="Hydra's override syntax", fix=fix)) from error
    return override


def _check_choice(group: str, member: str | None) -> None:
    if group not in GROUPS or member is None:
        return
    known = paths.members(folder_of(group))
    if member not in known:
        raise ConfigError(explain(group, got=repr(member), allowed=", ".join(known), fix=did_you_mean(member, known)))


def compose(overrides: Sequence[str]) -> RunConfig:
    """Compose, validate and return the configuration of one run (or of several that differ in nothing but the volume).

    Args:
        overrides: Hydra overrides, such as ``tuning=lora`` or ``data.volumes=[16,64]``.

    Raises:
        ConfigError: with one line saying what, got, allowed, how to fix.
    """
    parsed = parse(overrides)
    if parsed.sweeps:
        key, items = next(iter(parsed.sweeps.items()))
        fix = f"one value for `harness run`, or `harness sweep`; a list is written {key}=[{','.join(items)}]"
        raise ConfigError(explain(key, got=",".join(items), allowed="one value", fix=fix))
    values, chosen = _hydra(parsed)
    config = _build(values, chosen, parsed)
    check(config)
    return config


def sweep(overrides: Sequence[str]) -> list[RunConfig]:
    """Compose every point of an experiment's axes, in the order of the axes.

    Axes come from ``hydra.sweeper.params`` of the experiment and from overrides with several values (``seed=0,1,2``); an override
    of an axis replaces it.
    """
    parsed = parse(overrides)
    values, _, params = _compose_hydra(parsed, with_axes=True)
    given = {**parsed.choices, **parsed.values, **parsed.sweeps}
    own = parse([f"{key}={value}" for key, value in params.items() if key not in given])
    fixed = [text for text in overrides if text.split("=", 1)[0].lstrip("+") not in parsed.sweeps]
    fixed += [f"{key}={value}" for key, value in {**own.choices, **own.values}.items()]
    axes = {**own.sweeps, **parsed.sweeps}
    if "name" not in values and parsed.choices.get("experiment"):
        fixed.append(f"name={parsed.choices['experiment']}")
    points = itertools.product(*[[f"{key}={value}" for value in values] for key, values in axes.items()])
    return [compose([*fixed, *point]) for point in points]


def _hydra(parsed: Parsed) -> tuple[dict[str, Any], dict[str, str]]:
    values, chosen, _ = _compose_hydra(parsed, with_axes=False)
    return values, chosen


def _compose_hydra(parsed: Parsed, *, with_axes: bool) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    roots = paths.folders("conf")
    lines = [f"{'data@anchor' if key == 'anchor' else key}={'null' if value is None else value}" for key, value in parsed.choices.items()]
    lines += [f"++{key}={value}" for key, value in parsed.values.items()]
    if extra := roots[:-1]:
        lines.append(f"hydra.searchpath=[{','.join(f'file://{root}' for root in extra)}]")
    try:
        with initialize_config_dir(config_dir=str(roots[-1]), version_base="1.3", job_name="harness"):
            composed = hydra_compose("run", overrides=lines, return_hydra_config=True)
        hydra = composed.hydra
        chosen = {str(key): str(value) for key, value in hydra.runtime.choices.items() if not str(key).startswith("hydra")}
        params = OmegaConf.to_container(hydra.sweeper.params) if with_axes and hydra.sweeper.params else {}
        with_hydra = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(explain("configuration", got=first, fix="check the overrides and the yaml they name")) from error
    return {key: value for key, value in with_hydra.items() if key != "hydra"}, chosen, cast(dict[str, str], params)


def _build(values: dict[str, Any], chosen: Mapping[str, str], parsed: Parsed) -> RunConfig:
    raw = {key: _unquoted(text) for key, text in parsed.values.items()}
    found = {key: values.pop(key, None) for key in PACKAGES}
    groups = {key: _member(key, value, raw) for key, value in found.items()}
    if "labels" in values:
        raise ConfigError(explain("labels", got="a value", allowed="nothing: labels follow from the choices"))
    values.setdefault("target_suites", [chosen["data"]] if chosen.get("data") in paths.members("benchmarks/suites") else [])
    named = {key: _as_typed(key, value, raw) for key, value in found.items()}
    return cast(RunConfig, build(RunConfig, {**values, **groups, "labels": _labels(named, chosen)}, "", raw))


def _as_typed(group: str, values: Any, raw: Mapping[str, str]) -> Any:
    """Return a group's values with numbers as the user typed them, so that a label shows revision 12e45678 and not infinity."""
    if not isinstance(values, Mapping):
        return values
    return {key: raw.get(f"{group}.{key}", value) if isinstance(value, int | float) else value for key, value in values.items()}


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _member(group: str, values: Any, raw: Mapping[str, str]) -> Any:
    if values is None:
        if group == "anchor":
            return None
        raise ConfigError(explain(group, got="nothing", allowed=", ".join(paths.members(folder_of(group))), fix=f"{group}=NAME"))
    if not isinstance(values, Mapping):
        raise ConfigError(explain(group, got=repr(values), allowed=", ".join(paths.members(folder_of(group))), fix=f"{group}=NAME"))
    return instantiate(group, values, group, raw)


def instantiate(group: str, values: Mapping[str, Any], where: str, raw: Mapping[str, str] | None = None) -> Any:
    """Make the object that a group member's yaml describes: ``class`` names a dataclass in the group's package, the rest its fields.

    Raises:
        ConfigError: if the class lies elsewhere, does not exist, or refuses a field.
    """
    fields = dict(values)
    name, package = str(fields.pop("class", "")), PACKAGES[group]
    module, _, attribute = name.rpartition(".")
    refused = explain(
        f"{where}.class", got=repr(name), allowed=f"a dataclass in {package}", fix=f"choose {group}=NAME (`harness list {group}`)"
    )
    if not module.startswith(f"{package}."):
        raise ConfigError(refused)
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{refused} ({error})") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(refused)
    return build(cls, fields, where, raw)


def member(group: str, name: str) -> Any:
    """Return one group member with its yaml's values, such as the data set a likelihood suite is read from."""
    _check_choice(group, name)
    return instantiate(group, load_yaml(paths.members(folder_of(group))[name]), f"{group}={name}")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a yaml file: the one loader of the project, since others read ``1e-4`` as text. Raises ConfigError."""
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(explain(str(path), got=f"a file that is no yaml ({str(error).splitlines()[0]})")) from error
    if not isinstance(values, dict):
        raise ConfigError(explain(str(path), got=type(values).__name__, allowed="a mapping"))
    return cast(dict[str, Any], values)


def searched_rates() -> tuple[SearchedRate, ...]:
    """Return the learning rates that searches have found, of every ``conf/learning_rates.yaml``."""
    files = [folder / "learning_rates.yaml" for folder in reversed(paths.folders("conf"))]
    entries = [entry for file in files if file.exists() for entry in load_yaml(file).get("rates", [])]
    return tuple(build(SearchedRate, entry, f"learning_rates.yaml[{i}]") for i, entry in enumerate(entries))


def _labels(groups: Mapping[str, Any], chosen: Mapping[str, str]) -> Labels:
    names = {group: _label(group, values, chosen.get("data@anchor" if group == "anchor" else group)) for group, values in groups.items()}
    names.pop("evaluation")
    return Labels(**names)  # type: ignore[arg-type]


def _label(group: str, values: Any, choice: str | None) -> str | None:
    """Return the member's name, with what was set otherwise than in its yaml, by the experiment or on the command line."""
    if not isinstance(values, Mapping) or choice in {None, "None"}:
        return None
    own = load_yaml(paths.members(folder_of(group))[str(choice)])
    changed = {key: value for key, value in values.items() if key != "volumes" and (key not in own or own[key] != value)}
    name = str(changed.pop("name", choice))
    details = ",".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return f"{name}[{details}]" if details else name
