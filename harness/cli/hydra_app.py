"""Hydra's own command line: ``python -m harness.cli.hydra_app key=value``.

It is `harness run`, and with ``-m`` `harness sweep`, for Hydra's launchers such as ``-m
hydra/launcher=submitit_slurm``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from harness.cli import app
from harness.cli.hydra_sweeper import UNIT
from harness.config import composition, overrides, paths
from harness.core import streams
from harness.core.display import quiet_libraries
from harness.core.errors import HarnessError


def task(config: DictConfig) -> str:
    """Execute one job of Hydra: a unit of a sweep, or a whole run.

    A unit never raises; a run ends the process with its exit code.

    Returns:
        The outcome of the unit.
    """
    quiet_libraries()
    given = list(HydraConfig.get().overrides.task)
    if "unit" not in config:
        raise SystemExit(app.main(["run", *given]))
    from harness.sweep import worker

    return worker.carry_out_one(str(config.unit), [text for text in given if not text.startswith(UNIT)])


def main(argv: Sequence[str] | None = None) -> None:
    """Call Hydra, which ends the process if something is wrong.

    Args:
        argv: the arguments, by default those of the process.
    """
    streams.prepare()
    try:
        arguments = [one for text in (sys.argv[1:] if argv is None else argv) for one in _translated(text)]
        own, shipped = paths.folders("conf")[:-1], paths.folders("conf")[-1]
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        raise SystemExit(2) from error
    quiet_libraries()
    sys.argv = [sys.argv[0], *arguments, *([composition.search_path(own)] if own else [])]
    try:
        with composition.limited_yaml():
            hydra.main(version_base="1.3", config_path=str(shipped), config_name="run")(task)()
    except KeyboardInterrupt:
        sys.stderr.write(f"harness: interrupted; {app.RESUME}\n")
        raise SystemExit(130) from None


def _translated(text: str) -> list[str]:
    """Return an argument in Hydra's form, also of keys that no yaml lists. Raises ConfigError."""
    is_ours = "=" in text and not text.startswith(("-", "~", "hydra.", "hydra/", "+hydra"))
    return overrides.for_hydra(text) if is_ours else [text]


if __name__ == "__main__":
    # Not ``main()``: launchers send the task function to other processes by its module's name,
    # which there must not be ``__main__``.
    importlib.import_module("harness.cli.hydra_app").main()
