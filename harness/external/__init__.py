"""Models, checkpoints and logs made elsewhere, compared item by item."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.external.gate import Decision as Decision
    from harness.external.gate import Gate as Gate
    from harness.external.judge import Comparison as Comparison
    from harness.external.sides import Side as Side

__getattr__ = exports(__name__)
