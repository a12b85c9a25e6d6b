from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.analysis.table import changes
from harness.analysis.table.changes import Changes
from harness.analysis.table.frame import table
from harness.records.writer import ExperimentWriter
from tests.support.experiments import Task, flipped, share, write_run

ROLES = {"new": "target", "old": "probe"}
NLL: dict[str, Any] = {
    "suite": "new",
    "task": "math",
    "metric": "nats_per_token",
    "higher_is_better": False,
    "chance": None,
    "weights": [1.0, 3.0, 2.0],
}
FACTS: dict[str, Any] = {"suite": "old", "task": "facts"}
PEOPLE = [f"person {i % 3}" for i in range(10)]
BEFORE = [Task(values=[2.0, 1.0, 1.5], **NLL), Task(values=share(8, 10), **FACTS)]
AFTER = [Task(values=[1.0, 1.0, 1.0], **NLL), Task(values=flipped(share(8, 10), lost=4, gained=1), **FACTS)]


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentWriter:
    return ExperimentWriter(tmp_path / "results" / "exp")


@pytest.fixture(params=["from samples", "from files"])
def read(request: pytest.FixtureRequest, experiment: ExperimentWriter) -> Any:
    """A reader of changes, computed from samples or read from the files of a table."""

    def opened() -> Changes:
        if request.param == "from files":
            table(experiment)
            for path in experiment.folder.rglob("samples.parquet"):
                path.unlink()
        return Changes(experiment)

    return opened


def test_items_of_0_or_1_change_by_one(experiment: ExperimentWriter, read: Any) -> None:
    """In the order of hashes, d0 to d3 were lost and d8 gained."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    found = read().get("r", 8, "old", "facts")
    assert found.values.tolist() == [-1, -1, -1, -1, 0, 0, 0, 0, 1, 0]
    assert found.values.dtype == np.float64
    assert found.clusters is None


def test_items_of_a_ratio_are_linearised(experiment: ExperimentWriter, read: Any) -> None:
    """Differences −1, 0, −0.5 with weights 1, 3, 2 have D = −2/6.

    D + 3·w·(d − D)/6 is −2/3, 1/6, −1/2, and its mean is D.
    """
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    found = read().get("r", 8, "new", "math")
    assert found.values == pytest.approx([-2 / 3, 1 / 6, -1 / 2])
    assert found.values.mean() == pytest.approx(-1 / 3)


def test_there_is_no_change_where_nothing_is_compared(experiment: ExperimentWriter, read: Any) -> None:
    """Volume 0, a suite's own row, and tasks not measured or failed have none."""
    after = [AFTER[0], Task(values=[], failed="out of memory", **FACTS)]
    write_run(experiment, "r", before=BEFORE, points={8: AFTER, 16: after}, roles=ROLES)
    found = read()
    asked = [(0, "old", "facts"), (8, "old", "*"), (32, "old", "facts"), (8, "old", "sums"), (16, "old", "facts")]
    assert [found.get("r", *one) for one in asked] == [None] * 5
    assert found.get("r", 16, "new", "math") is not None


def test_only_the_primary_metric_has_changes(experiment: ExperimentWriter, read: Any) -> None:
    """A second metric of a task has none."""
    second = Task(values=share(2, 10), metric="acc_norm", primary=False, **FACTS)
    write_run(experiment, "r", before=[*BEFORE, second], points={8: [*AFTER, second]}, roles=ROLES)
    assert read().get("r", 8, "old", "facts").values.sum() == -3


def test_equal_items_have_an_equal_hash(experiment: ExperimentWriter, read: Any) -> None:
    """It is equal across runs and volumes, and differs for other items."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    write_run(experiment, "s", before=BEFORE, points={8: AFTER, 16: AFTER}, roles=ROLES, seed=1)
    other = [Task(values=share(8, 10), first=1, **FACTS)]
    write_run(experiment, "t", before=other, points={8: other}, roles={"old": "probe"}, labels={"model": "tiny-b"})
    found = read()
    same = {found.get(run_id, volume, "old", "facts").items for run_id, volume in [("r", 8), ("s", 8), ("s", 16)]}
    assert len(same) == 1
    assert found.get("t", 8, "old", "facts").items not in same


def test_clusters_have_the_same_numbers_in_every_run(experiment: ExperimentWriter, read: Any) -> None:
    """Items 0, 3, 6 and 9 are about one person, and so on.

    A task without clusters has none.
    """
    before = [BEFORE[0], Task(values=share(8, 10), clusters=PEOPLE, **FACTS)]
    after = [AFTER[0], Task(values=share(5, 10), clusters=PEOPLE, **FACTS)]
    for seed, run_id in enumerate(["r", "s"]):
        write_run(experiment, run_id, before=before, points={8: after, 16: after}, roles=ROLES, seed=seed)
    changes_of = read()
    for run_id, volume in [("r", 8), ("r", 16), ("s", 8)]:
        found = changes_of.get(run_id, volume, "old", "facts")
        assert found.clusters.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
        assert found.clusters.dtype == np.int64
        assert changes_of.get(run_id, volume, "new", "math").clusters is None


def test_a_run_without_a_record_has_its_changes_so_far(experiment: ExperimentWriter) -> None:
    """They are computed from its samples each time, and no file is written."""
    write_run(experiment, "u", before=BEFORE, points={8: AFTER}, roles=ROLES, finished=False, measured_before=True)
    found = Changes(experiment).get("u", 8, "old", "facts")
    assert found is not None
    assert found.values.sum() == -3
    assert not (experiment.run_folder("u") / "changes.npz").exists()


def test_damaged_changes_are_computed_again(experiment: ExperimentWriter) -> None:
    """The file may be cut, changed, empty or of another format."""
    write_run(experiment, "r", before=BEFORE, points={8: AFTER}, roles=ROLES)
    table(experiment)
    path = experiment.run_folder("r") / "changes.npz"
    whole = path.read_bytes()
    for content in [whole[: len(whole) // 2], whole[:200] + b"\xff" * 100 + whole[300:], b"", b"other"]:
        path.write_bytes(content)
        found = Changes(experiment).get("r", 8, "old", "facts")
        assert found is not None
        assert found.values.sum() == -3
        assert path.read_bytes() == whole


def test_the_changes_in_memory_are_bounded(experiment: ExperimentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one run, access to two runs in turn is still right."""
    monkeypatch.setattr(changes, "MEMORY", 1)
    for seed, run_id in enumerate(["r", "s"]):
        write_run(experiment, run_id, before=BEFORE, points={8: AFTER}, roles=ROLES, seed=seed)
    found = Changes(experiment)
    totals = [change.values.sum() for run_id in ["r", "s", "r"] if (change := found.get(run_id, 8, "old", "facts"))]
    assert totals == [-3, -3, -3]
    assert len(found._held) == 1
