"""One run: prepare, baseline, generated rows, train, measure, record."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.run.execution import Outcome as Outcome
    from harness.run.execution import execute as execute
    from harness.run.execution import inspect as inspect
    from harness.run.preparation import Prepared as Prepared
    from harness.run.preparation import prepare as prepare
    from harness.run.workspace import Workspace as Workspace

__getattr__ = exports(__name__)
