"""The ``harness`` command: arguments in, text and exit code out; Hydra's command line."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.cli.app import main as main

__getattr__ = exports(__name__)
