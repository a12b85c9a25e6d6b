"""Intervals and tests, as pure functions of arrays."""
