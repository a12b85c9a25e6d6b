"""Measure catastrophic forgetting: what a language model loses, and learns, when it is post-trained."""

__version__ = "0.1.0"

PROTOCOL_VERSION = 2
"""Bumped by every change that moves a reported number; results of different versions are never
mixed."""
