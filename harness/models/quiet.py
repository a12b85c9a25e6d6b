"""Silence of the libraries while models load."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def failures() -> tuple[type[Exception], ...]:
    """Return the errors that transformers and PEFT raise for files that they cannot read."""
    from huggingface_hub import errors
    from safetensors import SafetensorError

    strict = getattr(errors, "StrictDataclassError", OSError)  # a value of config.json of a wrong type
    # ArithmeticError: division by a size of 0; AssertionError: a padding token beyond the embedding
    usual = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, ArithmeticError, AssertionError)
    return (*usual, strict, SafetensorError, re.error)  # patterns of an adapter's target modules


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off the libraries' progress bars and notices for a while: they disturb our display."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    noise: Any = logging
    level, bars, hub_bars = noise.get_verbosity(), noise.is_progress_bar_enabled(), not are_progress_bars_disabled()
    noise.set_verbosity_error()
    noise.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
