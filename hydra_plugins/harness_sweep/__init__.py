"""The sweeper as Hydra's plugin: Hydra only finds plugins in the package ``hydra_plugins``."""

from harness.cli import hydra_sweeper


class HarnessSweeper(hydra_sweeper.HarnessSweeper):
    """``hydra/sweeper: harness``, see ``harness.cli.hydra_sweeper``."""
