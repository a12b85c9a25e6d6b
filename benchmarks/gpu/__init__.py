"""Checks on a GPU of everything that was built on CPUs: ``python -m benchmarks.gpu``."""
