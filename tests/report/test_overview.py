"""The short table at the end of a sweep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.analysis.findings.findings import findings
from harness.analysis.findings.frontier import frontier
from harness.analysis.table.changes import Changes
from harness.analysis.table.frame import table
from harness.records.writer import ExperimentWriter
from harness.report import evidence
from harness.report.overview import MAX_LINES, overview
from harness.report.sections import opening
from tests.support.experiments import Task, flipped, share, write_run
from tests.support.grids import grid


def shown(experiment: ExperimentWriter) -> list[str]:
    return overview(evidence.measured(experiment)).splitlines()


def test_a_line_for_each_method_at_its_largest_volume(tmp_path: Path) -> None:
    """Seeds are one line; the gain is 27 of 40, the loss 12 to 14 of 40, that of the control 3."""
    lines = shown(grid(tmp_path / "exp", models=2, tunings=("full", "lora"), seeds=3, controls=True))
    assert lines[0].split() == ["gain", "on", "new", "loss", "on", "old", *"loss beyond that of its control".split()]
    assert lines[1].split() == ["method", "rows", "points", "points", "verdict", "points"]
    names = [line.split("  ")[0] for line in lines[2:6]]
    assert names == ["m0 · full", "m0 · lora", "m1 · full", "m1 · lora"]  # by model
    cells = [cell.strip() for cell in lines[2].split("  ") if cell.strip()]
    assert cells[1] == "128"
    assert cells[2].startswith("67.5 [")
    assert cells[3].startswith("32.5 [")
    assert cells[4] == "lost"
    assert cells[5].startswith("25.0 [")
    assert cells[5].endswith("] worse")
    assert lines[6] == ""
    assert lines[7] == "Change from before training to the largest volume; 95% intervals over seeds and items, 3 seeds."


def test_without_findings_it_says_so(tmp_path: Path) -> None:
    """As after a sweep whose runs all failed."""
    experiment = ExperimentWriter(tmp_path / "exp")
    write_run(experiment, "a", before=[], points={}, roles={}, finished=False, failure="TrainingError: nan")
    assert shown(experiment)[0] == "No change is measured yet."


def test_many_methods_are_cut(tmp_path: Path) -> None:
    """With the number of the others."""
    names = tuple(f"mitigation{number}" for number in range(MAX_LINES + 2))
    lines = shown(grid(tmp_path / "exp", mitigations=names, volumes=(8,)))
    assert lines[MAX_LINES + 2] == "2 more methods are in the report."


def several(tmp_path: Path, headline: str | None) -> ExperimentWriter:
    """Write a run with two probe suites, of which the second is a loss in nats."""
    experiment = ExperimentWriter(tmp_path / "exp")
    before = [
        Task(suite="new", task="n", values=share(2, 40)),
        Task(suite="old", task="o", values=share(36, 40)),
        Task(suite="text", task="t", values=[1.0, 2.0] * 20, metric="nats_per_token", higher_is_better=False, chance=None),
    ]
    after = [
        Task(suite="new", task="n", values=flipped(share(2, 40), lost=0, gained=9)),
        Task(suite="old", task="o", values=flipped(share(36, 40), lost=0, gained=0)),
        Task(suite="text", task="t", values=[1.5, 2.25] * 20, metric="nats_per_token", higher_is_better=False, chance=None),
    ]
    roles = {"new": "target", "old": "probe", "text": "probe"}
    write_run(experiment, "a", before=before, points={8: after}, roles=roles)
    experiment.write_manifest({"a": {"declared": {"headline": headline}}}, keep=False)
    return experiment


def test_the_declared_headline_is_the_loss(tmp_path: Path) -> None:
    """Of a metric where less is better, more is a loss."""
    made = several(tmp_path, "text")
    lines = shown(made)
    assert opening.opening(evidence.measured(made), []).facts["margin"] == "±0.020 nats per token (2% of perplexity), ±2.0 points"
    assert "loss on text" in lines[0]
    assert "0.375 [" in lines[2]
    assert "lost" in lines[2]
    assert "Loss and verdict: text, the declared headline of 2 probe suites." in lines


def test_without_a_headline_the_first_suite_is_the_loss_and_it_says_so(tmp_path: Path) -> None:
    """The reader knows that nobody has chosen it."""
    lines = shown(several(tmp_path, None))
    assert "loss on old" in lines[0]
    assert "Loss and verdict: old, the first, since no headline is declared (so it is exploratory), of 2 probe suites." in lines


def test_the_gain_is_that_of_the_first_target_that_was_declared(tmp_path: Path) -> None:
    """Not of the first by name; a run that is added later does not change it."""
    experiment = ExperimentWriter(tmp_path / "exp")
    before, after = ([Task(suite=name, task=name, values=share(right, 40)) for name in ("a", "b", "old")] for right in (2, 9))
    write_run(experiment, "r", before=before, points={8: after}, roles={"a": "target", "b": "target", "old": "probe"})
    experiment.write_manifest({"r": {"target_suites": ["b", "a"]}}, keep=False)
    assert "gain on b" in shown(experiment)[0]
    experiment.write_manifest({"r": {"target_suites": ["a"]}}, keep=True)
    assert experiment.targets() == ("b", "a")
    declared = dataclasses.replace(experiment.declared(), headline="old")
    found = findings(table(experiment), Changes(experiment), declared)
    assert set(frontier(found, Changes(experiment), targets=experiment.targets())["target_suite"]) == {"b"}
    assert set(frontier(found, Changes(experiment))["target_suite"]) == {"a"}


def test_targets_alone(tmp_path: Path) -> None:
    """Without a probe there is no loss; the verdict is that of the gain."""
    experiment = ExperimentWriter(tmp_path / "exp")
    before, after = Task(suite="new", task="n", values=share(2, 40)), Task(suite="new", task="n", values=share(38, 40))
    write_run(experiment, "a", before=[before], points={8: [after]}, roles={"new": "target"})
    lines = shown(experiment)
    assert "loss" not in lines[0]
    assert lines[2].endswith("gained (this run)")


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes no fits: a page does."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("computed for a page alone")

    monkeypatch.setattr("harness.analysis.fits.all_laws.every", fail)
