"""The ``harness`` command, which alone reads argv and prints; the Hydra app."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.cli.app import main as main

__getattr__ = exports(__name__)
