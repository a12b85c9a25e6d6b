"""Evaluation: suites in, tidy per-item scores out, through lm-eval and our own likelihood measures."""

import lm_eval.models  # noqa: F401 - registers lm-eval's own names, which it does only while its registry is empty
from lm_eval.api.registry import model_registry

# Registered by name alone: the class, and torch with it, is imported when it is asked for.
model_registry.register("prefix", target="harness.evaluation.prefix.lm:PrefixLM")
