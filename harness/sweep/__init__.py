"""Many runs: from arms and axes to units, which launchers give to workers."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.sweep.axes import Expansion as Expansion
    from harness.sweep.axes import expand as expand
    from harness.sweep.launchers.choose import Launcher as Launcher
    from harness.sweep.units import units_of as units_of

__getattr__ = exports(__name__)
