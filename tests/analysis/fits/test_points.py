from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.analysis.fits import all_laws, fitting, points
from harness.analysis.table.columns import COLUMNS
from harness.core.errors import AnalysisError
from harness.records.schema import Declared

CSV = "volume,params,forgetting,run_id\n64,1000,0.1,a\n128,1000,0.2,a\n64,1000,-0.1,b\n128,1000,0.15,b\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "points.csv"
    path.write_text(text, encoding="utf-8")
    return path


def row(**changes: Any) -> dict[str, Any]:
    """Return a probe suite's own row of the tidy table, at volume 64."""
    values: dict[str, Any] = {
        "run_id": "r0",
        "model": "tiny",
        "params_total": 1000,
        "params_trainable": 100,
        "tuning": "lora",
        "mitigation": "none",
        "data": "people",
        "volume": 64,
        "steps": 8,
        "train_tokens": 640,
        "anchor_tokens": 64,
        "train_loss": 1.5,
        "seed": 0,
        "role": "probe",
        "suite": "old",
        "task": "*",
        "metric": "acc",
        "primary": True,
        "higher_is_better": True,
        "delta": -0.1,
        "delta_low": -0.1 - 0.0196,
        "delta_high": -0.1 + 0.0196,
        "value": 0.5,
        "status": "ok",
    }
    return values | changes


def tidy(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({name: [one.get(name) for one in rows] for name in COLUMNS}, dtype=object).astype(COLUMNS)


def sweep(**changes: Any) -> pd.DataFrame:
    """Return a table of two tunings, three sizes and three volumes with two seeds."""
    return tidy(
        *(
            row(
                **{
                    "run_id": f"{tuning}{size}{seed}",
                    "tuning": tuning,
                    "model": f"m{size}",
                    "params_total": size,
                    "params_trainable": size // 10,
                    "volume": volume,
                    "steps": volume // 8,
                    "train_tokens": 10 * volume,
                    "delta": -0.01 * volume**0.5 - 0.001 * seed,
                    "delta_low": None,
                    "delta_high": None,
                    "seed": seed,
                }
                | changes
            )
            for tuning in ("full", "lora")
            for size in (1000, 2000, 4000)
            for seed in (0, 1)
            for volume in (64, 128, 256)
        )
    )


def test_a_file_with_other_column_names(tmp_path: Path) -> None:
    """The column params is params_total, and --column gives a role to any column.

    --where selects rows, and compares numbers by value.
    """
    found = points.from_file(written(tmp_path, CSV.replace("volume", "rows")), {"volume": "rows"})
    assert found["volume"].tolist() == [64, 128, 64, 128]
    assert found["params_total"].tolist() == [1000] * 4
    assert points.from_file(written(tmp_path, CSV), {}, {"run_id": "b"})["forgetting"].tolist() == [-0.1, 0.15]
    assert len(points.from_file(written(tmp_path, CSV), {}, {"volume": "64.0"})) == 2


def test_parquet_is_read_too(tmp_path: Path) -> None:
    """A parquet file gives the same points as a CSV file."""
    frame = points.from_file(written(tmp_path, CSV))
    frame.to_parquet(tmp_path / "points.parquet")
    assert points.from_file(tmp_path / "points.parquet")["forgetting"].tolist() == frame["forgetting"].tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("volume,forgetting\n", "without rows"),
        ("volume,loss\n1,2\n", "column forgetting: got no such column; allowed: volume, loss; fix: --column forgetting=NAME"),
        ("volume,forgetting\n64,0.1\nmany,0.2\n", "column volume: got 'many' in row 2"),
        ("volume,forgetting\n64,inf\n128,0.2\n", "column forgetting: got 'inf' in row 1"),
        ("volume,forgetting\n-64,0.1\n128,0.2\n", "column volume: got -64 in row 1; allowed: at least 0"),
        ("volume,forgetting,stderr\n64,0.1,-1\n128,0.2,1\n", "column stderr: got -1 in row 1"),
        ("volume,forgetting\n64,\n128,\n", "no row with all of volume, forgetting"),
    ],
)
def test_invalid_files_are_rejected_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    """The message names the problem, its place and the allowed values."""
    with pytest.raises(AnalysisError) as caught:
        fitting.fit(points.from_file(written(tmp_path, text)), "power")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volume,forgetting\n0,64,0.1\n1,128,0.2\n", "got 3 fields in row 1, 2 column names; allowed: a name for each column"),
        ("volume,forgetting\n64,0.1\n128,0.2,0.3\n", "got 3 fields in row 2, 2 column names"),
        ("volume,forgetting,volume\n64,0.1,1\n", "got two columns 'volume'; allowed: each name once"),
        ("volume;forgetting\n64;0.1\n", "got columns separated by semicolons; allowed: columns separated by commas"),
        ("volume\tforgetting\n64\t0.1\n", "got columns separated by tabs"),
    ],
)
def test_ambiguous_columns_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    """A row number without a name would shift all columns by one.

    Of two columns with the same name, one would be ignored.
    """
    with pytest.raises(AnalysisError) as caught:
        points.from_file(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "volume,forgetting\n64,0.1,\n128,0.2,\n",
        "volume,forgetting,\n64,0.1,\n128,0.2,\n",
        "volume, forgetting\n64, 0.1, ,\n128,0.2\n",
        '\ufeffvolume,"forgetting"\r\n64,0.1\r\n\r\n128,0.2\r\n',
    ],
)
def test_trailing_commas_are_not_columns(tmp_path: Path, text: str) -> None:
    """Rows and header may end in a comma without shifting columns."""
    found = points.from_file(written(tmp_path, text))
    assert found[["volume", "forgetting"]].to_numpy().tolist() == [[64, 0.1], [128, 0.2]]


def test_rows_are_counted_as_in_the_file(tmp_path: Path) -> None:
    """Messages number rows as in the file, also after --where."""
    path = written(tmp_path, CSV.replace("128,1000,0.15,b", "128,1000,bad,b"))
    with pytest.raises(AnalysisError, match="got 'bad' in row 4"):
        fitting.fit(points.from_file(path, {}, {"run_id": "b"}), "power")
    path = written(tmp_path, CSV.replace("128,1000,0.15,b", "-128,1000,0.15,b"))
    with pytest.raises(AnalysisError, match="got -128 in row 4"):
        fitting.fit(points.from_file(path, {}, {"run_id": "b"}), "power")


def test_learning_rates_that_differ_within_a_tuning_are_named(tmp_path: Path) -> None:
    """Two rates of one model and tuning are named; each model's own rate is not."""
    text = "volume,forgetting,run_id,model,tuning,learning_rate,lr_tuned,anchor\n"
    places = [(run, i) for run in range(2) for i in range(1, 5)]
    rows = [f"{64 * 2**i},{0.1 * i + 0.01 * run},{run},m,lora,{0.001 * (1 + run)},{run == 0},a{run}\n" for run, i in places]
    notes = fitting.fit(points.from_file(written(tmp_path, text + "".join(rows))), "power").notes
    assert any("differ in learning_rate (0.001, 0.002) and lr_tuned (False, True) and anchor (a0, a1), which" in note for note in notes)
    apart = [row.replace(",m,", f",m{row.split(',')[2]},") for row in rows]
    notes = fitting.fit(points.from_file(written(tmp_path, text + "".join(apart))), "power").notes
    assert any("differ in model (m0, m1), which" in note for note in notes)


def test_unknown_columns_are_rejected(tmp_path: Path) -> None:
    """So are unknown roles, columns in --where, and their values."""
    path = written(tmp_path, CSV)
    for columns, where, message in [
        ({"vol": "volume"}, {}, "did you mean 'volume'?"),
        ({"seed": "run_id"}, {}, "--column: got 'seed'; allowed: volume"),
        ({"volume": "rows"}, {}, "no column 'rows'"),
        ({}, {"tuning": "lora"}, "allowed: volume, params, forgetting, run_id"),
        ({}, {"run_id": "c"}, "got 'c'; allowed: a, b"),
    ]:
        with pytest.raises(AnalysisError) as caught:
            points.from_file(path, columns, where)
        assert message in str(caught.value)


def test_rows_before_training_and_empty_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """A power cannot use volume 0, and an empty response is not 0."""
    text = CSV + "0,1000,0,a\n256,1000,,a\n"
    fit = fitting.fit(points.from_file(written(tmp_path, text)), "power")
    assert fit.n == 4
    assert any("1 of 6 rows are left out: volume or forgetting is empty" in note for note in fit.notes)
    assert any("1 rows are left out: volume is 0" in note for note in fit.notes)


def test_a_point_of_an_experiment_agrees_with_one_by_hand() -> None:
    """Accuracy fell by 0.1, so forgetting is 0.1 with stderr 0.0392 / 3.92.

    A tenth of the tokens are from anchor rows; the loss is that of training.
    """
    found = points.from_table(tidy(row(), row(volume=0, delta=0.0), row(task="facts")), Declared(headline="old"))
    assert len(found) == 1
    one = found.iloc[0]
    assert (one["forgetting"], one["stderr"]) == pytest.approx((0.1, 0.0392 / (2 * 1.959964)))
    assert (one["inject_fraction"], one["finetune_loss"], one["steps"], one["params_trainable"]) == pytest.approx((0.1, 1.5, 8, 100))
    assert pd.isna(one["kl"])
    assert found.attrs["suite"] == "old"
    assert any("training loss" in note for note in found.attrs["notes"])


def test_forgetting_follows_the_direction_of_the_metric() -> None:
    """Where lower is better, a rise is forgetting.

    A model that got better has negative forgetting.
    """
    table = tidy(row(higher_is_better=False, delta=0.3), row(run_id="r1", higher_is_better=True, delta=0.05))
    assert points.from_table(table, Declared(headline="old"))["forgetting"].tolist() == pytest.approx([0.3, -0.05])


def test_loss_and_drift_come_from_the_same_run_and_volume() -> None:
    """The KL is that on the target, not on the anchor."""
    others = [
        row(suite="new", role="target", metric="nats_per_token", value=0.8),
        row(suite="drift_anchor", metric="kl_base_tuned", value=9.0),
        row(suite="drift_target", metric="kl_base_tuned", value=0.25),
    ]
    found = points.from_table(tidy(row(), row(run_id="other"), *others), Declared(headline="old"))
    assert found[found["run_id"] == "r0"][["finetune_loss", "kl"]].to_numpy().tolist() == [[0.8, 0.25]]
    assert found[found["run_id"] == "other"][["finetune_loss", "kl"]].isna().to_numpy().all()
    assert "kl is that of suite drift_target" in found.attrs["notes"]


def test_of_a_share_what_was_known_can_be_lost() -> None:
    """Of right answers it is the share before, of wrong ones the rest; of nats it is unknown."""
    right, wrong = row(before=0.9, lost=3), row(run_id="w", before=0.3, lost=3, higher_is_better=False)
    found = points.from_table(tidy(right, wrong, row(run_id="n", before=2.0)), Declared(headline="old"))
    assert found["can_lose"].tolist() == pytest.approx([0.9, 0.7, float("nan")], nan_ok=True)


def test_points_whose_rate_is_too_high_are_left_out() -> None:
    """They are counted; where nothing else is selected, there is nothing to fit."""
    table, declared = tidy(row(), row(run_id="r1", tuning="full")), Declared(headline="old")
    found = points.from_table(table, declared, left_out={"r1"})
    assert found["run_id"].tolist() == ["r0"]
    assert "1 points are left out, whose learning rate is too high by their same-data control" in found.attrs["notes"]
    assert len(points.from_table(table, dataclasses.replace(declared, any_rate=True), left_out={"r1"})) == 2
    with pytest.raises(AnalysisError, match="got 1 points, all at a learning rate that is too high"):
        points.from_table(table, declared, where={"tuning": "full"}, left_out={"r1"})


def test_controls_failures_and_other_runs_are_left_out() -> None:
    """Controls, failed points and runs without points are left out and counted."""
    failed = row(run_id="f", status="failed", delta=None)
    unfinished = row(run_id="u", status="unfinished", suite=None, task=None, volume=None, delta=None)
    table = tidy(row(), row(run_id="c", data="base"), failed, row(volume=128, delta=None), unfinished)
    found = points.from_table(table, Declared(headline="old", control={"data": "base"}))
    assert found["run_id"].tolist() == ["r0"]
    assert "1 points of same-data controls are left out" in found.attrs["notes"]
    note = "2 points and 1 whole runs without a measured change of old are left out: failed, unfinished or not measured"
    assert note in found.attrs["notes"]
    assert not any("whole runs" in note for note in points.from_table(tidy(row()), Declared(headline="old")).attrs["notes"])


def test_the_suite_must_be_unambiguous() -> None:
    """A single probe suite is the headline; of two, one must be named."""
    two = tidy(row(), row(suite="other"))
    assert points.from_table(tidy(row()), Declared()).attrs["suite"] == "old"
    assert points.from_table(two, Declared(), "other").attrs["suite"] == "other"
    with pytest.raises(AnalysisError, match="no headline suite declared; allowed: old, other"):
        points.from_table(two, Declared())
    with pytest.raises(AnalysisError, match="got 'none'; allowed: old, other"):
        points.from_table(two, Declared(), "none")


def test_every_law_is_fitted_where_there_are_points() -> None:
    """Each of six cells has the laws of volume alone, each of two tunings the others.

    kl is rejected, since it was not measured.
    """
    found = all_laws.every(sweep(), Declared(headline="old"))
    counts = pd.Series([one.law for one in found]).value_counts().to_dict()
    assert counts == dict.fromkeys(["hill", "saturating_power", "power"], 6) | {"injection": 2, "shifted_power": 2, "linear": 2, "kl": 2}
    power = next(one for one in found if one.law == "power" and one.where == {"model": "m2000", "tuning": "lora"})
    assert power.fit is not None
    assert power.fit.parameters["k"].value == pytest.approx(0.5, abs=0.02)
    assert (len(power.points), power.fit.runs) == (6, 2)
    kl = next(one for one in found if one.law == "kl")
    assert (kl.fit, "no row with all of kl" in kl.refused) == (None, True)
    linear = next(one for one in found if one.law == "linear")
    assert "1 distinct value" in linear.refused


def test_fits_that_are_not_shown_are_counted() -> None:
    """With a limit of five, there are four fits and the number of the others."""
    found = all_laws.every(sweep(), Declared(headline="old"), limit=5)
    assert len(found) == 5
    assert found[-1].refused.startswith("22 more fits are not shown")


def test_laws_take_turns_where_not_all_fits_are_made() -> None:
    """Of ten fits, each law over sizes has one, and laws of volume alone the others.

    Cells in figures come first.
    """
    drawn = [{"model": "m2000", "tuning": "lora"}]
    found = all_laws.every(sweep(), Declared(headline="old"), limit=10, first=drawn)
    assert [one.law for one in found[:9]] == ["injection", "shifted_power", "linear", "kl", *["hill"] * 5]
    assert found[4].where == drawn[0]
    assert found[-1].refused.startswith("17 more fits are not shown")


def test_the_declared_law_is_first_and_the_others_are_exploratory() -> None:
    """Its first six fits come before any other law's, also where not all fits are made.

    On a suite that is not the headline it is exploratory.
    """
    declared = Declared(headline="old", law="power")
    found = all_laws.every(sweep(), declared, limit=8)
    assert [one.law for one in found[:7]] == ["power"] * 6 + ["injection"]
    assert [one.is_declared for one in found[:7]] == [True] * 6 + [False]
    assert {one.fit.standing for one in found[:6] if one.fit} == {"declared beforehand"}
    assert {one.fit.standing for one in found[6:] if one.fit} == {"exploratory: not declared beforehand"}
    other = points.from_table(sweep(suite="other"), declared, "other")
    assert fitting.fit(other, "power", judge=False).standing == "exploratory: not declared beforehand"


def test_independent_runs_of_one_seed_are_one_run() -> None:
    """Their volumes are trained on the same rows: four runs of two seeds are two."""
    rows = [row(run_id=f"r{volume}{seed}", volume=volume, seed=seed, trajectory="independent") for volume in (64, 128) for seed in (0, 1)]
    found = points.from_table(tidy(*rows), Declared(headline="old"))
    fit = fitting.fit(found, "power", judge=False)
    assert (fit.n, fit.runs) == (4, 2)
    assert any(note.startswith("the independent runs of one seed count as one run") for note in fit.notes)


def test_without_a_headline_there_is_no_fit() -> None:
    """Without a headline or points the list is empty."""
    assert all_laws.every(tidy(row(), row(suite="other")), Declared()) == []
    assert all_laws.every(tidy(), Declared()) == []
