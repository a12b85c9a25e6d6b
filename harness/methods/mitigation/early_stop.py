"""Early stopping: each volume reports the best volume so far."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.methods import Mitigation


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Mitigation):
    """Early stopping on the ``select`` items of the target suites.

    Each volume reports the weights of the best volume so far. A control: it shows how much stopping
    in time alone would have kept. Best is the mean over the target suites of their primary metric,
    oriented so that higher is better; a tie goes to the earlier volume. The model before training
    is no candidate. Training continues, so a point costs the rows that it has seen; its scores and
    the size of its weight change are those of the chosen volume. The choice depends on the volumes
    of the run: with others it is another run.

    Reference: Prechelt 1998, Early stopping, but when? (validation error, best so far). Differs
    from the paper: candidates are the volumes of the run, without patience, and training does not
    end. Checked against: fabricated scores.
    """

    @property
    def keeps_best(self) -> bool:
        """Always."""
        return True
