"""What was lost and what was learned, against the volume of data, with the laws fitted to it."""

from __future__ import annotations

from harness.report import figures
from harness.report.content import Section
from harness.report.evidence import Evidence
from harness.report.sections import fits


def forgetting(evidence: Evidence) -> Section | None:
    """Return the curves of what was known before, with the laws fitted to them."""
    view = figures.against_volume(
        "forgetting",
        evidence.drawn,
        evidence.probes,
        "delta",
        table=evidence.table,
        fits=fits.by_cell(evidence),
        title="Change on what the model knew before",
    )
    if view is None:
        return None
    table = fits.table(evidence)
    worse = sorted({panel.higher_is_better for panel in evidence.probes})
    direction = "Down is worse" if worse == [True] else "Up is worse" if worse == [False] else "Down is worse, but up where less is better"
    return Section(
        id="forgetting",
        title="What was forgotten",
        intro=f"{direction}. Each panel is a suite, the mean of its tasks with equal weight, or one task.",
        figures=[view],
        tables=[table] if table else [],
    )


def learning(evidence: Evidence) -> Section | None:
    """Return the curves of the targets."""
    view = figures.against_volume(
        "learning", evidence.drawn, evidence.targets, "after", table=evidence.table, title="Value on what is being learned"
    )
    return None if view is None else Section(id="learning", title="What was learned", figures=[view])
