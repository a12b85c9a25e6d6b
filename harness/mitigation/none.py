"""Nothing: the arm every remedy is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.interfaces import Example, Penalty, PenaltyContext

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class NoMitigation:
    """Train on the target rows alone."""

    @property
    def needs_anchor(self) -> bool:
        """No past is declared."""
        return False

    def anchor_rows(self, target_rows: int) -> int:
        """Draw none."""
        return 0

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        """Return the steps as they are."""
        return [list(step) for step in steps]

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Add nothing to the loss."""
        return None
