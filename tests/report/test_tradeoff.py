"""Learning against forgetting, next to every way to train without a mitigation."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from harness.records.writer import ExperimentWriter
from harness.report import evidence, labels, page
from harness.report.sections.tradeoff import frontier
from tests.support.experiments import Task, config_of, flipped, share, write_run
from tests.support.grids import ROLES, Page

VOLUMES = (8, 32)
LOST = {
    ("none", 0.001): (12, 4),
    ("none-rates", 0.0003): (8, 0),
    ("none-rates", 0.0005): (9, 0),
    ("none-passes", 0.0003): (2, 0),
    ("replay", 0.001): (6, 2),
}
"""Arm and rate → items lost on both tasks at the first volume; twice as many at the second."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ExperimentWriter:
    """Four arms that gain the same 9 and 18 of 40, three seeds.

    None at the searched rate, at two lower ones, with three passes at one of these (a run for each
    volume), and replay.
    """
    found = ExperimentWriter(tmp_path_factory.mktemp("made") / "e")
    start = {"n": share(2, 40), "o": share(36, 40), "p": share(40, 40)}
    before = [Task(suite="new" if name == "n" else "old", task=name, values=values) for name, values in start.items()]
    arms = {}
    for (arm, rate), lost in LOST.items():
        passes = arm == "none-passes"
        labels = {"mitigation": arm.split("-")[0]}
        for seed in range(3):
            points = {
                volume: [
                    Task(suite="new", task="n", values=flipped(start["n"], lost=0, gained=9 * k)),
                    *(Task(suite="old", task=t, values=flipped(start[t], lost=k * of, gained=0)) for t, of in zip("op", lost, strict=True)),
                ]
                for k, volume in enumerate(VOLUMES, start=1)
            }
            plan = {"training": {"learning_rate": rate, "epochs": 3 if passes else 1}, "trajectory": "independent" if passes else "shared"}
            for own in [{v: points[v]} for v in VOLUMES] if passes else [points]:
                run_id = f"{arm}{rate}{seed}{'-'.join(map(str, own)) if passes else ''}"
                config = config_of({"model": "m", "tuning": "full", "objective": "sft", "data": "d", "anchor": None} | labels, ROLES, seed)
                run: dict[str, Any] = {
                    "config": config | plan,
                    "trajectory": plan["trajectory"],
                    "learning_rate": rate,
                    "lr_tuned": rate > 5e-4,
                }
                write_run(found, run_id, before=before, points=own, roles=ROLES, labels={"model": "m"} | labels, seed=seed, **run)
                arms[run_id] = arm
    found.write_manifest({run_id: {"declared": {"headline": "old"}} for run_id in arms}, keep=False, arms=arms)
    return found


def test_a_mitigation_is_read_against_independent_cells_of_none_on_the_page(made: ExperimentWriter) -> None:
    """Replay loses half of what none loses at its searched rate, but more than three passes.

    A rate is named only where its arm has several. The last point of three passes is on the
    frontier; 40 items do not settle whether the others are off it.
    """
    shown = Page(page.write(made).read_text(encoding="utf-8"))
    (pair,) = shown.rows("equal_gain")
    assert pair["first lost"].startswith("2.")
    assert (pair["verdict"], "first − second" in pair) == ("second forgets more", False)
    assert "First − second: none, best of 4 settings − replay." in shown.text
    places = {(row["method"], row["volume"]): row["frontier"] for row in shown.rows("frontier")}
    arms = ["no mitigation", "none-passes · independent", "replay", *(f"none-rates · learning rate {rate}" for rate in (0.0003, 0.0005))]
    assert {name for name, _ in places} == {f"m · full · {arm}" for arm in arms}
    assert places["m · full · none-passes · independent", "32"] == "on"
    assert {places[f"m · full · {arm}", "32"] for arm in ("no mitigation", "replay")} == {"unclear"}


def test_each_task_of_the_headline_is_next_to_their_mean(made: ExperimentWriter) -> None:
    """At 8 rows none loses 12 and 4 items of 40: 30 and 10 points, 20 in the mean."""
    section = frontier(evidence.gather(made))
    assert section is not None
    (figure,), (table,) = section.figures, section.tables
    titles = [panel.axes[0].get_title(loc="left").splitlines()[-1] for panel in figure.panels]
    assert titles == ["old (2 tasks)", "o", "p"]
    heads = [column.title for column in table.columns]
    row = next(row for row in table.rows if str(row[0]).endswith("no mitigation") and str(getattr(row[1], "text", row[1])) == "8")
    values = {head: str(getattr(cell, "text", cell)).split(" [")[0] for head, cell in zip(heads, row, strict=True)}
    assert (values["loss (points)"], values["o"], values["p"]) == ("20.0", "30.0", "10.0")


def test_points_have_their_names_and_rates_of_none_are_a_line(made: ExperimentWriter) -> None:
    """Three rates of none lost 16, 18 and 32 of 80 items at 32 rows.

    The panels of the tasks have the line, and the names of the legend alone.
    """
    section = frontier(evidence.gather(made))
    assert section is not None
    figure = section.figures[0]
    texts = [sorted(text.get_text() for text in panel.axes[0].texts) for panel in figure.panels]
    assert len(texts[0]) == 5
    assert {"no mitigation", "replay"} <= set(texts[0])
    assert texts[1:] == [[], []]
    (line,) = [line for line in figure.panels[0].axes[0].lines if line.get_gid() == "rates"]
    assert [float(y) for y in np.asarray(line.get_ydata())] == pytest.approx([20.0, 22.5, 40.0])
    assert "no mitigation, from the lowest to the highest rate" in [mark.label for mark in figure.legend]


def test_no_name_covers_another_or_leaves_the_panel() -> None:
    """Twelve points, ten of them within a tenth of the panel, two in its corners."""
    figure = Figure(figsize=(3.35, 3.8))
    axes = figure.add_axes((0.19, 0.13, 0.795, 0.76))
    axes.set(xlim=(0, 100), ylim=(0, 100))
    points = [(40.0 + place, 50.0 + place * 3 % 10, f"method number {place}") for place in range(10)]
    boxes = labels.place(axes, [*points, (0.0, 0.0, "corner"), (100.0, 100.0, "other corner")])
    assert len(boxes) == 12
    left, bottom, right, top = (float(end) * 72 / figure.dpi for end in axes.bbox.extents)
    assert all(box[0] >= left and box[1] >= bottom and box[2] <= right and box[3] <= top for box in boxes.values())
    apart = [a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a, b in combinations(boxes.values(), 2)]
    assert all(apart)
    assert [text.get_text() for text in axes.texts] == list(boxes)
