"""Tunings, objectives and mitigations, one file and one yaml each, and their shared parts."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.methods.judge import Judge as Judge
    from harness.methods.rewriting import Rehearsing as Rehearsing
    from harness.methods.rewriting import Rewriting as Rewriting

__getattr__ = exports(__name__)
