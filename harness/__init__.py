"""Measure catastrophic forgetting of language models in post-training."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.api import Results as Results
    from harness.api import compare as compare
    from harness.api import load as load
    from harness.api import train as train
    from harness.callback import ForgettingCallback as ForgettingCallback
    from harness.core.errors import HarnessError as HarnessError

__version__ = "0.1.0"

PROTOCOL_VERSION = 3
"""Raised by every change that moves a reported number; results of different versions are never
mixed."""

__all__ = ["load", "train", "compare", "Results", "ForgettingCallback", "HarnessError", "PROTOCOL_VERSION", "__version__"]

__getattr__ = exports(__name__)


def __dir__() -> list[str]:
    return sorted(__all__)
