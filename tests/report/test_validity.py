"""An experiment of two models, one of them at a learning rate that is too high."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.analysis.findings.frontier import frontier
from harness.analysis.table.changes import Changes
from harness.report import evidence, html, page
from harness.report.content import CellView
from harness.report.evidence import Evidence
from harness.report.overview import overview
from harness.report.sections import controls, missing, opening
from tests.support.grids import Page, grid


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The controls of m1 lose 8 of 40, those of m0 2."""
    folder = tmp_path_factory.mktemp("rates") / "g"
    return evidence.gather(grid(folder, models=2, tunings=("full", "lora"), seeds=3, volumes=(32, 128), controls=True, high_rates=("m1",)))


@pytest.fixture(scope="module")
def read(found: Evidence) -> Page:
    return Page(html.render(page.content(found.experiment)))


SENTENCE = (
    "The learning rate is too high for 2 of 4 methods (m1 · full, m1 · lora): their same-data controls lost more than the margin, up to"
    " 20.0 points of old."
)
NOT_SETTLED = (
    "Whether the learning rate is too high is not settled for 2 of 4 methods (m0 · full, m0 · lora): intervals of their same-data controls"
    " reach beyond the margin."
)


def test_page_and_terminal_say_it_first(found: Evidence, read: Page) -> None:
    """What is not settled follows, in both."""
    top = opening.opening(found, [])
    lead = top.headline
    assert lead[0] == f"{SENTENCE} What they forget is in part the price of that rate: they are not ranked, fitted, compared or counted."
    assert NOT_SETTLED in top.notes
    assert SENTENCE in read.text
    lines = overview(found).splitlines()
    assert lines[0] == lead[0]
    assert NOT_SETTLED in lines
    assert "rate too high" in next(line for line in lines if line.startswith("m1 · full"))
    assert missing.warnings(found).notes[0] == lead[0]


def test_counts_are_without_them(found: Evidence) -> None:
    """In the lead, of methods and of contrasts with the control."""
    lead = opening.opening(found, []).headline
    assert any("both methods lost on old" in text for text in lead)
    assert controls.sentence(found, "old").endswith("all 2 methods are worse.")


def test_they_have_no_verdict_that_invites_a_comparison(found: Evidence, read: Page) -> None:
    """Badges, tables and captions say that instead, and no contrast is called worse."""
    (table,) = opening.opening(found, []).sections[0].tables
    first, second = ([cell for cell in table.rows[place] if isinstance(cell, CellView)] for place in (0, 2))
    assert [(cells[0].note, cells[2].kind) for cells in (first, second)] == [("", "lost"), ("rate too high", "")]
    verdicts = {row["method"]: row["verdict"] for row in read.rows("findings") if row["suite"].startswith("old")}
    assert (verdicts["m0 · full"], verdicts["m1 · full"]) == ("lost", "rate too high")
    assert "worse" not in next(line for line in overview(found).splitlines() if line.startswith("m1 · full"))
    captions = [figure.caption for section in page.content(found.experiment).sections for figure in section.figures]
    assert any("Where the learning rate is too high, nothing follows for others: m1 · full" in text for text in captions)


def test_they_are_not_ranked_fitted_or_compared(found: Evidence, read: Page) -> None:
    """Frontier, laws and equal gain have the other model alone."""
    assert {row["method"]: row["frontier"] for row in read.rows("frontier")}["m1 · full"] == "rate too high"
    assert set(found.equal_gain["model"]) == {"m0"}
    assert not any("m1" in {*one.points["model"]} for one in found.fitted)


def test_all_controls_are_listed(read: Page) -> None:
    """The worst first, with the change that decides."""
    rows = read.rows("control_check")
    assert [(row["method"], row["check"]) for row in rows] == [
        ("m1 · full", "rate too high"),
        ("m1 · lora", "rate too high"),
        ("m0 · full", "not settled"),
        ("m0 · lora", "not settled"),
    ]
    assert rows[0]["change"].startswith("−20.0 [")


def test_an_experiment_on_rates_ranks_them(found: Evidence) -> None:
    """It declares any_rate; the sentence stays."""
    asked = dataclasses.replace(found, declared=dataclasses.replace(found.declared, any_rate=True))
    lead = opening.opening(asked, []).headline
    assert lead[0].startswith(SENTENCE)
    assert lead[0].endswith("They are ranked, fitted and compared all the same, as the experiment declares (any_rate).")
    assert any("all 4 methods lost on old" in text for text in lead)
    assert frontier(found.findings, Changes(found.experiment), any_rate=True)["frontier"].notna().all()


def test_a_page_is_written_where_every_rate_is_too_high(tmp_path: Path) -> None:
    """It says so first, and ranks, fits and compares nothing."""
    found = evidence.gather(grid(tmp_path / "g", tunings=("full",), seeds=3, volumes=(32, 128), controls=True, high_rates=("m0",)))
    assert found.frontier["frontier"].isna().all()
    content = opening.opening(found, [])
    assert content.headline[0].startswith("The learning rate is too high for")
    assert "The learning rate is too high" in html.render(page.content(found.experiment))
