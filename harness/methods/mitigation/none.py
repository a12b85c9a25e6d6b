"""No mitigation: the comparison for all others."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.methods import Mitigation


@dataclass(frozen=True, kw_only=True)
class NoMitigation(Mitigation):
    """Train on the target rows alone."""
