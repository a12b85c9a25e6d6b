"""Evaluation: suites in, tidy per-item scores out, through lm-eval and our own likelihood measures."""
