"""Early stop: of the volumes so far, the one that did best on what is being learned."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.methods import Mitigation


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Mitigation):
    """At each volume the run stands for the volume so far whose weights are best on the target suites' ``select`` items.

    A control: it shows what stopping in time alone would have kept. Best is the mean over the
    target suites of their primary metric, turned so that higher is better; a tie goes to the
    earlier volume. The model before training is no candidate. Training goes on all the same, so
    that what a point cost is the cost of the rows it has seen; its scores, and the size of its
    weight change, are those of the volume that was chosen. The choice depends on which volumes were
    looked at: with others it is another run.

    Reference: Prechelt 1998, Early stopping, but when? (validation error, best so far). Differs:
    looks at the volumes of the run alone, with no patience, and training is not ended. Checked
    against: fabricated scores.
    """

    @property
    def keeps_best(self) -> bool:
        """It does."""
        return True
