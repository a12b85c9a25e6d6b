"""Where Hydra looks for plugins: it takes classes of the namespace package ``hydra_plugins`` only."""

from harness.sweep import sweeper


class HarnessSweeper(sweeper.HarnessSweeper):
    """``hydra/sweeper: harness``, see ``harness.sweep.sweeper``."""
