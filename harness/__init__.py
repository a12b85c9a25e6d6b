"""Measure catastrophic forgetting of language models in post-training."""

__version__ = "0.1.0"

PROTOCOL_VERSION = 2
"""Raised by every change that moves a reported number; results of different versions are never
mixed."""
