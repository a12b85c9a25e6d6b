"""Yaml and overrides to a RunConfig; valid combinations, resolved values, identity."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.config.resolution import Machine as Machine
    from harness.config.resolution import Resolved as Resolved
    from harness.config.resolution import SearchedRate as SearchedRate
    from harness.config.run_config import Declared as Declared
    from harness.config.run_config import Labels as Labels
    from harness.config.run_config import RunConfig as RunConfig
    from harness.config.run_config import Training as Training
    from harness.config.strict import build as build
    from harness.config.strict import check as check
    from harness.config.strict import plain as plain

__getattr__ = exports(__name__)
