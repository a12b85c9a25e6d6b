from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.analysis.table import runs
from harness.analysis.table.frame import table
from harness.core import files
from harness.core.errors import RecordError
from harness.records import summary_files
from harness.records.writer import ExperimentWriter
from tests.support import sealing
from tests.support.experiments import BEFORE as WEIGHTS_BEFORE
from tests.support.experiments import Task, flipped, share, write_measurements, write_point, write_run

ROLES = {"new": "target", "old": "probe"}
NLL: dict[str, Any] = {"suite": "new", "task": "math", "metric": "nats_per_token", "higher_is_better": False, "chance": 6.2}
BEFORE = [
    Task(values=[2.0, 1.0, 1.5], weights=[1.0, 3.0, 2.0], **NLL),
    Task(suite="old", task="facts", values=share(8, 10), moved=0.1),
    Task(suite="old", task="sums", values=share(3, 5), moved=0.2),
]
AFTER = [
    Task(values=[1.0, 1.0, 1.0], weights=[1.0, 3.0, 2.0], **NLL),
    Task(suite="old", task="facts", values=flipped(share(8, 10), lost=4, gained=1)),
    Task(suite="old", task="sums", values=share(2, 5)),
]


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentWriter:
    found = ExperimentWriter(tmp_path / "results" / "exp")
    write_run(found, "r", before=BEFORE, points={8: AFTER, 16: AFTER}, roles=ROLES)
    return found


def fresh(experiment: ExperimentWriter, folder: Path) -> pd.DataFrame:
    """Return the table computed from samples, of a copy without kept files."""
    shutil.copytree(experiment.folder, folder / experiment.name)
    for name in (summary_files.SUMMARY, summary_files.CHANGES):
        for path in (folder / experiment.name).rglob(name):
            path.unlink()
    return table(ExperimentWriter(folder / experiment.name))


def without_samples(experiment: ExperimentWriter) -> None:
    """Delete the items, so that a table that reads them fails."""
    for path in experiment.folder.rglob("samples.parquet"):
        path.unlink()


def test_a_table_of_summaries_is_the_table_of_samples(experiment: ExperimentWriter) -> None:
    """They are equal to the last bit, without samples."""
    expected = table(experiment)
    without_samples(experiment)
    pd.testing.assert_frame_equal(table(experiment), expected, check_exact=True)


def test_a_run_that_is_recorded_is_summarised(experiment: ExperimentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second time nothing is computed, and the files do not change."""
    assert runs.summarise(experiment, "r") == ""
    written = {path.name: path.read_bytes() for path in experiment.run_folder("r").iterdir() if path.is_file()}
    assert {"summary.json", "changes.npz"} <= set(written)
    monkeypatch.setattr(runs.RunReader, "keep", lambda *_: pytest.fail("computed twice"))
    runs.summarise(experiment, "r")
    table(experiment)
    assert written == {path.name: path.read_bytes() for path in experiment.run_folder("r").iterdir() if path.is_file()}


def test_a_run_that_cannot_be_summarised_is_still_recorded(experiment: ExperimentWriter) -> None:
    """Without items there is no summary, and the table raises an error."""
    without_samples(experiment)
    assert "samples.parquet" in runs.summarise(experiment, "r")
    assert not (experiment.run_folder("r") / "summary.json").exists()
    with pytest.raises(RecordError, match=r"samples\.parquet"):
        table(experiment)


@pytest.mark.parametrize(
    "changed", ["runs/r/record.json", "runs/r/points/16/point.json", f"measurements/tiny-a-old/{'b' * 16}/measurement.json"]
)
def test_a_summary_holds_for_the_bytes_it_was_made_from(experiment: ExperimentWriter, tmp_path: Path, changed: str) -> None:
    """If a record, point or measurement has changed, the rows are computed again and kept."""
    table(experiment)
    path = experiment.folder / changed
    values = sealing.read(path)
    if "scores" in values:
        values["scores"][0]["numeric_spread_nats"] = 0.25
        values["wall_seconds"] = 7
    elif "volume" in values:
        values["peak_memory_bytes"] = 7
    else:
        values["lr_tuned"] = False
    sealing.write(path, values)
    found = table(experiment)
    pd.testing.assert_frame_equal(found, fresh(experiment, tmp_path / "fresh"), check_exact=True)
    without_samples(experiment)
    pd.testing.assert_frame_equal(table(experiment), found, check_exact=True)


def test_another_version_of_the_analysis_computes_everything_again(experiment: ExperimentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an older version are not used."""
    table(experiment)
    without_samples(experiment)
    monkeypatch.setattr(runs, "VERSION", "another")
    with pytest.raises(RecordError, match=r"samples\.parquet"):
        table(experiment)


def test_a_folder_that_was_renamed_has_its_new_name(experiment: ExperimentWriter, tmp_path: Path) -> None:
    """Files kept under the old name are not used."""
    assert set(table(experiment)["experiment"]) == {"exp"}
    shutil.move(experiment.folder, tmp_path / "results" / "other")
    assert set(table(ExperimentWriter(tmp_path / "results" / "other"))["experiment"]) == {"other"}


def test_a_point_written_after_the_record_shows(experiment: ExperimentWriter) -> None:
    """If a later attempt has reached another volume, the summary is outdated."""
    assert set(table(experiment)["volume"].dropna()) == {0, 8, 16}
    write_point(experiment, "r", 32, AFTER)
    assert set(table(experiment)["volume"].dropna()) == {0, 8, 16, 32}
    shutil.rmtree(experiment.point_folder("r", 32))
    assert set(table(experiment)["volume"].dropna()) == {0, 8, 16}


def test_a_measurement_that_was_completed_since_shows(tmp_path: Path) -> None:
    """A task that had failed at the summary was measured again by another run."""
    experiment = ExperimentWriter(tmp_path / "exp")
    lacking = [*BEFORE[:2], Task(suite="old", task="sums", values=[], failed="out of memory")]
    write_run(experiment, "r", before=lacking, points={8: AFTER}, roles=ROLES)
    assert table(experiment).query("volume == 8 and task == 'sums'")["delta"].isna().all()
    write_measurements(experiment, "tiny-a", WEIGHTS_BEFORE, BEFORE)
    assert table(experiment).query("volume == 8 and task == 'sums'")["delta"].tolist() == pytest.approx([-0.2])


def test_a_failure_after_the_record_is_a_further_row(experiment: ExperimentWriter) -> None:
    """It appears and disappears without a change of the summary."""
    before = table(experiment)
    write_run(experiment, "r", before=BEFORE, points={}, roles=ROLES, finished=False, failure="killed")
    found = table(experiment)
    assert found["reason"].dropna().tolist() == ["killed"]
    experiment.drop_failure("r")
    pd.testing.assert_frame_equal(table(experiment), before, check_exact=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"digest": "x"}', None])
def test_a_damaged_summary_is_written_anew(experiment: ExperimentWriter, content: str | None) -> None:
    """The file may be empty, cut, of another format, or have a short column."""
    expected = table(experiment)
    path = experiment.run_folder("r") / "summary.json"
    whole = path.read_text()
    if content is None:
        values = json.loads(whole)
        values["columns"]["value"].pop()
        content = json.dumps(values)
    path.write_text(content)
    pd.testing.assert_frame_equal(table(experiment), expected, check_exact=True)
    assert path.read_text() == whole


def test_a_read_only_folder_gives_the_same_table(experiment: ExperimentWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written, nothing fails, and no partial file stays."""
    expected = fresh(experiment, tmp_path / "fresh")

    def refused(path: Path) -> Path:
        raise PermissionError(30, "Read-only file system", str(path))

    monkeypatch.setattr(files, "hidden_name", refused)
    before = sorted(path for path in experiment.folder.rglob("*"))
    pd.testing.assert_frame_equal(table(experiment), expected, check_exact=True)
    assert sorted(path for path in experiment.folder.rglob("*")) == before


def test_a_full_disk_leaves_no_partial_file(experiment: ExperimentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file is removed if writing fails."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    runs.summarise(experiment, "r")
    assert {path.name for path in experiment.run_folder("r").iterdir()} == {"config.json", "record.json", "points"}


def test_running_runs_keep_no_files(experiment: ExperimentWriter) -> None:
    """They are computed each time, since they may have more points the next time."""
    write_run(experiment, "u", before=BEFORE, points={8: AFTER}, roles=ROLES, finished=False, measured_before=True)
    table(experiment)
    assert not (experiment.run_folder("u") / "summary.json").exists()
    assert (experiment.run_folder("r") / "summary.json").exists()


def test_runs_with_the_same_labels_are_told_apart_from_their_records(tmp_path: Path) -> None:
    """So are rows from summaries, which contain no identity."""
    experiment = ExperimentWriter(tmp_path / "exp")
    for run_id, decay in {"a": 0.0, "b": 0.1}.items():
        write_run(experiment, run_id, before=BEFORE, points={8: AFTER}, roles=ROLES, identity={"training": {"weight_decay": decay}})
    for _ in range(2):
        found = table(experiment).drop_duplicates("run_id").set_index("run_id")["variant"]
        assert found.to_dict() == {"a": "weight_decay=0.0", "b": "weight_decay=0.1"}


def test_the_weight_of_the_anchor_is_a_column(tmp_path: Path) -> None:
    """As recorded; empty for a point of an earlier version, whose record lacks it."""
    experiment = ExperimentWriter(tmp_path / "exp")
    write_run(experiment, "run", before=BEFORE, points={8: AFTER}, roles=ROLES)
    path = experiment.run_folder("run") / "points" / "8" / "point.json"
    values = sealing.read(path)
    weights = {"anchor_supervised_tokens": 40, "anchor_loss_share": 0.3125}

    def found(changed: dict[str, Any]) -> list[Any]:
        sealing.write(path, changed)
        rows = table(experiment).query("volume == 8")
        return [None if pd.isna(value) else value for name in weights for value in set(rows[name])]

    assert found(values | weights) == [40, 0.3125]
    assert found({name: value for name, value in values.items() if name not in weights}) == [None, None]
