"""Steps of examples in, a trained model out; checkpoints."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.training.job import Callbacks as Callbacks
    from harness.training.job import Job as Job
    from harness.training.job import Stop as Stop
    from harness.training.loop import OutOfMemory as OutOfMemory
    from harness.training.loop import train as train
    from harness.training.trajectory import Trajectory as Trajectory

__getattr__ = exports(__name__)
