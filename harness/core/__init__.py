"""Base classes of methods, shared types, errors and small tools; imports no other room."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.core.contexts import Author as Author
    from harness.core.contexts import GeneratedRow as GeneratedRow
    from harness.core.contexts import LearningContext as LearningContext
    from harness.core.contexts import Penalty as Penalty
    from harness.core.contexts import PenaltyContext as PenaltyContext
    from harness.core.contexts import Rollouts as Rollouts
    from harness.core.contexts import Sampling as Sampling
    from harness.core.contexts import Step as Step
    from harness.core.contexts import WeightsContext as WeightsContext
    from harness.core.contexts import WritingContext as WritingContext
    from harness.core.errors import AnalysisError as AnalysisError
    from harness.core.errors import ConfigError as ConfigError
    from harness.core.errors import DataError as DataError
    from harness.core.errors import EvaluationError as EvaluationError
    from harness.core.errors import HarnessError as HarnessError
    from harness.core.errors import ModelError as ModelError
    from harness.core.errors import RecordError as RecordError
    from harness.core.errors import TrainingError as TrainingError
    from harness.core.methods import Mitigation as Mitigation
    from harness.core.methods import Objective as Objective
    from harness.core.progress import Interrupted as Interrupted
    from harness.core.progress import Progress as Progress
    from harness.core.progress import Silent as Silent
    from harness.core.rows import Example as Example
    from harness.core.rows import Row as Row
    from harness.core.rows import Turn as Turn
    from harness.core.sources import ModelFacts as ModelFacts
    from harness.core.sources import ModelSource as ModelSource
    from harness.core.sources import Source as Source
    from harness.core.tuning import Tuning as Tuning

__getattr__ = exports(__name__)
