"""Pages of stages, of methods that did not act, and of very many methods."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from harness.analysis.findings.findings import findings
from harness.analysis.findings.frontier import frontier
from harness.analysis.table.changes import Changes
from harness.analysis.table.frame import table
from harness.records.schema import Declared
from harness.records.writer import ExperimentWriter
from harness.report import evidence, page
from harness.report.methods import MAX_METHODS, methods
from harness.report.sections import costs
from harness.report.sections import equal_gain as equal_gain_section
from harness.report.sections.missing import main_warnings
from tests.support.experiments import COMMAND_LABELS, Task, config_of, flipped, share, write_run
from tests.support.grids import ROLES, Page, grid

STAGES = ["people", "skill"]
ONES = {0: (4, 8, 36), 8: (32, 12, 30), 16: (20, 36, 20)}
"""Volume → right items of 40 on people, skill and the probe: before, after the first and after
the second stage."""


def staged(folder: Path, seeds: int = 3) -> ExperimentWriter:
    """Two stages of 8 rows; seed s has s more people items right afterwards."""
    found = ExperimentWriter(folder / "e")
    labels = {"data": "sequence[stages=people>skill]"}
    roles = {"people": "target", "skill": "target", "old": "probe"}
    for seed in range(seeds):

        def tasks(volume: int, more: int = 0) -> list[Task]:
            counts = zip([*STAGES, "old"], ONES[volume], strict=True)
            return [Task(suite=name, task=f"t{name}", values=share(n + (more if name == "people" else 0), 40)) for name, n in counts]

        config = config_of(COMMAND_LABELS | labels, roles, seed) | {"data": {"stages": STAGES, "stage_rows": [8]}}
        points = {8: tasks(8), 16: tasks(16, seed)}
        write_run(found, f"r{seed}", before=tasks(0), points=points, roles=roles, labels=labels, seed=seed, config=config)
    return found


def test_stages_are_a_matrix_and_its_metrics(tmp_path: Path) -> None:
    """Rows are stages, columns suites, probes last.

    Fields below the diagonal show the loss since the stage; metrics are named by convention.
    """
    found = staged(tmp_path)
    text = page.write(found).read_text(encoding="utf-8")
    rows = Page(text).rows("stages_matrix")
    assert list(rows[0]) == ["stage", "people", "skill", "old (probe)"]
    shown = [[value.lstrip("▼▲=? ") for value in row.values()] for row in rows]
    assert shown == [
        ["before any stage", "10.0", "20.0", "90.0"],
        ["after people", "80.0", "30.0", "75.0"],
        ["after skill", "52.5", "90.0", "50.0"],
    ]
    assert all(f"({change})" in Page(text).text for change in ("−15.0", "−27.5", "−40.0"))
    measured = Page(text).rows("stages")[0]
    assert measured["bwt_tminus1"].startswith("−27.5 [")
    assert measured["forget_max_excl_last"].startswith("+27.5 [")
    assert measured["fg_over_stages"].startswith("+34.4 [")  # 27.5 of 80
    with (found.folder / "report" / "stages.csv").open() as file:
        written = list(csv.DictReader(file))
    assert {row["measure"] for row in written} >= {"R", "acc", "bwt_tminus1", "forget_first_minus_last"}


def test_a_page_without_stages_has_no_such_section(tmp_path: Path) -> None:
    """Nor its files."""
    found = grid(tmp_path / "g")
    text = page.write(found).read_text(encoding="utf-8")
    assert 'id="stages"' not in text
    assert not (found.folder / "report" / "stages.csv").exists()


def mitigated(folder: Path, acceptance: tuple[float, ...]) -> ExperimentWriter:
    """No mitigation, and sdft, which gains as much and forgets less."""
    found = ExperimentWriter(folder / "e")
    before = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(36, 40))]
    for mitigation, lost in {"none": 20, "sdft": 5}.items():
        for seed, accepted in enumerate(acceptance):
            after = [
                Task(suite="new", task="n", values=flipped(share(2, 40), lost=0, gained=20)),
                Task(suite="old", task="o", values=flipped(share(36, 40), lost=lost + seed, gained=0)),
            ]
            writing: dict[str, Any] = {"acceptance": accepted, "edit_rate": 0.5, "target_nats": 1.5} if mitigation == "sdft" else {}
            run: dict[str, Any] = {"labels": {"mitigation": mitigation}, "seed": seed, "writing": writing}
            write_run(found, f"{mitigation}{seed}", before=before, points={8: after}, roles=ROLES, **run)
    found.write_manifest({run_id: {"declared": {"headline": "old"}} for run_id in found.run_ids()}, keep=False)
    return found


@pytest.mark.parametrize(("acceptance", "acted"), [((0.1, 0.15, 0.32), False), ((0.1, 0.2, 0.3), True)])
def test_an_arm_that_accepted_too_little_is_shown_and_not_ranked(tmp_path: Path, acceptance: tuple[float, ...], *, acted: bool) -> None:
    """With a mean acceptance of 19% it did not act, with 20% it did.

    All parts of the page mark it; its verdict is next to the mark.
    """
    experiment = mitigated(tmp_path, acceptance)
    rows = table(experiment)
    found = findings(rows, Changes(experiment), Declared(headline="old"))
    marked = found.drop_duplicates("cell").set_index("mitigation")["acted"]
    assert (marked["sdft"], bool(marked.isna()["none"])) == (acted, True)
    assert rows[rows["run_id"] == "sdft0"]["acted"].iloc[0] == False  # noqa: E712 - of this run only
    best = frontier(found, Changes(experiment)).set_index("mitigation")["frontier"]
    assert (pd.isna(best["sdft"]), pd.isna(best["none"])) == (not acted, False)
    shown = Page(page.write(experiment).read_text(encoding="utf-8"))
    assert ("Did not act, so not ranked: tiny-a · full · sdft (19% accepted)." in shown.text) is not acted
    assert shown.text.count("did not act") == (0 if acted else 6)  # a sentence, the field, two findings, the point, the cost
    assert all("lost" in row["verdict"] for row in shown.rows("findings") if row["suite"].startswith("old"))
    assert [row["frontier"] == "did not act" for row in shown.rows("frontier")] == [False, not acted]
    assert [row["accepted"].removesuffix("did not act").strip() for row in shown.rows("costs")] == ["-", "20%" if acted else "19%"]
    assert ("sdft" in shown.tables) is False
    assert ", anchor tokens 0, anchor tokens with a loss 0, anchor's share of the loss 0%" in shown.text
    assert ("equal_gain" in shown.tables) is acted


@pytest.mark.parametrize(
    ("writing", "acceptance", "acted"),
    [
        ({"by": ["objective"], "rows": 40, "acceptance": 0.1}, 0.1, True),
        ({"by": ["objective"]}, None, None),
        ({"by": ["anchor"]}, 0.0, False),
        ({"by": ["anchor"], "acceptance": 0.9}, 0.9, True),
        ({"by": ["objective", "anchor"], "rows": 40, "acceptance": 0.1, "anchor_acceptance": 0.9}, 0.9, True),
        ({"by": ["objective", "anchor"], "rows": 40, "acceptance": 0.9, "anchor_acceptance": 0.1}, 0.1, False),
        ({"by": ["objective", "anchor"], "rows": 40, "acceptance": 0.9}, 0.0, False),
        ({"by": ["targets"], "rows": 40, "acceptance": 0.1}, 0.1, False),
        ({}, None, None),
    ],
)
def test_the_author_decides_whether_a_method_acted(
    tmp_path: Path, writing: dict[str, Any], acceptance: float | None, acted: bool | None
) -> None:
    """An objective is trained on its own texts; a rehearsal without rows did not act.

    If both wrote, the rehearsal counts: it is the mitigation.
    """
    found = ExperimentWriter(tmp_path / "e")
    tasks = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(36, 40))]
    for seed in range(2):
        write_run(found, f"r{seed}", before=tasks, points={8: tasks}, roles=ROLES, seed=seed, writing=writing)
    rows = table(found)
    cells = findings(rows, Changes(found), Declared(headline="old"))
    for frame in (rows, cells):
        values = frame[["acceptance", "acted"]].iloc[0].astype(object).to_list()
        assert [None if pd.isna(value) else value for value in values] == [acceptance, acted]


@pytest.mark.parametrize(("last", "named"), [("same", True), ("other", False)])
def test_methods_that_trained_on_identical_texts_are_named(tmp_path: Path, last: str, *, named: bool) -> None:
    """Two mitigations wrote the same rows in the first seed; in the second only if named.

    A run without generated rows has no hash, and neither has no mitigation.
    """
    found = ExperimentWriter(tmp_path / "e")
    tasks = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(36, 40))]
    for mitigation in ("none", "l2", "sdft", "minimum_change"):
        for seed in range(2):
            run_id = f"{mitigation}{seed}"
            write_run(found, run_id, before=tasks, points={8: tasks}, roles=ROLES, seed=seed, labels={"mitigation": mitigation})
            if mitigation in {"sdft", "minimum_change"}:
                found.write_written(run_id, {"8": last if (mitigation, seed) == ("sdft", 1) else "same"})
    told = [text for text in main_warnings(evidence.measured(found)) if text.startswith("Trained on identical texts")]
    names = "tiny-a · full · minimum_change, tiny-a · full · sdft"
    assert told == ([f"Trained on identical texts, so their differences are not those of methods: {names}."] if named else [])


def test_derived_runs_do_not_add_training_costs(tmp_path: Path) -> None:
    """Two trainings, and three runs derived from the first."""
    found = ExperimentWriter(tmp_path / "e")
    tasks = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(36, 40))]
    for run_id in ("0" * 12, "1" * 12, *(f"{'0' * 12}-{name}" for name in ("0.2", "0.5", "1"))):
        write_run(found, run_id, before=tasks, points={8: tasks}, roles=ROLES, labels={"mitigation": run_id})
    whole = evidence.Evidence(experiment=found, table=table(found), declared=Declared(), findings=pd.DataFrame())
    assert costs._total(whole).startswith("Training all 2 runs took ")


def test_many_methods_are_all_drawn_and_each_is_compared_with_none(tmp_path: Path) -> None:
    """Ten mitigations on two tunings: one panel per tuning, one mark per mitigation, none first.

    There are 19 comparisons, named with their tuning.
    """
    mitigations = ("none", "ewc", "kl", "l2", "replay", "sdft", *(f"merge[coefficient=0.{i}]" for i in (2, 4, 6, 8)))
    experiment = grid(tmp_path / "g", tunings=("full", "lora"), mitigations=mitigations, seeds=1)
    every = evidence.gather(experiment).every
    found = methods(every)
    assert [(panel.subtitle, len(panel.every)) for panel in found.panels] == [("full", 10), ("lora", 10)]
    assert found.left_out == ""
    assert [mark.label for mark in found.legend][:3] == ["no mitigation", "ewc", "kl"]
    assert len({(mark.colour, mark.marker) for mark in found.legend}) == 10
    shown = Page(page.write(experiment).read_text(encoding="utf-8"))
    pairs = {row["first − second"] for row in shown.rows("equal_gain")}
    assert len(pairs) == 19
    assert {"no mitigation: full − lora", "lora: none − kl", "full: none − merge[coefficient=0.4]"} <= pairs
    assert "methods are drawn; all are in findings.csv" not in shown.text


def test_the_best_of_several_rates_is_not_named_by_one_of_them() -> None:
    """The tuning of two plain cells and one with kl is shared; the rate of one of them is not."""
    names = {"a": "full · no mitigation · rate 1", "b": "full · no mitigation · rate 2", "c": "full · kl · rate 1"}
    shown: Any = SimpleNamespace(by_cell={cell: SimpleNamespace(style_name=name) for cell, name in names.items()})
    pairs = [("a,b", "c", "full"), ("a", "c", "full · rate 1"), ("a,b", "a,b", "full · no mitigation")]
    for first, second, shared in pairs:
        assert equal_gain_section._within(shown, pd.Series({"first_cell": first, "second_cell": second})) == shared


@pytest.mark.parametrize(
    ("first", "verdict", "words"),
    [
        ("mitigation=none, best of 3 rates", "first forgets more", "better than no mitigation at any rate tried"),
        ("mitigation=none, best of 2 of 3 rates", "first forgets more", "better than no mitigation at 2 of 3 settings tried"),
        (
            "mitigation=none, best of 6 rates and numbers of epochs",
            "first forgets more",
            "better than no mitigation at any rate or number of epochs tried",
        ),
        (
            "mitigation=none, best of 7 settings",
            "first forgets more",
            "better than no mitigation at any rate, number of epochs or trajectory tried",
        ),
        ("mitigation=none, best of 3 rates", "second forgets more", "second forgets more"),
        ("mitigation=none", "first forgets more", "first forgets more"),
    ],
)
def test_a_mitigation_is_better_than_every_rate_that_was_tried(first: str, verdict: str, words: str) -> None:
    """Only where no mitigation has several rates or numbers of epochs."""
    row = pd.Series({"first": first, "second": "mitigation=replay", "verdict": verdict, "varies": "seeds and items", "seeds": 3})
    assert equal_gain_section._verdict(row) == words
    row["varies"], row["seeds"] = "items", 1
    assert equal_gain_section._verdict(row) == f"{words} (these runs)"
    row["verdict"] = "not enough evidence"
    assert equal_gain_section._verdict(row) == "not enough evidence"


def test_methods_beyond_the_marks_are_counted(tmp_path: Path) -> None:
    """Twenty mitigations: those of the first marks are drawn, and their number is stated."""
    experiment = grid(tmp_path / "g", mitigations=("none", *(f"m{i:02}" for i in range(19))), volumes=(8,))
    found = methods(evidence.gather(experiment).every)
    assert len(found.drawn) == MAX_METHODS
    assert found.left_out == f"{MAX_METHODS} of 20 methods are drawn; all are in findings.csv."
