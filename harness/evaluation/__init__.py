"""Suites in, tidy scores and items out, through lm-eval and our own likelihood measures."""

from typing import TYPE_CHECKING

import lm_eval.models  # noqa: F401 - lm-eval registers its own names only into an empty registry
from lm_eval.api.registry import model_registry

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.evaluation.backends import Evaluation as Evaluation
    from harness.evaluation.backends import HfEvaluation as HfEvaluation
    from harness.evaluation.backends import PrefixEvaluation as PrefixEvaluation
    from harness.evaluation.evaluator import PreparedSuite as PreparedSuite
    from harness.evaluation.suites import Suite as Suite

__getattr__ = exports(__name__)

# Registered by name alone: the class, and torch with it, is imported on first use.
model_registry.register("prefix", target="harness.evaluation.prefix.lm:PrefixLM")
