from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.analysis.statistics import stats
from harness.analysis.table.frame import COLUMNS, DESCRIPTIONS, table
from harness.core.errors import RecordError
from harness.records.writer import ExperimentWriter
from tests.support import sealing
from tests.support.experiments import Task, flipped, share, weights_of, write_point, write_run

ROLES = {"new": "target", "old": "probe"}
NLL: dict[str, Any] = {
    "suite": "new",
    "task": "math",
    "metric": "nats_per_token",
    "higher_is_better": False,
    "chance": None,
    "weights": [1.0, 3.0, 2.0],
}


def old(task: str, values: list[float], **changes: Any) -> Task:
    return Task(**({"suite": "old", "task": task, "values": values} | changes))


BEFORE = [Task(values=[2.0, 1.0, 1.5], **NLL), old("facts", share(8, 10)), old("sums", share(3, 5), chance=0.5)]
AFTER = [Task(values=[1.0, 1.0, 1.0], **NLL), old("facts", flipped(share(8, 10), lost=4, gained=1)), old("sums", share(3, 5), chance=0.5)]


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentWriter:
    return ExperimentWriter(tmp_path / "results" / "exp")


def one(found: pd.DataFrame, **where: Any) -> pd.Series:
    for name, value in where.items():
        found = found[(found[name] == value).fillna(False)]
    assert len(found) == 1, where
    return found.iloc[0]


AFTER_8 = f"measurements/tiny-a-old/{weights_of('r', 8)[:16]}"


def test_the_columns_have_dtypes_and_descriptions(experiment: ExperimentWriter) -> None:
    """An empty table has them too."""
    found = table(experiment)
    assert list(found.columns) == list(COLUMNS) == list(DESCRIPTIONS)
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == COLUMNS
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    assert {name: str(dtype) for name, dtype in table(experiment).dtypes.items()} == COLUMNS


def test_a_run_is_a_whole_curve(experiment: ExperimentWriter) -> None:
    """Three points of two suites with three tasks have 15 rows, volume 0 first."""
    write_run(experiment, "r", before=BEFORE, points={16: AFTER, 8: AFTER}, roles=ROLES)
    found = table(experiment)
    assert found["volume"].tolist() == [0] * 5 + [8] * 5 + [16] * 5
    assert found["task"].tolist() == ["*", "math", "*", "facts", "sums"] * 3
    assert set(found["status"]) == {"ok"}


def test_a_binary_row_agrees_with_one_by_hand(experiment: ExperimentWriter) -> None:
    """8 of 10 before, 4 lost, 1 gained: Δ is −0.3, McNemar's p 12/32."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    row = one(table(experiment), volume=8, task="facts")
    assert (row["value"], row["before"], row["delta"], row["p_value"]) == pytest.approx((0.5, 0.8, -0.3, 12 / 32))
    assert (row["n"], row["lost"], row["gained"], row["chance"], row["role"]) == (10, 4, 1, 0.25, "probe")
    assert (row["delta_low"], row["delta_high"]) == pytest.approx(stats.difference_interval([4], [1], [10]))
    assert (row["value_low"], row["value_high"]) == pytest.approx(stats.proportion_interval([5], [10]))
    assert (row["steps"], row["train_tokens"], row["supervised_tokens"], row["wall_seconds"]) == (1, 80, 32, 2.0)


def test_a_ratio_row_agrees_with_one_by_hand(experiment: ExperimentWriter) -> None:
    """The ratio Σ w v / Σ w is 8/6 before and 1 after.

    Lower is better, and the change keeps the metric's sign. There are no counts.
    """
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    row = one(table(experiment), volume=8, task="math")
    assert (row["value"], row["before"], row["delta"]) == pytest.approx((1.0, 8 / 6, 1 - 8 / 6))
    assert not row["higher_is_better"]
    assert pd.isna(row["lost"])
    assert pd.isna(row["gained"])
    assert row["p_value"] == pytest.approx(0.5)


def test_before_is_the_value_of_volume_0(experiment: ExperimentWriter) -> None:
    """They are exactly equal, for tasks and suites."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    found = table(experiment)
    assert found.query("volume == 8")["before"].tolist() == found.query("volume == 0")["value"].tolist()


def test_volume_0_changed_nothing(experiment: ExperimentWriter) -> None:
    """Change, interval, counts and costs are 0."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    before = table(experiment).query("volume == 0")
    assert (before[["delta", "delta_low", "delta_high", "steps", "train_tokens", "flops", "wall_seconds"]] == 0).all(axis=None)
    assert (before["before"] == before["value"]).all()
    assert before["lost"].isna().tolist() == [True, True, False, False, False]


def test_a_suite_is_the_mean_of_its_tasks(experiment: ExperimentWriter) -> None:
    """0.5 of 10 items and 0.6 of 5 have equal weight.

    Items and counts are summed, levels of guessing averaged.
    """
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    row = one(table(experiment), volume=8, suite="old", task="*")
    assert (row["value"], row["before"], row["delta"], row["chance"]) == pytest.approx((0.55, 0.7, -0.15, 0.375))
    assert (row["n"], row["lost"], row["gained"], row["metric"], row["primary"]) == (15, 4, 1, "acc", True)
    assert (row["delta_low"], row["delta_high"]) == pytest.approx(stats.difference_interval([4, 0], [1, 0], [10, 5]))
    single = table(experiment).query("volume == 8 and suite == 'new'")
    assert single["value"].iloc[0] == single["value"].iloc[1]


def test_only_the_primary_metric_makes_the_suite(experiment: ExperimentWriter) -> None:
    """A second metric of a task is a separate row only."""
    second = old("facts", share(2, 10), metric="acc_norm", primary=False)
    write_run(experiment, "r", before=[*BEFORE, second], points={8: [*AFTER, second]}, roles=ROLES)
    found = table(experiment)
    assert one(found, volume=8, suite="old", task="*")["n"] == 15
    assert one(found, volume=8, metric="acc_norm")["value"] == pytest.approx(0.2)


def test_a_failed_score_is_a_failed_row_and_fails_its_suite(experiment: ExperimentWriter) -> None:
    """The task and its suite have status and reason, and no value.

    The other task keeps its value.
    """
    after = [AFTER[0], old("facts", [], failed="out of memory"), AFTER[2]]
    write_run(experiment, "r", before=BEFORE, points={8: after}, roles=ROLES)
    found = table(experiment).query("volume == 8")
    for task in ["facts", "*"]:
        row = one(found, suite="old", task=task)
        assert row["status"] == "failed"
        assert "out of memory" in row["reason"]
        assert row[["value", "stderr", "before", "delta", "delta_low", "lost", "p_value"]].isna().all()
    assert one(found, task="sums")["value"] == pytest.approx(0.6)


def test_a_failure_before_leaves_the_value_and_no_change(experiment: ExperimentWriter) -> None:
    """The value after is kept; the change is empty, with a reason."""
    before = [BEFORE[0], old("facts", [], failed="out of memory"), BEFORE[2]]
    write_run(experiment, "r", before=before, points={8: AFTER}, roles=ROLES)
    found = table(experiment)
    row = one(found, volume=8, task="facts")
    assert (row["status"], row["value"]) == ("ok", 0.5)
    assert pd.isna(row["delta"])
    assert "before failed: out of memory" in row["reason"]
    assert pd.isna(one(found, volume=8, suite="old", task="*")["delta"])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (old("facts", share(5, 10), prompt="other"), "another prompt"),
        (old("facts", share(5, 9)), "10 before and 9 after"),
        (None, "not at this volume"),
    ],
)
def test_a_task_that_cannot_be_joined_is_a_failed_row(experiment: ExperimentWriter, facts: Task | None, words: str) -> None:
    """Another prompt, a missing item or a missing task fails task and suite."""
    after = [task for task in [AFTER[0], facts, AFTER[2]] if task]
    write_run(experiment, "r", before=BEFORE, points={8: after}, roles=ROLES)
    found = table(experiment).query("volume == 8")
    for task in ["facts", "*"]:
        row = one(found, suite="old", task=task)
        assert (row["status"], pd.isna(row["value"]), words in row["reason"]) == ("failed", True, True), row["reason"]
    assert one(found, task="sums")["status"] == "ok"


def test_a_score_that_differs_from_its_items_is_rejected(experiment: ExperimentWriter) -> None:
    """A value in measurement.json does not agree with samples.parquet."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    path = experiment.folder / AFTER_8 / "measurement.json"
    values = sealing.read(path)
    values["scores"][0]["value"] = 0.9
    sealing.write(path, values)
    row = one(table(experiment), volume=8, task="facts")
    assert row["status"] == "failed"
    assert "10 items with mean 0.5" in row["reason"]


def test_a_failed_run_is_one_row_next_to_the_points_it_wrote(experiment: ExperimentWriter) -> None:
    """Without a record there is no before: its points have values, its failure a reason."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES, finished=False, failure="TrainingError: diverged")
    found = table(experiment)
    whole = one(found, status="failed")
    assert (whole["reason"], whole["tuning"], pd.isna(whole["suite"])) == ("TrainingError: diverged", "full", True)
    points = found[found["status"] == "ok"]
    assert set(points["volume"]) == {8}
    assert points["delta"].isna().all()
    assert points["reason"].str.contains("not recorded").all()
    assert set(points["role"]) == {"target", "probe"}


def test_a_running_run_is_unfinished(experiment: ExperimentWriter) -> None:
    """It has neither a record nor a failure."""
    write_run(experiment, "r", before=BEFORE, points={}, roles=ROLES, finished=False)
    assert one(table(experiment), run_id="r")["status"] == "unfinished"


def test_an_unfinished_run_shows_its_changes_so_far(experiment: ExperimentWriter) -> None:
    """Its volume 0 is known from the start, so its points are joined as usual."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    write_run(experiment, "u", before=BEFORE, points={8: AFTER}, roles=ROLES, finished=False, measured_before=True)
    found = table(experiment)
    done, running = (found[(found["run_id"] == name) & (found["status"] == "ok")] for name in ["r", "u"])
    assert running["delta"].tolist() == done["delta"].tolist()
    assert set(running["volume"]) == {0, 8}


def test_a_failed_extension_keeps_the_recorded_curve(experiment: ExperimentWriter) -> None:
    """A recorded run whose next volume failed shows the curve and the failure.

    A point beyond the record is joined like the others.
    """
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES, failure="killed")
    write_point(experiment, "r", 16, AFTER)
    found = table(experiment)
    assert one(found, volume=16, task="facts")["delta"] == pytest.approx(-0.3)
    assert one(found, volume=16, task="facts")["wall_seconds"] == 2.0
    assert one(found, status="failed")["reason"] == "killed"


def test_stale_runs_are_left_out_unless_asked_for(experiment: ExperimentWriter) -> None:
    """The manifest lists the current runs."""
    for run_id in ["a", "b"]:
        write_run(experiment, run_id, before=BEFORE, points={8: AFTER}, roles=ROLES)
    experiment.write_manifest({"b": {}}, keep=False)
    assert set(table(experiment)["run_id"]) == {"b"}
    assert set(table(experiment, stale=True)["run_id"]) == {"a", "b"}


def test_every_seed_repeats_the_shared_before(experiment: ExperimentWriter) -> None:
    """Two seeds of a model share one measurement, and each has its volume 0."""
    for seed in [0, 1]:
        write_run(experiment, f"r{seed}", before=BEFORE, points={8: AFTER}, roles=ROLES, seed=seed)
    found = table(experiment).query("volume == 0 and task == 'facts'")
    assert found["seed"].tolist() == [0, 1]
    assert found["value"].tolist() == [0.8, 0.8]


@pytest.mark.parametrize(
    "missing",
    [
        "runs/r/points/8/point.json",
        f"{AFTER_8}/samples.parquet",
        f"{AFTER_8}/measurement.json",
        f"measurements/tiny-a-old/{'b' * 16}/measurement.json",
    ],
)
def test_a_record_that_names_a_missing_file_is_an_error(experiment: ExperimentWriter, missing: str) -> None:
    """Where no run can be read, there is no table."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    (experiment.folder / missing).unlink()
    with pytest.raises(RecordError):
        table(experiment)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: sealing.edit(run / "record.json", seed=2**63), "record.json: seed: got 9223372036854775808; allowed: at most "),
        (lambda run: sealing.edit(run / "record.json", params_total=-(2**64)), "record.json: params_total: got -18446744073709551616; "),
        (lambda run: (run / "record.json").write_text('{"seed": '), "record.json: got a file that cannot be read"),
        (lambda run: sealing.edit(run / "record.json", protocol_version=99), "record.json: protocol_version: got 99"),
        (lambda run: (run / "points" / "8" / "point.json").unlink(), "run bad: point 8: got none"),
    ],
)
def test_a_run_that_cannot_be_read_leaves_the_others(
    experiment: ExperimentWriter, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], reason: str
) -> None:
    """It is one line on the terminal, and one row, which failed; the others are as without it."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    expected = table(experiment)
    write_run(experiment, "bad", before=BEFORE, points={8: AFTER}, roles=ROLES, seed=1)
    damage(experiment.run_folder("bad"))
    found = table(experiment)
    pd.testing.assert_frame_equal(found[found["run_id"] == "r"].reset_index(drop=True), expected)
    (row,) = found[found["run_id"] == "bad"].to_dict("records")
    assert (row["status"], reason in row["reason"], pd.isna(row["volume"])) == ("failed", True, True)
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_the_numeric_spread_of_volume_0_is_in_the_rows_of_every_volume(experiment: ExperimentWriter) -> None:
    """If accuracies move by 0.1 and −0.2, the suite's mean moves by 0.05.

    In nats the largest move counts.
    """
    before = [BEFORE[0], old("facts", share(8, 10), moved=0.1), old("sums", share(3, 5), chance=0.5, moved=-0.2)]
    write_run(experiment, "r", before=before, points={8: AFTER}, roles=ROLES)
    for volume in (0, 8):
        rows = table(experiment).query(f"volume == {volume} and suite == 'old'").set_index("task")
        assert rows.loc["facts", "numeric_spread"] == pytest.approx(0.1)
        assert rows.loc["sums", "numeric_spread"] == pytest.approx(0.2)
        assert rows.loc["*", "numeric_spread"] == pytest.approx(0.05)
        assert rows.loc["*", "numeric_spread_nats"] == pytest.approx(2.0)


def test_a_spread_that_was_not_measured_is_empty(experiment: ExperimentWriter) -> None:
    """It is empty, not 0, for the task and for its suite."""
    before = [BEFORE[0], old("facts", share(8, 10), moved=0.1), BEFORE[2]]
    write_run(experiment, "r", before=before, points={8: AFTER}, roles=ROLES)
    found = table(experiment).query("volume == 8")
    for suite, task in [("old", "sums"), ("old", "*"), ("new", "math")]:
        row = one(found, suite=suite, task=task)
        assert row[["numeric_spread", "numeric_spread_nats"]].isna().all()


def test_the_mid_p_of_a_suite_is_mcnemar_s_where_its_p_is(experiment: ExperimentWriter) -> None:
    """Two tasks of 5 with 3 lost and 1 gained have p = 10/16.

    The mid-p is smaller by 4/16, the probability of that split. Unequal tasks have none.
    """
    before = [old("facts", share(4, 5)), old("sums", share(3, 5))]
    after = [old("facts", flipped(share(4, 5), lost=2, gained=0)), old("sums", flipped(share(3, 5), lost=1, gained=1))]
    write_run(experiment, "r", before=before, points={8: after}, roles={"old": "probe"})
    row = one(table(experiment), volume=8, task="*")
    assert (row["p_value"], row["p_mid"]) == pytest.approx((10 / 16, 6 / 16))
    write_run(experiment, "s", before=BEFORE, points={8: AFTER}, roles=ROLES, labels={"model": "tiny-b"})
    assert pd.isna(one(table(experiment), run_id="s", volume=8, suite="old", task="*")["p_mid"])


def test_volume_0_has_forgotten_nothing(experiment: ExperimentWriter) -> None:
    """Nothing is lost or gained, and FG and the adjusted shares are empty.

    The ceiling is known.
    """
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    row = one(table(experiment), volume=0, task="facts")
    assert (row["samplewise_forgetting"], row["backward_transfer"], row["delta_relative"]) == (0.0, 0.0, 0.0)
    assert row["forgetting_ceiling"] == pytest.approx((0.8 - 0.25) / 0.75)
    assert row[["fg_over_volumes", "p_mid", "samplewise_forgetting_true", "backward_transfer_true"]].isna().all()


def test_fg_is_over_the_volumes_so_far(experiment: ExperimentWriter) -> None:
    """0.8 to 0.6, then to 0.4, is 25 %, then (25 + 50) / 2.

    After a volume that failed it is empty.
    """
    points = {
        8: [old("facts", share(24, 40))],
        16: [old("facts", share(16, 40))],
        32: [old("facts", [], failed="out of memory")],
        64: [old("facts", share(16, 40))],
    }
    write_run(experiment, "r", before=[old("facts", share(32, 40))], points=points, roles={"old": "probe"})
    found = table(experiment).query("volume > 0")
    for task in ["facts", "*"]:
        values = found[found["task"] == task]["fg_over_volumes"].astype(object).where(lambda column: column.notna(), None).tolist()
        assert values == [pytest.approx(25.0), pytest.approx(37.5), None, None]


def test_clusters_widen_the_interval_adjusted_for_chance(experiment: ExperimentWriter) -> None:
    """If people lose all their 4 items, the variance is nearly four times as large.

    The counts are the same as without clusters.
    """
    people = [f"person {i // 4}" for i in range(80)]
    widths = {}
    for name, clusters in {"alone": None, "people": people}.items():
        before, after = (old("facts", values, clusters=clusters) for values in (share(80, 80), [0.0] * 20 + [1.0] * 60))
        write_run(experiment, name, before=[before], points={8: [after]}, roles={"old": "probe"}, labels={"model": name})
        row = one(table(experiment), run_id=name, volume=8, task="facts")
        assert row["samplewise_forgetting_true"] == pytest.approx(0.25)
        widths[name] = row["samplewise_forgetting_true_high"] - row["samplewise_forgetting_true_low"]
    assert widths["people"] / widths["alone"] == pytest.approx(2 * (79 / 80 * 20 / 19) ** 0.5)


def test_both_protocols_are_compared_item_by_item(experiment: ExperimentWriter) -> None:
    """Chosen and generated answers are judged alike for 7 of 10 items.

    d0 to d7 are right when chosen, d0 to d4 when generated. Only the row of the generated task has
    the share.
    """
    written = old("facts_generated", share(5, 10), metric="exact_match", primary=False, chance=None)
    write_run(experiment, "r", before=[*BEFORE, written], points={8: [*BEFORE, written]}, roles=ROLES)
    found = table(experiment)
    for volume in (0, 8):
        assert one(found, volume=volume, task="facts_generated")["protocol_agreement"] == pytest.approx(0.7)
    assert found["protocol_agreement"].notna().sum() == 2


def test_rows_and_documents_that_are_left_out_are_counted(experiment: ExperimentWriter) -> None:
    """Of the data in every row; of a suite, those of all its tasks; empty where nobody counted."""
    facts = {"left_out_rows": 7, "repeated_rows": 2}
    tasks = [old("facts", share(8, 10), repeated=3), old("sums", share(3, 5), repeated=1), Task(values=[2.0, 1.0, 1.5], **NLL)]
    write_run(experiment, "r", before=tasks, points={8: tasks}, roles=ROLES, data_facts=facts)
    found = table(experiment)
    assert set(found["left_out_rows"]) == {7}
    assert set(found["repeated_rows"]) == {2}
    assert set(found["truncated_rows"]) == {0}
    counts = {task: one(found, volume=8, suite="old", task=task)["repeated_items"] for task in ("facts", "sums", "*")}
    assert counts == {"facts": 3, "sums": 1, "*": 4}
    assert pd.isna(one(found, volume=8, suite="new", task="*")["repeated_items"])
