"""Compose yaml and overrides to a frozen RunConfig; no module above uses Hydra or OmegaConf.

Hydra resolves the defaults list, the choice of group members and the override grammar. The harness
does the rest: a group's yaml names its class, the class must be in the group's package, and its
fields are filled strictly. Unknown keys, wrong types and ranges are errors of one line, so that a
typo is found before a job is submitted.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf, _utils
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.config import outside, paths
from harness.config.combinations import check
from harness.config.overrides import (
    GROUPS,
    HYDRA_KEYS,
    PACKAGES,
    PATH_MEMBER,
    Parsed,
    check_choice,
    folder_of,
    meant,
    parse,
    value_of,
)
from harness.config.resolution import SearchedRate, SearchedRates
from harness.config.run_config import Labels, RunConfig, Training
from harness.config.strict import build
from harness.config.yaml_files import LimitedLoader, load_yaml
from harness.core.errors import ConfigError, explain
from harness.core.masking import masked
from harness.core.methods import Mitigation, Objective
from harness.core.sources import Source
from harness.core.tuning import Tuning

BASES: Mapping[str, type[Any]] = {"tuning": Tuning, "objective": Objective, "mitigation": Mitigation, "data": Source, "anchor": Source}
"""Group → the class that its members derive from."""

LONGEST = 20
"""Most characters of a text with spaces, such as a template, in a label."""


@dataclass(frozen=True)
class Composed:
    """The configuration as Hydra composed it from yaml files and overrides.

    Attributes:
        values: plain values; group members are not built yet.
        chosen: the member of each group.
        raw: values as the user typed them, by key.
        sweeper: ``arms``, ``params``, ``zip`` and ``exclude`` of the experiment.
    """

    values: Mapping[str, Any]
    chosen: Mapping[str, str]
    raw: Mapping[str, str]
    sweeper: Mapping[str, Any]


def compose(overrides: Sequence[str]) -> RunConfig:
    """Return the checked configuration of one run, or of runs that differ only in volume.

    Args:
        overrides: Hydra overrides, such as ``tuning=lora`` or ``data.volumes=[16,64]``.

    Raises:
        ConfigError: a message of one line.
    """
    parsed = parse(overrides)
    if parsed.sweeps:
        key, items = next(iter(parsed.sweeps.items()))
        every = f"`harness sweep name=NAME {key}={','.join(items)}` for a run of each"
        fix = f"one value, or {every}" + ("" if key in GROUPS else f"; for a list, write {key}=[{','.join(items)}]")
        raise ConfigError(explain(key, got=",".join(items), allowed="one value", fix=fix))
    config = Builder(compose_hydra(parsed)).build()
    check(config)
    return config


def compose_hydra(parsed: Parsed) -> Composed:
    """Let Hydra compose the choices and values, in about 0.1 s. Raises ConfigError."""
    roots = paths.folders("conf")
    lines = parsed.hydra_lines()
    if extra := roots[:-1]:
        lines.append(search_path(extra))
    try:
        with (
            limited_yaml(),
            _outer_hydra_cleared(),
            initialize_config_dir(config_dir=str(roots[-1]), version_base="1.3", job_name="harness"),
        ):
            composed = hydra_compose("run", overrides=lines, return_hydra_config=True)
        hydra = composed.hydra
        chosen = {str(key): str(value) for key, value in hydra.runtime.choices.items() if not str(key).startswith("hydra")}
        sweeper = OmegaConf.to_container(hydra.sweeper)
        with_hydra = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            explain(
                "configuration", got=masked(_reason(error, roots), _interpolated(roots)), fix="check the overrides and the yaml they name"
            )
        ) from error
    values = {key: value for key, value in with_hydra.items() if key != "hydra"}
    return Composed(values, chosen, parsed.values, cast(dict[str, Any], sweeper))


def _interpolated(folders: Sequence[Path]) -> set[str]:
    """Return the environment variables that yaml files read, whose values an error may show."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for folder in folders for path in folder.rglob("*.yaml")]
    return {name for text in texts for name in re.findall(r"oc\.env:[\s'\"\\]*(\w+)", text)}


def _reason(error: Exception, roots: Sequence[Path]) -> str:
    """Return what Hydra rejects, as two lines at most say it."""
    if isinstance(error, UnicodeDecodeError):
        files = [str(file) for root in roots for file in sorted(root.rglob("*.yaml")) if not _is_utf8(file)]
        return f"a file that is not UTF-8: {', '.join(files)}"
    if "maximum recursion depth" in str(error):
        return "values nested too deeply, or a defaults list that names its own file"
    return " ".join((str(error) or str(error.__cause__ or type(error).__name__)).strip().splitlines()[:2])


def _is_utf8(file: Path) -> bool:
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def limited_yaml() -> Iterator[None]:
    """Let OmegaConf read yaml within the limits of ``LimitedLoader``."""
    unlimited = _utils.get_yaml_loader

    def limited() -> Any:
        loader = unlimited()  # of Hydra's command line it is limited already
        return loader if issubclass(loader, LimitedLoader) else type("Loader", (LimitedLoader, loader), {})

    _utils.get_yaml_loader = limited
    try:
        yield
    finally:
        _utils.get_yaml_loader = unlimited


@contextmanager
def _outer_hydra_cleared() -> Iterator[None]:
    """Clear Hydra's global instance meanwhile: in a job of Hydra's command line there is one."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def search_path(folders: Sequence[Path]) -> str:
    """Return the override that adds the user's own folders to Hydra's search path."""
    return f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"


class Builder:
    """Build configurations from composed values: one, or many that differ in single values.

    Parts that they share are built and checked once.
    """

    def __init__(self, composed: Composed) -> None:
        self.composed = composed
        self.raw = {key: _unquoted(text) for key, text in composed.raw.items()}
        self.parts: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Any, str | None]] = {}

    def build(self, further: Mapping[str, str] | None = None) -> RunConfig:
        """Build a configuration, strictly.

        Args:
            further: values that replace composed ones, by dotted key, as they would be typed; no
                mappings.

        Raises:
            ConfigError: a message of one line.
        """
        further = further or {}
        values = {**self.composed.values, **{key: value_of(text) for key, text in further.items() if "." not in key}}
        if "labels" in values or any(key.startswith("labels.") for key in further):
            raise ConfigError(explain("labels", got="a value", allowed="no value: labels follow from the choices"))
        names: dict[str, Any] = {}
        for part in {**PACKAGES, "training": "", **{key.partition(".")[0]: "" for key in further if "." in key}}:
            own = tuple((key, text) for key, text in further.items() if key.startswith(f"{part}."))
            if part in PACKAGES or own or part in values:
                values[part], names[part] = self._part(part, values.get(part), own)
        values.setdefault("target_suites", self._target_suites(values["data"]))
        labels = Labels(**{group: names[group] for group in PACKAGES if group != "evaluation"})
        return cast(RunConfig, build(RunConfig, {**values, "labels": labels}, "", self._typed(further)))

    def _target_suites(self, data: Source) -> list[str]:
        """Return the suites with the name of the data, or of one of its stages."""
        names = data.stage_names or (self.composed.chosen.get("data"),)
        return [name for name in names if name in paths.members("benchmarks/suites")]

    def _typed(self, further: Mapping[str, str]) -> dict[str, str]:
        return {**self.raw, **{key: _unquoted(text) for key, text in further.items()}}

    def _part(self, part: str, values: Any, own: tuple[tuple[str, str], ...]) -> tuple[Any, str | None]:
        """Return a group's object and label, or another part of the configuration.

        It is built once for all points with the same values.
        """
        if (key := (part, own)) not in self.parts:
            for dotted, text in own:
                values = _with(values, dotted.split(".")[1:], value_of(text))
            raw = self._typed(dict(own))
            if part in PACKAGES:
                choice = self.composed.chosen.get(HYDRA_KEYS.get(part, part))
                self.parts[key] = _member(part, values, raw), _label(part, _as_typed(part, values, raw), choice)
            else:
                is_training = part == "training" and isinstance(values, Mapping)
                self.parts[key] = build(Training, values, part, raw) if is_training else values, None
        return self.parts[key]


def _with(values: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of nested values with another value at ``path``.

    A value on the path that is not a mapping is replaced by one.
    """
    own = dict(values) if isinstance(values, Mapping) else {}
    own[path[0]] = value if len(path) == 1 else _with(own.get(path[0]), path[1:], value)
    return own


def _as_typed(group: str, values: Any, raw: Mapping[str, str]) -> Any:
    """Return a group's values with numbers as the user typed them.

    So a label shows revision 12e45678, not infinity.
    """
    if not isinstance(values, Mapping):
        return values
    return {key: raw.get(f"{group}.{key}", value) if isinstance(value, int | float) else value for key, value in values.items()}


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _member(group: str, values: Any, raw: Mapping[str, str]) -> Any:
    if values is None:
        if group in HYDRA_KEYS:
            return None
        raise ConfigError(explain(group, got="nothing", allowed=", ".join(paths.members(folder_of(group))), fix=f"{group}=NAME"))
    if not isinstance(values, Mapping):
        raise ConfigError(explain(group, got=repr(values), allowed=", ".join(paths.members(folder_of(group))), fix=f"{group}=NAME"))
    return instantiate(group, values, group, raw)


def instantiate(group: str, values: Mapping[str, Any], where: str, raw: Mapping[str, str] | None = None) -> Any:
    """Build a group member from its yaml: ``class`` names a dataclass, the rest its fields.

    Raises:
        ConfigError: if the class does not exist, is not one of the group, or rejects a field.
    """
    fields = dict(values)
    cls = find_class(str(fields.pop("class", "")), PACKAGES[group], where, fix=f"choose {group}=NAME (`harness list {group}`)")
    if group in BASES and not issubclass(cls, BASES[group]):
        allowed = f"a subclass of harness.core.{BASES[group].__name__}"
        raise ConfigError(explain(f"{where}.class", got=cls.__qualname__, allowed=allowed))
    return build(cls, fields, where, raw)


def find_class(name: str, package: str, where: str, *, fix: str = "") -> type[Any]:
    """Return the dataclass that ``class: NAME`` of a yaml names.

    Args:
        name: ``module.Class`` inside the package, or ``package.module:Class`` for a user's own
            class.
        package: of the yaml's group.
        where: dotted path of the yaml's values, for messages.
        fix: advice of the message if the class does not exist.

    Raises:
        ConfigError: it does not exist, is not a dataclass, or has a field with a taken name.
    """
    outer = ":" in name
    module, _, attribute = name.partition(":") if outer else name.rpartition(".")
    allowed = f"module.Class of a dataclass in {package}, or package.module:Class of your own"
    rejected = explain(f"{where}.class", got=repr(name), allowed=allowed, fix=fix)
    if not module or not attribute:
        raise ConfigError(rejected)
    if outer:
        found = outside.import_module(module, f"{where}.class")
    else:
        try:
            found = importlib.import_module(f"{package}.{module}")
        except ImportError as error:
            raise ConfigError(f"{rejected} ({error})") from error
    cls = getattr(found, attribute, None)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(rejected)
    if outer:
        outside.check_names(cls, f"{where}.class")
    return cls


def member(group: str, name: str) -> Any:
    """Return a group member with the values of its yaml."""
    found, settings = meant(group, name)
    check_choice(group, found)
    values = load_yaml(paths.members(folder_of(group))[str(found)])
    return instantiate(group, values | {key.partition(".")[2]: value_of(text) for key, text in settings.items()}, f"{group}={name}")


def searched_rates() -> tuple[SearchedRate, ...]:
    """Return the searched learning rates of every ``conf/learning_rates.yaml``."""
    files = [folder / "learning_rates.yaml" for folder in reversed(paths.folders("conf"))]
    return tuple(rate for file in files if file.exists() for rate in build(SearchedRates, load_yaml(file), str(file)).rates)


def _label(group: str, values: Any, choice: str | None) -> str | None:
    """Return the member's name, with the values that differ from its yaml."""
    if not isinstance(values, Mapping) or choice in {None, "None"}:
        return None
    own = load_yaml(paths.members(folder_of(group))[str(choice)])
    changed = {key: value for key, value in values.items() if key != "volumes" and (key not in own or own[key] != value)}
    if isinstance(stages := values.get("stages"), list):
        changed["stages"] = ">".join(map(str, stages))  # always shown: they are the data of a sequence
    name = str(changed.pop("name", None) or changed.pop("train" if choice == PATH_MEMBER else "", choice))
    details = ",".join(f"{key}={_brief(value)}" for key, value in sorted(changed.items()))
    return f"{name}[{details}]" if details else name


def _brief(value: Any) -> str:
    """Return a value as a label shows it, long texts cut.

    The table's variant distinguishes runs that differ only in the rest of a text.
    """
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):  # such as pairs of models
        return "+".join("/".join(map(str, one.values())) for one in value)
    text = str(value)
    return f"{text[:LONGEST]}…" if isinstance(value, str) and " " in text and len(text) > LONGEST else text
