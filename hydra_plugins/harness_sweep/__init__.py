"""Where Hydra looks for plugins: it takes classes of the namespace package ``hydra_plugins`` only."""

from harness.cli import hydra_sweeper


class HarnessSweeper(hydra_sweeper.HarnessSweeper):
    """``hydra/sweeper: harness``, see ``harness.cli.hydra_sweeper``."""
