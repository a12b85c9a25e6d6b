"""Files of an experiment on disk, and their schema."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.records.schema import Failure as Failure
    from harness.records.schema import Measurement as Measurement
    from harness.records.schema import Point as Point
    from harness.records.schema import Record as Record
    from harness.records.schema import Score as Score
    from harness.records.store import Experiment as Experiment
    from harness.records.sweep_schema import Claim as Claim
    from harness.records.sweep_schema import Sweep as Sweep
    from harness.records.sweep_schema import Unit as Unit
    from harness.records.writer import ExperimentWriter as ExperimentWriter

__getattr__ = exports(__name__)
