"""Curves of forgetting and learning against volume, with fitted laws."""

from __future__ import annotations

from harness.report import figures
from harness.report.content import Section
from harness.report.evidence import Evidence
from harness.report.sections import fits


def forgetting(evidence: Evidence) -> Section | None:
    """Return the curves of the probes with their fitted laws, and the table of fits."""
    view = figures.against_volume(
        "forgetting",
        evidence.drawn,
        evidence.probes,
        "delta",
        table=evidence.table,
        fits=fits.by_cell(evidence),
        title="Change on probes",
    )
    if view is None:
        return None
    directions = {panel.higher_is_better for panel in evidence.probes}
    mixed = "Lower is worse; for losses (marked), higher is worse"
    direction = mixed if len(directions) > 1 else "Lower is worse" if directions == {True} else "Higher is worse"
    return Section(
        id="forgetting",
        title="What was forgotten",
        intro=f"{direction}. Each panel is one task or a suite (the mean of its tasks with equal weight).",
        figures=[view],
        notes=[text] if (text := fits.not_drawn(evidence)) else [],
    )


def learning(evidence: Evidence) -> Section | None:
    """Return the curves of the targets."""
    view = figures.against_volume("learning", evidence.drawn, evidence.targets, "after", table=evidence.table, title="Value on targets")
    return None if view is None else Section(id="learning", title="What was learned", figures=[view])


def laws(evidence: Evidence) -> Section | None:
    """Return the laws of forgetting fitted to the points."""
    table = fits.table(evidence)
    return None if table is None else Section(id="laws", title="Laws of forgetting", tables=[table])
