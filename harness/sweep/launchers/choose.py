"""The base class of launchers, and the choice of one by ``launcher=NAME``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from harness.config import composition, overrides, paths
from harness.config.resolution import Machine
from harness.config.strict import build
from harness.config.yaml_files import load_yaml
from harness.core.display import Display
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter
from harness.sweep.tally import Tally

DEFAULT = "local"

PACKAGE = "harness.sweep.launchers"
"""Package of the classes that conf/launcher names by ``class: module.Class``."""

BYTES_PER_PARAMETER = 20
"""Weights, gradients, two moments and the start weights, four bytes each, without activations."""

PACKED_WORKER_BYTES = 1.5 * 2**30
"""A worker with its libraries, batches and logits, without a model: a rough bound, used to decide
how many workers fit. ``plan.estimate`` computes batches and logits by their size."""


def worker_bytes(unit: Unit) -> float:
    """Return the memory that a unit is taken to need, all its processes together."""
    return unit.processes * (PACKED_WORKER_BYTES + unit.params_total * BYTES_PER_PARAMETER)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a sweep that a launcher carries.

    Attributes:
        sweep: all its units, done or not.
        units: those to do, in the order in which they are taken.
        announce: makes the sweep's runs the current runs; called once it is certain that somebody
            carries them.
    """

    experiment: ExperimentWriter
    sweep: Sweep
    units: Sequence[Unit]
    announce: Callable[[], None]


class Launcher(ABC):
    """Carries the units of sweeps: base class of conf/launcher's members, which are dataclasses.

    Attributes:
        workers: most workers at a time; None leaves it to the machine.
        price_per_hour: of one GPU, or of a worker without GPUs; None if unknown.
    """

    here: ClassVar[bool] = False
    """Whether its workers run on this machine, as ``harness run`` does."""

    workers: int | None = None
    price_per_hour: float | None = None

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """Cores and GPUs of one run."""

    def check(self) -> None:  # noqa: B027 - nothing to check by default
        """Raise ConfigError if nothing can be launched from this machine."""

    def warm_up(self) -> None:  # noqa: B027 - nothing to start by default
        """Start slow preparations, while the sweep is still being planned."""

    @abstractmethod
    def carry(self, work: Work, display: Display, *, wait: bool) -> Tally | None:
        """Start workers for the units.

        Args:
            work: the units; ``announce`` is called here.
            display: shows progress.
            wait: return only once every unit is done or failed; a launcher of local processes
                always waits.

        Returns:
            How the runs ended; None if they were submitted and are not waited for.

        Raises:
            ConfigError: nothing was launched or announced.
            KeyboardInterrupt: after everything was saved.
        """


def split(overrides: Sequence[str]) -> tuple[Launcher, list[str]]:
    """Take the launcher out of overrides (``launcher=slurm launcher.partition=gpu``).

    Returns:
        The launcher, and the other overrides.

    Raises:
        ConfigError: unknown launcher, or an invalid value for it.
    """
    own = [text for text in overrides if text.lstrip("+").split("=", 1)[0].split(".", 1)[0] == "launcher"]
    return chosen(own), [text for text in overrides if text not in own]


def chosen(own: Sequence[str]) -> Launcher:
    """Return the launcher of some overrides; ``local`` if they name none. Raises ConfigError."""
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
    fields = load_yaml(known[name])
    for path, value in set_values:
        _set(fields, path, overrides.value_of(value))
    cls = composition.find_class(str(fields.pop("class", "")), PACKAGE, f"launcher={name}")
    if not issubclass(cls, Launcher):
        raise ConfigError(explain(f"launcher={name}.class", got=cls.__qualname__, allowed=f"a subclass of {PACKAGE}.choose.Launcher"))
    return cast(Launcher, build(cls, fields, "launcher"))


def _set(fields: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value at a path of keys, creating mappings on the way."""
    for key in path[:-1]:
        inner = fields.get(key)
        fields[key] = inner if isinstance(inner, dict) else {}
        fields = fields[key]
    fields[path[-1]] = value
