"""The sections of an experiment's page, one file each: evidence in, a section out."""

from __future__ import annotations

from harness.report.content import Content
from harness.report.evidence import Evidence
from harness.report.sections import (
    controls,
    costs,
    dots,
    equal_gain,
    findings,
    glossary,
    heat,
    items,
    learning,
    metrics,
    missing,
    opening,
    rates,
    reproduce,
    shares,
    stages,
    tradeoff,
    trajectories,
)


def build(evidence: Evidence) -> Content:
    """Return the page of an experiment: the answer, then its evidence, then how to reproduce it."""
    parts = [
        rates.rates(evidence),
        shares.shares(evidence),
        dots.dots(evidence),
        tradeoff.frontier(evidence),
        equal_gain.equal_gain(evidence),
        learning.forgetting(evidence),
        learning.learning(evidence),
        stages.stages(evidence),
        heat.heat(evidence),
        items.items(evidence),
        costs.costs(evidence),
        controls.checks(evidence),
        trajectories.trajectories(evidence),
        learning.laws(evidence),
        missing.missing(evidence),
        missing.warnings(evidence),
        findings.findings(evidence),
        metrics.metrics(evidence),
        metrics.divergence(evidence),
        reproduce.overlap(evidence),
        glossary.glossary(evidence),
        reproduce.reproduce(evidence),
    ]
    return opening.opening(evidence, [part for part in parts if part is not None and not part.is_empty])
