"""No mitigation: the arm that every mitigation is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.methods import Mitigation


@dataclass(frozen=True, kw_only=True)
class NoMitigation(Mitigation):
    """Train on the target rows alone."""
