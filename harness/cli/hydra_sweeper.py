"""The Hydra sweeper, which plans a sweep as ``harness sweep`` does.

``python -m harness.cli.hydra_app -m experiment=NAME`` uses it. Any Hydra launcher
(``hydra/launcher=basic``, ``joblib``, ``submitit_slurm``, ``ray``) carries the units, one job each.
A job's overrides include the unit's name; the task function in ``harness.cli.hydra_app`` carries
the unit out and never raises.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from harness.core.errors import HarnessError

if TYPE_CHECKING:
    from harness.records.sweep_schema import Unit
    from harness.sweep.command import Started
    from harness.sweep.tally import Tally

UNIT = "++unit="
"""Start of the override that names a job's unit."""


@dataclass
class SweeperConfig:
    """Schema of ``hydra.sweeper`` in an experiment's yaml, see ``harness.sweep.axes``."""

    _target_: str = "hydra_plugins.harness_sweep.HarnessSweeper"
    arms: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
    zip: list[Any] | None = None
    exclude: list[Any] | None = None
    claim: dict[str, Any] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="harness", node=SweeperConfig, provider="harness")


class HarnessSweeper(Sweeper):
    """Launches baselines first, then runs, one job each.

    The axes are accepted and ignored here: ``harness.sweep.axes`` composes the experiment itself.
    """

    def __init__(self, arms: Any = None, params: Any = None, zip: Any = None, exclude: Any = None, claim: Any = None) -> None:
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Instantiate the launcher of the configuration."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(config=config, hydra_context=hydra_context, task_function=task_function)

    def sweep(self, arguments: Sequence[str]) -> None:
        """Plan and carry out a sweep, and exit with the code of ``harness sweep``."""
        from harness.cli import outcome
        from harness.sweep import command

        try:
            started = command.start(arguments)
            started.announce()
            self._launch(started)
            code = outcome.finish(started, _tally(started))
        except HarnessError as error:
            sys.stderr.write(f"harness: {error}\n")
            code = 2
        if code:
            raise SystemExit(code)

    def _launch(self, started: Started) -> None:
        """Launch the baselines and, after them, the runs, then the measurements that these left."""
        assert self.launcher is not None
        launched = 0
        for kind in ("baseline", "run", "measurement"):
            jobs = [job_overrides(unit, started.sweep.id) for unit in started.units if unit.kind == kind]
            try:
                if jobs:
                    self.launcher.launch(jobs, initial_job_idx=launched)
            except Exception as error:  # noqa: BLE001 - some launchers raise after the first killed job: the state on disk counts
                sys.stderr.write(f"harness: the launcher stopped: {type(error).__name__}: {' '.join(str(error).split())}\n")
            launched += len(jobs)


def _tally(started: Started) -> Tally:
    """Return how the runs ended, from disk: a launcher knows about jobs, not about results."""
    from harness.sweep.claims import Claims
    from harness.sweep.states import UnitStates
    from harness.sweep.tally import tally

    states = UnitStates(started.experiment, Claims(started.experiment, sweep=started.sweep.id))
    found = tally(started.units, states)
    found.already_done = started.already_done
    left = [unit for unit in started.units if unit.kind != "baseline" and states.of(unit) not in {"done", "failed"}]
    found.failed += [(unit.label, "not done: its job has ended, or another process still has it") for unit in left]
    return found


def job_overrides(unit: Unit, sweep_id: str) -> list[str]:
    """Return the overrides of a unit's job in Hydra's form, with the unit's name.

    The name is quoted, since an id may parse as a number.
    """
    from harness.config import overrides

    return [*overrides.parse(unit.overrides).hydra_lines(), f"{UNIT}'{sweep_id}/{unit.id}'"]
