"""The first table of the page: a row for each method, and the comparison that it shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.records.writer import ExperimentWriter
from harness.report import answer, evidence
from harness.report.content import CellView
from harness.report.curves import Series
from harness.report.evidence import Evidence
from harness.report.sections import opening
from harness.report.summary import ABSOLUTE, FEW_VOLUMES, NO_GAIN, RATIOS, AtEqualGain, _costs, at_equal_gain, summary
from tests.support.experiments import Task, flipped, share, write_run

LOST = {("full", "none"): 6, ("full", "kl"): 2, ("lora", "none"): 11, ("lora", "kl"): 8}
"""Tuning and mitigation → items of 40 lost at each volume; LoRA with KL loses more than full."""

VOLUMES = {8: 3, 32: 6, 128: 9}
"""Volume → items of 40 gained, by all alike."""


def arms(folder: Path, volumes: dict[int, int], lost: dict[tuple[str, str], int]) -> Evidence:
    """Write three seeds of each arm, whose losses grow in proportion to their gains."""
    experiment = ExperimentWriter(folder)
    before = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(40, 40))]
    for (tuning, mitigation), most in lost.items():
        for seed in range(3):
            points = {
                volume: [
                    Task(suite="new", task="n", values=flipped(share(2, 40), lost=0, gained=gained)),
                    Task(suite="old", task="o", values=flipped(share(40, 40), lost=round(most * gained / 9) + (seed == 1), gained=0)),
                ]
                for volume, gained in volumes.items()
            }
            roles = {"new": "target", "old": "probe"}
            labels = {"model": "m", "tuning": tuning, "mitigation": mitigation}
            write_run(experiment, f"{tuning}{mitigation}{seed}", before=before, points=points, roles=roles, labels=labels, seed=seed)
    return evidence.gather(experiment)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return arms(tmp_path_factory.mktemp("arms") / "e", VOLUMES, LOST)


def by_name(found: Evidence) -> dict[str, AtEqualGain]:
    return {found.by_cell[cell].style_name: one for cell, one in at_equal_gain(found).items()}


def test_a_mitigation_is_compared_with_none_of_its_own_tuning(found: Evidence) -> None:
    """KL under LoRA loses 3 of 40 less than LoRA alone, though 2 more than full tuning."""
    compared = by_name(found)
    assert set(compared) == {"full · kl", "lora · kl"}
    assert all(one.is_plain and one.difference < 0 for one in compared.values())
    # Means over a tenth of the largest gain to all of it, of lines to (8 − 11) / 40, (2 − 6) / 40.
    assert compared["lora · kl"].difference == pytest.approx(-0.55 * 3 / 40, abs=0.01)
    assert compared["full · kl"].difference == pytest.approx(-0.55 * 4 / 40, abs=0.01)


def test_rows_and_sentence_follow_it(found: Evidence) -> None:
    """Those that lose least at equal gain come first, methods without a mitigation last."""
    made = summary(found)
    assert [row.name for row in made.rows] == ["full · kl", "lora · kl", "full · no mitigation", "lora · no mitigation"]
    (sentence,) = answer.at_equal_gain(found, made)
    assert "2 methods with a mitigation" in sentence


def test_gains_without_a_measured_volume_give_no_verdict(tmp_path: Path) -> None:
    """One volume: the whole range is a straight line from the start."""
    one = arms(tmp_path / "one", {8: 9}, LOST)
    assert {shown.verdict for shown in by_name(one).values()} == {FEW_VOLUMES}
    assert answer.at_equal_gain(one, summary(one)) == []


def test_a_method_that_does_not_gain_is_not_compared(tmp_path: Path) -> None:
    """One item of 40 is no gain."""
    none = arms(tmp_path / "none", {8: 0, 32: 1}, LOST)
    assert {shown.verdict for shown in by_name(none).values()} == {NO_GAIN}


def test_two_tunings_without_mitigations_are_compared_with_each_other(tmp_path: Path) -> None:
    """The second with the first, which has no entry."""
    plain = {arm: lost for arm, lost in LOST.items() if arm[1] == "none"}
    two = arms(tmp_path / "two", VOLUMES, plain)
    (compared,) = by_name(two).values()
    assert (compared.method, compared.reference, compared.is_plain) == ("lora", "full", False)
    assert compared.difference > 0
    made = summary(two)
    said = {}
    for verdict in ("better", "worse", "alike", "not enough evidence"):
        rows = [dataclasses.replace(row, equal=row.equal and dataclasses.replace(row.equal, verdict=verdict)) for row in made.rows]
        (said[verdict],) = answer.at_equal_gain(two, dataclasses.replace(made, rows=rows))
    starts = {
        "better": "lora forgot less of old than full: ",
        "worse": "lora forgot more of old than full: ",
        "alike": "lora forgot as much of old as full: ",
        "not enough evidence": "lora is not known to have forgotten less or more of old than full: ",
    }
    assert all(said[verdict].startswith(f"At equal gain, {start}") for verdict, start in starts.items())


def spent(mitigation: str, seconds: float, tokens: int, **more: Any) -> Series:
    """Return a method that has learned 128 rows at this cost."""
    labels = {"model": "m", "tuning": "full", "objective": "sft", "data": "d", "mitigation": mitigation}
    values = {"cell": mitigation, "volume": 128, "wall_seconds": seconds, "train_tokens": tokens, "generated_tokens": None} | more
    rows = pd.DataFrame([values])
    return Series("c", "m", mitigation, "", "", "", is_control=False, control="", labels=labels, found=rows, places=np.array([0]))


def test_the_costs_of_a_table_are_all_ratios_or_all_amounts() -> None:
    """Three passes of none, and KL at twice the time, next to one pass; without it no ratio."""
    one, three = spent("none", 10.0, 1000), spent("none", 30.0, 3000)
    kl, own = spent("kl", 20.0, 1020), spent("own", 11.0, 1100, generated_tokens=2000)
    assert _costs([three, one, kl, own]) == (
        RATIOS,
        ["3.0 × time, 3.0 × tokens", "no more", "2.0 × time", "1.1 × tokens, 2,000 tokens generated"],
    )
    assert _costs([kl, own]) == (ABSOLUTE, ["20 s, 1,020 tokens", "11 s, 1,100 tokens, 2,000 tokens generated"])
    assert _costs([one, three]) == (ABSOLUTE, ["10 s, 1,000 tokens", "30 s, 3,000 tokens"])
    assert _costs([one, spent("kl", 20.0, 1020, volume=64)])[0] == ABSOLUTE


def test_answer_and_table_give_a_loss_the_same_sign(found: Evidence) -> None:
    """LoRA alone lost 11 items of 40, one more in one of three seeds: 28.3 points."""
    answer_text = " ".join(opening.opening(found, []).headline)
    assert "losses from 28.3 points (m tuned with LoRA) to 5.8 (m tuned in full (kl))." in answer_text
    (table,) = opening.opening(found, []).sections[0].tables
    shown = {str(row[0].text if isinstance(row[0], CellView) else row[0]): row[2] for row in table.rows}
    assert str(getattr(shown["lora · no mitigation"], "text", "")).startswith("+28 [")
