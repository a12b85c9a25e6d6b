from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.speed import report
from benchmarks.speed.report import Labels, Whole
from harness.analysis.table.frame import table
from harness.records.store import Experiment
from harness.records.writer import ExperimentWriter

Built = tuple[Experiment, list[Labels], list[Whole]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Eight runs of 40 items per task, three of which have samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "ITEMS", 40)
        experiment = ExperimentWriter(tmp_path_factory.mktemp("results") / report.NAME)
        chosen, whole = report.build(experiment, 8)
        yield experiment, chosen, whole


def test_the_fabricated_experiment_is_one_that_the_harness_could_have_written(built: Built) -> None:
    """Every run is current and has its own labels, four points and both suites.

    Declarations are in the manifest.
    """
    experiment, _, whole = built
    assert len(whole) == 3
    found = table(experiment)
    assert found["run_id"].nunique() == len(experiment.current()) == 8
    labels = found.drop_duplicates("run_id").set_index("run_id")
    row = labels.loc["m1-full-none-d0-7"]
    assert [row[name] for name in ["model", "tuning", "mitigation", "data", "seed"]] == ["m1", "full", "none", "d0", 7]
    assert set(found["volume"]) == {0, *report.VOLUMES}
    assert set(found["run_id"].value_counts()) == {5 * 7}
    assert set(found["status"]) == {"ok"}
    assert labels["variant"].isna().all()
    assert experiment.declared().headline == "probe"


def test_kept_files_of_a_copy_follow_from_its_items(built: Built, tmp_path: Path) -> None:
    """Computed again they are equal; the check names a summary with another number."""
    original, chosen, whole = built
    shutil.copytree(original.folder, tmp_path / report.NAME)
    experiment = Experiment(tmp_path / report.NAME)
    assert report.check(experiment, chosen, whole) == report.CHECKED
    path = experiment.run_folder("m1-full-none-d0-3") / "summary.json"
    values = json.loads(path.read_text())
    values["columns"]["delta"][-1] += 0.001
    path.write_text(json.dumps(values))
    with pytest.raises(AssertionError, match="m1-full-none-d0-3"):
        report.check(experiment, chosen, whole)
