"""The points of a sweep: an experiment's axes, multiplied.

An experiment's yaml names its axes under ``hydra.sweeper``:

    arms:     {none: {mitigation: none}, kl: {mitigation: kl, mitigation.inputs: anchor}}
    params:   {model: "a,b", seed: "range(3)"}
    zip:      [{data: "x,y", objective: "sft,clm"}]
    exclude:  [{model: b, arm: kl}]
    claim:    {number: 1, …}

``arms`` are one axis of named overrides (``harness.sweep.arms``), ``params`` one axis each, ``zip``
lists values that go together (``~`` leaves a key alone), and ``exclude`` leaves out the points that
match all keys; ``claim`` declares what the experiment tests (``harness.analysis.claims``), and
decides nothing here. An axis on the command line (``seed=0,1``) replaces the experiment's. In a
zip, a value replaces the key's at every point, and a group member (``data=x``) keeps the points
that have it. Hydra composes once for each combination of group members.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.claims import declaration
from harness.config.combinations import check, runs_of
from harness.config.composition import Builder, compose_hydra
from harness.config.overrides import GROUPS, MOST_VALUES, NOT_SET, Parsed, axis, our_key, parse, typed, value_of
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.sweep import arms
from harness.sweep.arms import ARM

Point = tuple[tuple[str, str], ...]
"""Keys and values, as they would be typed; under ARM the name of an arm."""


@dataclass(frozen=True)
class Asked:
    """One run of a sweep; ``compose(overrides)`` gives this very configuration.

    Attributes:
        arm: name of its arm; empty where the experiment has none.
    """

    config: RunConfig
    overrides: tuple[str, ...]
    arm: str = ""


@dataclass(frozen=True)
class Rejected:
    """An invalid point, and the reason in one line."""

    overrides: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Expansion:
    """Every point of a sweep, in the order of its axes.

    Attributes:
        claim: hash of the claim that the experiment declares; empty without one.
    """

    asked: list[Asked]
    rejected: list[Rejected]
    claim: str = ""


def expand(overrides: Sequence[str], own_arms: Mapping[str, Mapping[str, str]] | None = None) -> Expansion:
    """Multiply the axes of an experiment and of the command line, and check every point.

    Args:
        overrides: Hydra overrides; ``a,b``, ``range(3)`` or ``choice(a,b)`` make an axis,
            ``arms=a,b`` selects arms.
        own_arms: name → overrides, in place of the experiment's arms.

    Raises:
        ConfigError: an error that no choice of point avoids: an unknown key, a wrong value, an
            invalid axis. An invalid combination is rejected point by point, unless all are invalid.
    """
    sweep = _Sweep(overrides, own_arms)
    found = [part for point in sweep.points() for part in sweep.composed(point)]
    asked = [part for part in found if isinstance(part, Asked)]
    rejected = [part for part in found if isinstance(part, Rejected)]
    if not asked:
        raise ConfigError(rejected[0].reason)
    return Expansion(asked, rejected, sweep.claim)


class _Sweep:
    """The axes of one sweep, and the overrides that its points share."""

    def __init__(self, overrides: Sequence[str], own_arms: Mapping[str, Mapping[str, str]] | None) -> None:
        selecting, others = arms.split(overrides)
        given = parse(others)
        composed = compose_hydra(dataclasses.replace(given, sweeps={}))
        sweeper: Mapping[str, Any] = composed.sweeper
        every = arms.read(own_arms or sweeper.get("arms"))
        _reject_doubles(sweeper, every)
        claim = None if own_arms else declaration.read(sweeper.get("claim"), every)
        self.claim = claim.digest if claim else ""
        params = parse(
            [f"{key}={typed(value)}" for key, value in (sweeper.get("params") or {}).items() if our_key(str(key)) not in given.keys]
        )
        zips = [_zip(dict(values), given) for values in sweeper.get("zip") or []]
        if named := arms.points(arms.selected(every, selecting), given):
            zips.append(named)
        zipped = {key for rows in zips for row in rows for key, _ in row}
        alone = {**params.sweeps, **{key: values for key, values in given.sweeps.items() if key not in zipped}}
        self.fixed = Parsed(
            choices={**params.choices, **{key: value for key, value in given.choices.items() if key not in zipped}},
            values={**params.values, **{key: value for key, value in given.values.items() if key not in zipped}},
            sweeps={},
        )
        experiment = given.choices.get("experiment")
        if "name" not in composed.values and experiment:
            self.fixed = dataclasses.replace(self.fixed, values={**self.fixed.values, "name": experiment.replace("/", "-")})
        self.dimensions: list[list[Point]] = [_alone(key, values) for key, values in alone.items()]
        self.dimensions += zips
        of_arms = {ARM, *(key for own in every.values() for key in own)} if every else set()
        axes = {key for rows in self.dimensions for row in rows for key, _ in row} | {*self.fixed.choices, *self.fixed.values} | of_arms
        together = [of_arms, *({our_key(str(key)) for key in values} for values in sweeper.get("zip") or [])]
        narrowed = given.keys.union(of_arms if selecting else (), *(keys for keys in together if keys & given.keys))
        self.exclusions = [_exclusion(values, axes | given.keys, narrowed) for values in sweeper.get("exclude") or []]
        self.builders: dict[Point, Builder] = {}
        self.by_hydra = {key for rows in self.dimensions for row in rows for key, text in row if _needs_hydra(key, text)}

    def points(self) -> Iterator[Point]:
        """Yield the points that are not excluded.

        Raises ConfigError if none is left, or an exclusion matched nothing.
        """
        every, left = math.prod(map(len, self.dimensions)), 0
        if every > MOST_VALUES:
            got = f"{every:,} points ({' × '.join(f'{len(rows)} of {_named(rows)}' for rows in self.dimensions)})"
            raise ConfigError(explain("sweep", got=got, allowed=f"at most {MOST_VALUES:,}", fix="fewer values, or several sweeps"))
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
                got = f"{exclusion}, which matches no point"
                raise ConfigError(explain("hydra.sweeper.exclude", got=got, allowed="one that matches", fix=fix))

    def composed(self, point: Point) -> list[Asked | Rejected]:
        """Compose one point: its run, or a run for each independent volume, or the rejection."""
        arm = dict(point).get(ARM, "")
        pairs = [(key, text) for key, text in point if key != ARM and text != NOT_SET]
        texts = tuple(_typed(self.fixed) + [f"{key}={value}" for key, value in pairs])
        slow = tuple(pair for pair in pairs if pair[0] in self.by_hydra)
        try:
            if slow not in self.builders:
                own = parse([f"{key}={value}" for key, value in slow])
                choices, values = {**self.fixed.choices, **own.choices}, {**self.fixed.values, **own.values}
                self.builders[slow] = Builder(compose_hydra(Parsed(choices, values, {})))
            config = self.builders[slow].build({key: value for key, value in pairs if key not in self.by_hydra})
        except ConfigError as error:
            where = " ".join(f"{key}={value}" for key, value in point if value != NOT_SET)
            raise ConfigError(f"{error} (at {where})" if where else str(error)) from error
        try:
            check(config)
        except ConfigError as error:
            return [Rejected(texts, str(error))]
        runs = runs_of(config)
        if len(runs) == 1:
            return [Asked(config, texts, arm)]
        rest = tuple(text for text in texts if not text.startswith("data.volumes="))
        return [Asked(run, (*rest, f"data.volumes=[{run.data.volumes[0]}]"), arm) for run in runs]


@dataclass
class _Exclusion:
    """Points left out: those that have one of the values for every key.

    Attributes:
        narrowed: the command line gave one of its keys, so it may match nothing.
        used: it has matched a point.
    """

    values: dict[str, list[Any]]
    narrowed: bool
    used: bool = False

    def matches(self, point: Mapping[str, str | None]) -> bool:
        """Return whether a point is left out."""
        return all(key in point and _plain(point[key]) in values for key, values in self.values.items())

    def __str__(self) -> str:
        return " ".join(f"{key}={','.join(map(str, values))}" for key, values in self.values.items())


def _exclusion(values: Any, axes: set[str], narrowed: set[str]) -> _Exclusion:
    """Read an exclusion. Raises ConfigError for a key that is not an axis."""
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(explain("hydra.sweeper.exclude", got=repr(values), allowed="mappings of axes to values"))
    items = {our_key(str(key)): [_plain(text) for text in axis(str(key), value)] for key, value in values.items()}
    for key in items:
        if key not in axes:
            allowed = ", ".join(sorted(axes)) or "nothing: there are no axes"
            what, fix = f"hydra.sweeper.exclude: {key}", did_you_mean(key, axes)
            raise ConfigError(explain(what, got="a key without an axis", allowed=allowed, fix=fix))
    return _Exclusion(items, narrowed=bool(items.keys() & narrowed))


def _named(rows: Sequence[Point]) -> str:
    """Return the keys of a dimension, for messages."""
    return " and ".join(dict.fromkeys(key for row in rows for key, _ in row)) or "nothing"


def _alone(key: str, values: Sequence[str]) -> list[Point]:
    return [((key, value),) for value in values]


def _zip(values: Mapping[str, Any], given: Parsed) -> list[Point]:
    """Return the points of one zip, narrowed by the command line."""
    columns = {our_key(str(key)): axis(str(key), value) for key, value in values.items()}
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


def _reject_doubles(sweeper: Mapping[str, Any], every: arms.Arms) -> None:
    """Raise ConfigError for an axis that is named twice."""
    zipped = [key for values in sweeper.get("zip") or [] for key in values]
    alone = [our_key(str(key)) for key in (*(sweeper.get("params") or {}), *zipped)]
    named = [*alone, *dict.fromkeys(key for own in every.values() for key in own)]
    for key in named:
        if named.count(key) > 1:
            raise ConfigError(explain(f"hydra.sweeper: {key}", got="two axes", allowed="one, in params, in a zip or in arms"))


def _needs_hydra(key: str, text: str) -> bool:
    """Return whether only Hydra can apply a value.

    So it is for a member of a group, a mapping (it is merged), an item of a list, an interpolation.
    """
    return "/" in key or key in GROUPS or "{" in text or any(part.isdigit() or "[" in part for part in key.split("."))


def _typed(fixed: Parsed) -> list[str]:
    choices = {key: "null" if value is None else value for key, value in fixed.choices.items()}
    return [f"{key}={value}" for key, value in {**choices, **fixed.values}.items()]


def _plain(text: str | None) -> Any:
    return None if text is None else NOT_SET if text == NOT_SET else value_of(text)
