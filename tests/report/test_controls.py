"""An experiment with same-data controls and a cell of independent trajectories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.analysis.table.frame import table
from harness.report import evidence, figures, html, page, tables, words
from harness.report.evidence import Evidence
from harness.report.overview import overview
from harness.report.sections import controls, missing, opening
from harness.report.tables import Panel
from harness.report.untuned import untuned
from tests.support.grids import Page, grid

SHARE = Panel("s", "*", "s", "probe", "acc", "none", higher_is_better=True, unit=tables.unit_of("acc", share=True))
NATS = Panel("s", "*", "s", "probe", "nats_per_token", "none", higher_is_better=False, unit=tables.unit_of("nats_per_token", share=False))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Three sizes, two tunings, a control each, and m0 in full with independent trajectories."""
    folder = tmp_path_factory.mktemp("controls") / "g"
    return evidence.gather(grid(folder, models=3, tunings=("full", "lora"), seeds=3, controls=True, independent=True))


@pytest.fixture(scope="module")
def read(found: Evidence) -> Page:
    return Page(html.render(page.content(found.experiment)))


def test_controls_make_no_label_longer(found: Evidence) -> None:
    """Their data and objective are in no name.

    An independent trajectory is named, and its cell comes after the shared ones.
    """
    names = [one.style_name for one in found.every]
    assert names == ["full"] * 3 + ["lora"] * 3 + ["full · independent"] + ["full · control"] * 3 + ["lora · control"] * 3
    full_name = {one.short: one.name for one in found.every}
    assert full_name["m1 · full"] == "m1 tuned in full"
    assert full_name["m0 · full · independent"] == "m0 tuned in full, independent trajectories"
    assert full_name["m2 · lora · control"] == "m2 tuned with LoRA, same-data control"


def test_controls_are_grey_lines_in_the_panels_of_their_methods(found: Evidence) -> None:
    """One panel per tuning with three grey lines each, which end at -3 of 40.

    The independent cell is drawn in its own section only.
    """
    view = figures.against_volume("forgetting", found.drawn, found.probes, "delta", title="t")
    assert view is not None
    assert [axes.get_title("left") for axes in view.figure.axes] == ["old\nfull", "old\nlora"]
    for axes in view.figure.axes:
        grey = [line for line in axes.lines if line.get_gid() == "control"]
        assert [float(np.asarray(line.get_ydata())[-1]) for line in grey] == pytest.approx([-7.5] * 3)
    labels = [mark.label for mark in view.legend]
    assert labels.count("same-data control") == 1
    assert not [label for label in labels if "independent" in label or "sft" in label]


def test_the_headline_states_the_loss_of_controls(found: Evidence) -> None:
    """All controls lost 7.5, and all methods 25 more.

    With one method undecided and three near the level, Holm over 6 leaves 3 · 0.004 and drops 0.02.
    """
    text = controls.sentence(found, "old")
    assert "(more training on data that the model already knew: data base) lost 7.5 points of old (6 controls)." in text
    assert "by their difference at the same volume on the same items, all 6 methods are worse." in text
    assert text.endswith("1 method has no control.")
    mixed = found.findings.copy()
    of_suite = (mixed["suite"] == "old") & (mixed["task"] == "*") & (mixed["volume"] == 128)
    at = mixed.index[of_suite & mixed["contrast_p"].notna()]
    mixed.loc[at, "contrast_p"] = [0.001, 0.004, 0.004, 0.02, 0.02, 0.5]
    mixed.loc[at[-1], "contrast_verdict"] = "not enough evidence"
    text = controls.sentence(dataclasses.replace(found, findings=mixed), "old")
    assert "of 6 methods 3 worse, 3 undecided (tests adjusted for 6 methods, Holm)." in text


def test_counts_that_adjustment_takes_away_are_explained(found: Evidence) -> None:
    """Five tests of 0.03 do not bear Holm over six: all are undecided, though five read "lost"."""
    frame = found.findings.copy()
    of_suite = (frame["suite"] == "old") & (frame["task"] == "*") & (frame["volume"] == 128)
    at = frame.index[of_suite & frame["contrast_p"].notna()]
    frame.loc[at, "contrast_p"] = [0.03] * 5 + [0.2]
    frame.loc[at[-1], "contrast_verdict"] = "not enough evidence"
    methods = frame.index[of_suite & ~frame["is_control"].fillna(value=False)]
    frame.loc[methods, "p_value"] = 0.03
    frame.loc[methods[-1], "verdict"] = "not enough evidence"
    one = dataclasses.replace(found, findings=frame)
    assert "all 6 methods are undecided (tests adjusted for 6 methods, Holm)." in controls.sentence(one, "old")
    assert "all 7 methods are undecided on old" in " ".join(opening.opening(one, []).headline)
    assert "(tests adjusted for 7 methods, Holm): losses from" in " ".join(opening.opening(one, []).headline)


def test_a_method_that_did_not_act_is_not_counted(found: Evidence) -> None:
    """Its numbers are no result of the method, so it is in no count of methods."""
    one = dataclasses.replace(found)
    one.__dict__["idle"] = {next(one.cell for one in found.every if one.short == "m1 · lora"): 0.1}
    assert "all 5 methods are worse." in controls.sentence(one, "old")
    assert "all 6 methods lost on old" in " ".join(opening.opening(one, []).headline)


def test_contrasts_of_few_seeds_hold_for_these_runs(tmp_path: Path) -> None:
    """On the page, in the terminal and in the sentence that counts."""
    one = evidence.gather(grid(tmp_path / "g", models=2, controls=True))
    assert controls.sentence(one, "old").endswith("all 2 methods are worse in these runs.")
    assert overview(one).splitlines()[2].endswith("] worse (this run)")


def test_without_controls_they_are_not_mentioned(tmp_path: Path) -> None:
    """No sentence, no line, no group."""
    plain = evidence.gather(grid(tmp_path / "g"))
    assert controls.sentence(plain, "old") == ""
    assert [one.style_name for one in plain.every] == ["full"]


def test_an_untuned_control_is_no_untuned_method(found: Evidence, read: Page) -> None:
    """Controls use their method's rate: page and summary warn only if none is declared."""
    tidy = table(found.experiment)
    assert untuned(tidy, {"data": "base"}) == (0, 0, 21)
    assert untuned(tidy, {}) == (18, 0, 39)
    assert "not tuned" not in read.text
    assert "not tuned" not in tables.summary(tidy, {"data": "base"})
    assert "learning rate not tuned" in tables.summary(tidy)


def test_tables_separate_controls_and_pairs(found: Evidence, read: Page) -> None:
    """The heat map has controls last.

    Trajectories show suites only, the headline first; headings of groups are not rows.
    """
    assert [row["method"] for row in read.rows("heat")] == [one.short for one in found.every]
    rows = read.rows("trajectories")
    assert [row["suite"].split(",")[0] for row in rows] == ["old (headline)"] * 3 + ["new"] * 3
    assert "Same-data controls" in read.text
    assert "m0 · full · independent" in [row["method"] for row in read.rows("findings")]
    contrasts = {row["method"]: row["against control"] for row in read.rows("findings") if row["suite"].startswith("old")}
    assert contrasts["m0 · full"].startswith("−25.0 [")
    assert contrasts["m0 · full"].endswith("] worse")
    assert contrasts["m0 · full · independent"] == contrasts["m0 · full · control"] == "not measured"


def test_no_name_mentions_a_constant_label(read: Page) -> None:
    """Neither the objective nor the word trajectory is in any method's name."""
    for name in ["findings", "frontier", "costs"]:
        assert not [row for row in read.rows(name) if "sft" in row["method"] or "trajectory" in row["method"]]


def test_bars_of_shares_end_where_a_share_ends() -> None:
    """From 0.9, a share can fall by 0.9 and rise by 0.1; from 1 nat, nats fall by at most 1.

    Missing values stay missing; a metric of unknown limits is not cut.
    """
    low, high = figures.possible([-1.2, -0.3, pd.NA], [0.3, 0.05, pd.NA], [0.9, 0.9, 0.9], SHARE)
    assert low.tolist()[:2] == pytest.approx([-0.9, -0.3])
    assert high.tolist()[:2] == pytest.approx([0.1, 0.05])
    assert np.isnan([low[2], high[2]]).all()
    assert figures.is_cut([-1.2], [0.0], [0.9], SHARE)
    assert not figures.is_cut([-0.9], [0.1], [0.9], SHARE)
    assert [end.tolist() for end in figures.possible([-4.0], [2.0], [1.0], NATS)] == [[-1.0], [2.0]]
    assert tables.possible_ends(-4.0, 2.0, 1.0, tables.unit_of("mystery", share=False)) == (-4.0, 2.0)


def test_every_text_of_an_interval_is_cut() -> None:
    """Changes, losses (−1 times a change), differences and contrasts of shares, and of nats."""
    row: dict[str, Any] = {
        "delta": -0.8,
        "delta_low": -1.2,
        "delta_high": -0.3,
        "before": 0.9,
        "contrast": -0.7,
        "contrast_low": -1.4,
        "contrast_high": 0.1,
    }
    row |= {"loss": 0.8, "loss_low": 0.3, "loss_high": 1.2}
    assert words.change(row, SHARE.unit) == "−80.0 [−90.0,\u00a0−30.0]"
    row |= {"contrast_verdict": "worse", "varies": "seeds and items", "contrast_varies": "seeds and items", "seeds": 3}
    assert words.contrast(row, SHARE.unit) == "−70.0 [−100.0,\u00a0+10.0] worse"
    assert words.contrast(row | {"contrast_varies": "items"}, SHARE.unit).endswith(" worse (these runs)")
    assert words.with_ends(row, "loss", SHARE.unit, before=0.9, turned=-1.0) == "80.0 [30.0,\u00a090.0]"
    assert words.change(row, NATS.unit) == "−0.800 [−0.900,\u00a0−0.300]"
    assert words.contrast(row, NATS.unit) == "−0.700 [−1.400,\u00a0+0.100] worse"


def test_the_overlap_of_controls_has_a_warning_of_its_own(found: Evidence) -> None:
    """Items that occur only in the rows of controls do not contaminate the other methods."""
    labels = {one.cell: one.is_control for one in found.every}
    cell_of = {run: row["cell"] for _, row in found.findings.iterrows() for run in str(row["run_ids"]).split(",")}
    some, none = {"exact": 1}, {"exact": 0}
    apart = dataclasses.replace(found)
    apart.__dict__["records"] = {
        run: {**record, "overlap": {"old": some if labels[cell_of[run]] else none, "both": some}} for run, record in found.records.items()
    }
    notes = [note for note in missing.warnings(apart).notes if note.startswith("Evaluation items")]
    assert notes == [
        "Evaluation items occur in the training rows (see Overlap): both.",
        "Evaluation items occur in the rows of same-data controls only (see Overlap): old.",
    ]


def test_rows_and_items_that_do_not_count_are_noted(found: Evidence) -> None:
    """The most of any run, by data set; suites whose documents repeat; nothing where all count."""
    assert [note for note in missing.warnings(found).notes if note.startswith(("Rows of", "Documents"))] == []
    table = found.table.assign(repeated_items=found.table["suite"].map({"old": 5}).astype("Int64"))
    some = dataclasses.replace(found, table=table)
    facts = {"rows": 16, "left_out_rows": 7, "truncated_rows": 3, "repeated_rows": 0}
    some.__dict__["records"] = {
        run: {**record, "labels": {"data": "d"}, "data_facts": {**facts, "left_out_rows": 7 - number % 2}}
        for number, (run, record) in enumerate(found.records.items())
    }
    assert [note for note in missing.warnings(some).notes if note.startswith(("Rows of", "Documents"))] == [
        "Rows of data d, most in a run: 7 teach nothing and are left out, 3 are cut at training.max_length (every epoch).",
        "Documents that repeat another one are not asked: old 5.",
    ]
