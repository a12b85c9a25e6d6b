"""Sources to rows to tokens; tinyworld, the built-in synthetic world."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.data.sequence import StageSequence as StageSequence
    from harness.data.sources import Files as Files
    from harness.data.sources import Hub as Hub
    from harness.data.tinyworld.chat_targets import TinyworldChat as TinyworldChat
    from harness.data.tinyworld.targets import Tinyworld as Tinyworld
    from harness.data.tokens import encode as encode

__getattr__ = exports(__name__)
