"""RunConfig, the frozen and validated configuration of one run, and the strict way from plain values to dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.errors import ConfigError, did_you_mean, explain
from harness.interfaces import Mitigation, ModelSource, Objective, Source, Tuning

Dtype = Literal["auto", "float32", "bfloat16"]

RATE_KEYS = ("model", "tuning", "objective", "data", "mitigation")
"""The labels for which a learning rate is searched."""


ADDED = "added"


def added(default: Any) -> Any:
    """Return a field for a dataclass whose values are part of identities already: at its default it is left out of them.

    So runs that were recorded before the field existed keep their id.
    """
    return field(default=default, metadata={ADDED: True})


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a run trains: optimizer, schedule and batch, each explicit.

    Attributes:
        learning_rate: peak rate; null takes the searched one for this model, tuning, objective and data, else the default of
            the tuning for this size, of pairs and rewards a share of it (then the table says ``lr_tuned`` false).
        rate_of: label → value in place of the run's own where the searched rate is looked up: a same-data control takes the rate of
            the arm that it controls, ``{data: tinyworld-people, objective: sft}``.
        batch_rows: target rows of an optimizer step; divides every volume.
        micro_batch_rows: rows of one forward pass; null is the whole step. Smaller needs less memory, same result up to rounding: so it
            is no part of a run's identity.
        warmup_rows: the rate rises linearly over this many target rows.
        decay: what the rate does after warm-up; anything but ``constant`` needs ``trajectory=independent``.
        epochs: passes over the rows; more than one needs ``trajectory=independent``.
        max_length: longest row in tokens, cut at the end; capped by the model's context.
        dtype: of the forward pass; weights and optimizer are float32 always. ``auto``: float32 on a CPU, bfloat16 autocast on a GPU.
        threads: of each process; null is 1 below five million parameters, else its share of the cores.
        processes: that train one run together, each on its share of a step's rows; null is one a GPU, or one without.
        dropout: rate at which the model drops in training wherever it can (for families such as llama, attention weights alone); 0 leaves
            the rates of its own config. An adapter's is ``tuning.dropout``.
        decay_floor: the share of the peak rate at which a linear or cosine decay ends; 0.1 is the re-warm and re-decay of Ibrahim et al.
            2024, arXiv 2403.08763.
    """

    learning_rate: float | None = None
    rate_of: Mapping[str, str] = field(default_factory=dict)
    batch_rows: int = 8
    micro_batch_rows: int | None = None
    warmup_rows: int = 0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    epochs: int = 1
    optimizer: Literal["adamw"] = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    max_length: int = 512
    gradient_checkpointing: bool = False
    dtype: Dtype = "auto"
    threads: int | None = None
    processes: int | None = None
    dropout: float = added(0.0)
    decay_floor: float = added(0.0)

    def __post_init__(self) -> None:
        """Check ranges."""
        positive = ["learning_rate", "batch_rows", "micro_batch_rows", "epochs", "max_length", "epsilon", "max_grad_norm"]
        for name in [*positive, "threads", "processes"]:
            check(f"training.{name}", getattr(self, name), "greater than 0", lambda value: value is None or value > 0)
        for name in ["warmup_rows", "weight_decay"]:
            check(f"training.{name}", getattr(self, name), "0 or greater", lambda value: value >= 0)
        for name in ["beta1", "beta2", "dropout", "decay_floor"]:
            check(f"training.{name}", getattr(self, name), "in [0, 1)", lambda value: 0 <= value < 1)
        if self.decay == "constant":
            fix = "training.decay=cosine or linear, with trajectory=independent"
            check("training.decay_floor", self.decay_floor, "0 for training.decay=constant", lambda value: value == 0, fix)
        if self.micro_batch_rows and self.micro_batch_rows > self.batch_rows:
            message = explain(
                "training.micro_batch_rows", got=self.micro_batch_rows, allowed=f"at most training.batch_rows = {self.batch_rows}"
            )
            raise ConfigError(message)
        require_rows(self.batch_rows, self.processes or 1)
        require_keys("training.rate_of", self.rate_of, RATE_KEYS)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the table calls each choice: the group member, with the values that were overridden in it. Not part of any identity."""

    model: str
    tuning: str
    objective: str
    mitigation: str
    data: str
    anchor: str | None = None
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What an experiment declares before its results are seen. Not part of any identity: no run computes with it.

    Attributes:
        headline: the probe suite whose verdict is the headline.
        margin: a change within ±margin, in the metric's own unit, is none that matters; ``margins``: suite → margin, where it is another.
        control: label → value: runs that have all of them train on what the model knows already, and are the control of the others.
    """

    headline: str | None = None
    margin: float = 0.02
    margins: Mapping[str, float] = field(default_factory=dict)
    control: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the margins' range, and that a control is told by labels."""
        for where, margin in {"margin": self.margin, **{f"margins.{suite}": value for suite, value in self.margins.items()}}.items():
            check(f"declared.{where}", margin, "greater than 0", lambda value: value > 0)
        require_keys("declared.control", self.control, [f.name for f in dataclasses.fields(Labels)])


class EvaluationBackend(typing.Protocol):
    """How suites are evaluated: what a member of ``conf/evaluation/`` configures."""

    @property
    def items(self) -> Literal["report", "select"]:
        """Which items of each suite."""
        ...

    @property
    def dtype(self) -> Dtype:
        """Of the forward pass."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides one run; volumes are ``data.volumes``.

    Attributes:
        name: the folder under ``results`` that the run is recorded in.
        trajectory: ``shared``: one run at a constant rate, every volume a checkpoint of it; ``independent``: each volume its own
            run with its own schedule and decay.
        save_weights: which volumes keep their weights in the results folder.
        keep_state: keep the state of training after the last volume, so that a larger one goes on from there: about three times the
            size of the weights that move. Until the run is done it is kept in any case.
        declared: what its experiment declares before its results are seen.
        reference: the model that volume 0 is measured on, in the start model's place; null is the start model.
    """

    model: ModelSource
    tuning: Tuning
    objective: Objective
    mitigation: Mitigation
    data: Source
    anchor: Source | None
    evaluation: EvaluationBackend
    labels: Labels
    training: Training = field(default_factory=Training)
    target_suites: tuple[str, ...] = ()
    probe_suites: tuple[str, ...] = ()
    trajectory: Literal["shared", "independent"] = "shared"
    seed: int = 0
    name: str = "adhoc"
    results: str = "results"
    save_weights: Literal["none", "last", "all"] = "last"
    keep_state: bool = True
    declared: Declared = field(default_factory=Declared)
    reference: ModelSource | None = None

    def __post_init__(self) -> None:
        """Check that the name is one folder."""
        allowed = "letters, digits, '.', '_' and '-', beginning with a letter or digit"
        check("name", self.name, allowed, lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) is not None)


def check(where: str, value: Any, allowed: str, accept: typing.Callable[[Any], bool], fix: str = "") -> None:
    """Raise ConfigError unless ``accept(value)``; a float that is no number is never accepted."""
    broken = isinstance(value, float) and not math.isfinite(value)
    if broken or not accept(value):
        raise ConfigError(explain(where, got=repr(value), allowed=allowed, fix=fix))


def require_keys(where: str, values: Mapping[str, Any], allowed: typing.Collection[str]) -> None:
    """Refuse a key that is none of those allowed. Raises ConfigError."""
    for key in values:
        check(where, key, ", ".join(allowed), lambda key: key in allowed, did_you_mean(key, allowed))


def require_rows(batch_rows: int, processes: int) -> None:
    """Refuse a step with fewer rows than processes to share them: some would have nothing to do. Raises ConfigError."""
    fix = "fewer training.processes, or more training.batch_rows"
    check("training.processes", processes, f"at most training.batch_rows = {batch_rows}", lambda value: value <= batch_rows, fix)


def build(cls: type[Any], values: Mapping[str, Any], where: str, raw: Mapping[str, str] | None = None) -> Any:
    """Make a dataclass from plain values, strictly: unknown keys, missing keys and wrong types are refused.

    Args:
        cls: a dataclass; its ``__post_init__`` checks ranges.
        values: plain values, as read from yaml or JSON.
        where: dotted path of this object, for messages; may be empty.
        raw: texts as the user typed them, by dotted path. A text field whose value was read as a number (a revision such as
            ``12e45678``) takes its text from here.
    """
    hints = _hints(cls)  # type: ignore[arg-type] # a class is hashable
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    dot = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            allowed = ", ".join(sorted(fields)) or f"nothing: {where} has no settings"
            raise ConfigError(explain(f"{dot}{key}", got="an unknown key", allowed=allowed, fix=did_you_mean(str(key), fields)))
    for name, f in fields.items():
        no_default = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise ConfigError(explain(f"{dot}{name}", got="nothing", allowed=describe(hints[name]), fix=f"set {dot}{name}=…"))
    return cls(**{key: convert(value, hints[key], f"{dot}{key}", raw or {}) for key, value in values.items()})


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def convert(value: Any, hint: Any, where: str, raw: Mapping[str, str]) -> Any:
    """Convert one plain value to the type of its field, or raise ConfigError naming the place, the value and what is allowed."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_built(value, hint) or (value is None and type(None) in args):
        return value
    if origin in (typing.Union, types.UnionType):
        return convert(value, next(arg for arg in args if arg is not type(None)), where, raw)
    refused = ConfigError(explain(where, got=repr(value), allowed=describe(hint), fix=_near(value, origin, args)))
    if origin is Literal:
        return _require(value, value in args and not isinstance(value, bool), refused)
    if origin in (tuple, list):
        items = _require(value, isinstance(value, list | tuple), refused)
        return tuple(convert(item, args[0], f"{where}[{i}]", raw) for i, item in enumerate(items))
    if _is_mapping(origin):
        pairs = _require(value, isinstance(value, Mapping), refused)
        return {str(key): convert(item, args[1], f"{where}.{key}", raw) for key, item in pairs.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, _require(value, isinstance(value, Mapping), refused), where, raw)
    return _scalar(value, hint, where, raw, refused)


def _is_built(value: Any, hint: Any) -> bool:
    """Say whether a value is an object already: of a group (its hint is a protocol), or of the very dataclass."""
    is_instance = isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, hint)
    return hint is Any or getattr(hint, "_is_protocol", False) or is_instance


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _near(value: Any, origin: Any, args: tuple[Any, ...]) -> str:
    return did_you_mean(str(value), map(str, args)) if origin is Literal else ""


def _require(value: Any, accepted: bool, refused: ConfigError) -> Any:
    if not accepted:
        raise refused
    return value


def _scalar(value: Any, hint: Any, where: str, raw: Mapping[str, str], refused: ConfigError) -> Any:
    if hint is str and not isinstance(value, str):
        if where in raw and isinstance(value, bool | int | float):
            return raw[where]
        if isinstance(value, bool | int | float):
            raise ConfigError(explain(where, got=repr(value), allowed="text", fix="put it in quotes in the yaml"))
        raise refused
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise refused
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise refused


def describe(hint: Any) -> str:
    """Say in words what a type hint allows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else describe(arg) for arg in args)
    if origin is Literal:
        return ", ".join(map(str, args))
    if origin in (tuple, list):
        return f"a list, each {describe(args[0])}"
    if _is_mapping(origin):
        return f"a mapping of names to {describe(args[1])}"
    names = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def identifying(value: Any) -> Any:
    """Return plain values as ``plain`` does, without the ``added`` fields that have their default."""
    found = plain(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            if f.metadata.get(ADDED) and getattr(value, f.name) == f.default:
                del found[f.name]
    return found


def without_added(values: Any) -> Any:
    """Return plain values of a configuration, whenever they were written, without the ``added`` fields that have their default.

    Which these are is read off the classes that this process uses; of others, everything stays.
    """
    if not isinstance(values, Mapping):
        return values
    module, _, name = str(values.get("class", "")).rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    fields = dataclasses.fields(cls) if isinstance(cls, type) and dataclasses.is_dataclass(cls) else ()
    known = {f.name: plain(f.default) for f in fields if f.metadata.get(ADDED)}
    return {key: without_added(value) for key, value in values.items() if key not in known or value != known[key]}


def plain(value: Any) -> Any:
    """Turn a configuration object into plain JSON values; dataclasses of a group carry their ``class``."""
    if value is None or isinstance(value, str | int | float):  # most values: first, since plans make thousands of configurations plain
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **named}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
