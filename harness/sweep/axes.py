"""The points of a sweep: an experiment's axes, multiplied.

Hydra composes once for each combination of group members.

An experiment's yaml names its axes under ``hydra.sweeper``:

    params:   {model: "a,b", seed: "range(3)"}                             multiplied
    zip:      [{tuning: "full,lora", training.learning_rate: "1e-5,2e-4"}]   values that go together; ``~`` leaves a key alone
    exclude:  [{model: b, tuning: full}]                                   points left out on purpose: all keys match

An axis on the command line (``seed=0,1``) replaces the experiment's. In a zip, a value replaces the
key's at every point, and a group member (``tuning=lora``) keeps the points that have it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.combinations import check, runs_of
from harness.config.composition import Builder, compose_hydra
from harness.config.overrides import GROUPS, NOT_SET, Parsed, parse, value_of
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, did_you_mean, explain

Point = tuple[tuple[str, str], ...]
"""Keys and values, as they would be typed."""


@dataclass(frozen=True)
class Asked:
    """One run of a sweep; ``compose.compose(overrides)`` gives this very configuration."""

    config: RunConfig
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A point that means nothing, and why, in one line."""

    overrides: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Expansion:
    """Every point of a sweep, in the order of its axes."""

    asked: list[Asked]
    refused: list[Refused]


def expand(overrides: Sequence[str]) -> Expansion:
    """Multiply the axes of an experiment and of the command line, and check every point.

    Args:
        overrides: Hydra overrides; ``a,b``, ``range(3)`` or ``choice(a,b)`` make an axis.

    Raises:
        ConfigError: one line, for what is wrong whatever else is chosen: an unknown key, a wrong
            value, an axis that cannot be. Combinations that mean nothing are refused point by
            point, unless all of them are.
    """
    sweep = _Sweep(overrides)
    found = [part for point in sweep.points() for part in sweep.composed(point)]
    asked, refused = [part for part in found if isinstance(part, Asked)], [part for part in found if isinstance(part, Refused)]
    if not asked:
        raise ConfigError(refused[0].reason)
    return Expansion(asked, refused)


class _Sweep:
    """The axes of one sweep, and what its points have in common."""

    def __init__(self, overrides: Sequence[str]) -> None:
        given = parse(overrides)
        composed = compose_hydra(dataclasses.replace(given, sweeps={}))
        sweeper: Mapping[str, Any] = composed.sweeper
        params = parse([f"{key}={_text(value)}" for key, value in (sweeper.get("params") or {}).items() if key not in given.keys])
        zips = [_zip(dict(values), given) for values in sweeper.get("zip") or []]
        zipped = {key for rows in zips for row in rows for key, _ in row}
        alone = {**params.sweeps, **{key: values for key, values in given.sweeps.items() if key not in zipped}}
        _refuse_doubles(sweeper)
        self.fixed = Parsed(
            choices={**params.choices, **{key: value for key, value in given.choices.items() if key not in zipped}},
            values={**params.values, **given.values},
            sweeps={},
        )
        experiment = given.choices.get("experiment")
        if "name" not in composed.values and experiment:
            self.fixed = dataclasses.replace(self.fixed, values={**self.fixed.values, "name": experiment})
        self.dimensions: list[list[Point]] = [_alone(key, values) for key, values in alone.items()]
        self.dimensions += zips
        self.exclusions = [self._exclusion(values, given) for values in sweeper.get("exclude") or []]
        self.builders: dict[Point, Builder] = {}
        self.by_hydra = {key for rows in self.dimensions for row in rows for key, text in row if _needs_hydra(key, text)}

    def points(self) -> Iterator[Point]:
        """Yield the points that are not excluded.

        Raises ConfigError if none is left, or an exclusion was for nothing.
        """
        left = 0
        for rows in itertools.product(*self.dimensions):
            point = tuple(pair for row in rows for pair in row)
            values = {**self.fixed.values, **self.fixed.choices, **dict(point)}
            matching = [exclusion for exclusion in self.exclusions if exclusion.matches(values)]
            for exclusion in matching:
                exclusion.used = True
            if not matching:
                left += 1
                yield point
        if not left:
            raise ConfigError(explain("hydra.sweeper.exclude", got="exclusions of every point", allowed="at least one point left"))
        for exclusion in self.exclusions:
            if not exclusion.used and not exclusion.narrowed:
                fix = "correct or remove it"
                raise ConfigError(explain("hydra.sweeper.exclude", got=f"{exclusion}, which matches nothing", allowed="a point", fix=fix))

    def composed(self, point: Point) -> list[Asked | Refused]:
        """Compose one point: its run, its runs where each volume is one of its own, or why it means nothing."""
        pairs = [pair for pair in point if pair[1] != NOT_SET]
        texts = tuple(_typed(self.fixed) + [f"{key}={value}" for key, value in pairs])
        slow = tuple(pair for pair in pairs if pair[0] in self.by_hydra)
        try:
            if slow not in self.builders:
                own = parse([f"{key}={value}" for key, value in slow])
                choices, values = {**self.fixed.choices, **own.choices}, {**self.fixed.values, **own.values}
                self.builders[slow] = Builder(compose_hydra(Parsed(choices, values, {})))
            config = self.builders[slow].build({key: value for key, value in pairs if key not in self.by_hydra})
        except ConfigError as error:
            where = " ".join(f"{key}={value}" for key, value in pairs)
            raise ConfigError(f"{error} (at {where})" if where else str(error)) from error
        try:
            check(config)
        except ConfigError as error:
            return [Refused(texts, str(error))]
        runs = runs_of(config)
        if len(runs) == 1:
            return [Asked(config, texts)]
        rest = tuple(text for text in texts if not text.startswith("data.volumes="))
        return [Asked(run, (*rest, f"data.volumes=[{run.data.volumes[0]}]")) for run in runs]

    def _exclusion(self, values: Any, given: Parsed) -> _Exclusion:
        axes = {key for rows in self.dimensions for row in rows for key, _ in row} | given.keys | {*self.fixed.choices, *self.fixed.values}
        if not isinstance(values, Mapping) or not values:
            raise ConfigError(explain("hydra.sweeper.exclude", got=repr(values), allowed="mappings of axes to values"))
        for key in values:
            if key not in axes:
                allowed = ", ".join(sorted(axes)) or "none: there are no axes"
                raise ConfigError(explain(f"hydra.sweeper.exclude: {key}", got="no axis", allowed=allowed, fix=did_you_mean(key, axes)))
        items = {str(key): [_plain(text) for text in _items(str(key), value)] for key, value in values.items()}
        return _Exclusion(items, narrowed=bool(items.keys() & given.keys))


@dataclass
class _Exclusion:
    """Points left out: those that have one of the values for every key.

    Attributes:
        narrowed: one of its keys was given on the command line, so that it may well match nothing.
        used: it has matched a point.
    """

    values: dict[str, list[Any]]
    narrowed: bool
    used: bool = False

    def matches(self, point: Mapping[str, str | None]) -> bool:
        """Say whether a point is left out."""
        return all(key in point and _plain(point[key]) in values for key, values in self.values.items())

    def __str__(self) -> str:
        return " ".join(f"{key}={','.join(map(str, values))}" for key, values in self.values.items())


def _alone(key: str, values: Sequence[str]) -> list[Point]:
    return [((key, value),) for value in values]


def _zip(values: Mapping[str, Any], given: Parsed) -> list[Point]:
    """Return the points of one zip, narrowed to what the command line gives of it."""
    columns = {str(key): _items(str(key), value) for key, value in values.items()}
    if len({len(items) for items in columns.values()}) != 1:
        got = ", ".join(f"{len(items)} of {key}" for key, items in columns.items()) or "nothing"
        raise ConfigError(explain("hydra.sweeper.zip", got=got, allowed="equally many values of every key"))
    if columns.keys() <= given.keys:
        return [()]
    kept = {key: items for key, items in columns.items() if key in GROUPS or key not in given.keys}
    rows = [tuple(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]
    for key in kept.keys() & given.keys:
        wanted = given.sweeps.get(key) or (given.choices[key] or "null",)
        for member in wanted:
            if member not in kept[key]:
                fix = f"give {', '.join(sorted(columns.keys() - {key}))} too"
                allowed = f"{', '.join(dict.fromkeys(kept[key]))}, as zipped by the experiment"
                raise ConfigError(explain(key, got=repr(member), allowed=allowed, fix=fix))
        rows = [row for row in rows if dict(row)[key] in wanted]
    return list(dict.fromkeys(rows))


def _items(key: str, value: Any) -> tuple[str, ...]:
    """Return the values of an axis of a zip or an exclusion.

    ``~`` among them leaves the key alone.
    """
    text = _text(value)
    if NOT_SET in (parts := [part.strip() for part in text.split(",")]):
        return tuple(parts)
    parsed = parse([f"{key}={text}"])
    return parsed.sweeps.get(key) or (text,)


def _refuse_doubles(sweeper: Mapping[str, Any]) -> None:
    """Refuse an axis that is named twice: both cannot be. Raises ConfigError."""
    named = [*(sweeper.get("params") or {}), *(key for values in sweeper.get("zip") or [] for key in values)]
    for key in named:
        if named.count(key) > 1:
            raise ConfigError(explain(f"hydra.sweeper: {key}", got="two axes", allowed="one, in params or in a zip"))


def _needs_hydra(key: str, text: str) -> bool:
    """Say whether only Hydra can apply a value: a member of a group, a mapping (it is merged), an item of a list, an interpolation."""
    return "/" in key or key in GROUPS or "{" in text or any(part.isdigit() or "[" in part for part in key.split("."))


def _typed(fixed: Parsed) -> list[str]:
    choices = {key: "null" if value is None else value for key, value in fixed.choices.items()}
    return [f"{key}={value}" for key, value in {**choices, **fixed.values}.items()]


def _text(value: Any) -> str:
    """Return a value of yaml as it would be typed."""
    return "null" if value is None else str(value)


def _plain(text: str | None) -> Any:
    return None if text is None else NOT_SET if text == NOT_SET else value_of(text)
