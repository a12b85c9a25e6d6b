"""The sections of an experiment's page, one file each: evidence in, a section out."""

from __future__ import annotations

from harness.report.content import Content
from harness.report.evidence import Evidence
from harness.report.sections import (
    controls,
    costs,
    equal_gain,
    findings,
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
    """Return the page of an experiment: findings, then their evidence, then how to reproduce it."""
    parts = [
        rates.rates(evidence),
        shares.shares(evidence),
        learning.forgetting(evidence),
        learning.learning(evidence),
        stages.stages(evidence),
        tradeoff.frontier(evidence),
        equal_gain.equal_gain(evidence),
        heat.heat(evidence),
        controls.checks(evidence),
        trajectories.trajectories(evidence),
        findings.findings(evidence),
        items.items(evidence),
        costs.costs(evidence),
        missing.missing(evidence),
        metrics.metrics(evidence),
        metrics.divergence(evidence),
        missing.warnings(evidence),
        reproduce.overlap(evidence),
        reproduce.reproduce(evidence),
    ]
    return opening.opening(evidence, [part for part in parts if part is not None and not part.is_empty])
