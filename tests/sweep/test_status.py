"""Progress of a sweep, from disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import RecordError
from harness.records.schema import Failure
from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter
from harness.sweep.claims import Claims, identity
from harness.sweep.status import Overview, StatusReader, UnitState, aligned, as_json, as_text, duration, groups
from tests.support import sealing


def unit(run_id: str, *, cost: float = 1.0, params: int = 1000, **changes: Any) -> Unit:
    overrides = ("experiment=tiny", f"model={params}", f"seed={len(run_id)}")
    values = {"kind": "run", "id": run_id, "overrides": overrides, "label": f"run {run_id}", "evaluations": {}, "volumes": (8, 16)}
    return Unit(**{**values, "threads": 1, "processes": 1, "params_total": params, "cost": cost, **changes})


def sweep(*units: Unit) -> Sweep:
    return Sweep(id="s1", experiment="tiny", command="harness sweep experiment=tiny", time="", cores=2, gpus=0, units=units)


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentWriter:
    return ExperimentWriter(tmp_path / "results" / "tiny")


def start(experiment: ExperimentWriter, *units: Unit) -> None:
    experiment.write_sweep(sweep(*units))
    experiment.write_manifest({}, keep=False, sweep="s1")


def finish(experiment: ExperimentWriter, run_id: str, volumes: tuple[int, ...] = (8, 16), *, record: bool = True) -> None:
    from harness import PROTOCOL_VERSION
    from harness.records.schema import SCHEMA_VERSION

    for volume in volumes:
        sealing.write(experiment.point_folder(run_id, volume) / "point.json", {"weights_sha256": ""})
    if record:
        experiment.write_config(run_id, {})
        values = {
            "schema_version": SCHEMA_VERSION,
            "protocol_version": PROTOCOL_VERSION,
            "volumes": list(volumes),
            "evaluations": {},
            "before_sha256": "",
        }
        sealing.write(experiment.run_folder(run_id) / "record.json", values)


def claimed(experiment: ExperimentWriter, run_id: str, number: int = 1, **changes: Any) -> None:
    """Write a claim of this process."""
    from harness.records.sweep_schema import Claim

    me = vars(identity())
    values = {"unit": run_id, "generation": number, "sweep": "s1", "lease": 100.0, "taken": "", **me, **changes}
    assert experiment.claims.add(Claim(**values))


def by_id(found: Overview) -> dict[str, UnitState]:
    return {one.id: one for one in found.units}


def test_no_sweep_is_said_in_one_line(experiment: ExperimentWriter) -> None:
    """Before the first sweep there is nothing to show."""
    with pytest.raises(RecordError, match="sweep of 'tiny': got none"):
        StatusReader(experiment).read()


def test_every_state_is_told_from_disk(experiment: ExperimentWriter) -> None:
    """Done by a record, running by a claim, failed after two tries, else pending.

    Points count before there is a record.
    """
    start(experiment, unit("a"), unit("b"), unit("c"), unit("d"), unit("e"))
    finish(experiment, "a")
    finish(experiment, "b", (8,), record=False)
    claimed(experiment, "b", stage="train", finished=3, total=7, node="n1")
    for name, tries in (("c", 2), ("d", 1)):
        failure = Failure(run_id=name, experiment="tiny", labels={}, config={}, reason=f"no luck {name}", traceback="", tries=tries)
        experiment.write_failure(failure)
    found = StatusReader(experiment).read()
    states = by_id(found)
    assert {name: one.state for name, one in states.items()} == {"a": "done", "b": "running", "c": "failed", "d": "pending", "e": "pending"}
    assert found.points == (3, 10)
    assert (states["b"].stage, states["b"].finished, states["b"].total, states["b"].node) == ("train", 3, 7, "n1")
    assert states["b"].heartbeat_seconds is not None
    assert abs(states["b"].heartbeat_seconds) < 5
    assert (states["c"].reason, states["c"].tries, states["d"].tries) == ("no luck c", 2, 1)
    assert found.workers == {"n1": 1}
    assert not found.is_over


def test_a_dead_owner_makes_a_unit_pending_and_counts_as_a_death(experiment: ExperimentWriter) -> None:
    """The costs of a dead process still count."""
    start(experiment, unit("a"))
    claimed(experiment, "a", started=1.0, cpu_seconds=30.0, wall_seconds=20.0, gpus=2)
    (state,) = StatusReader(experiment).read().units
    assert (state.state, state.deaths, state.heartbeat_seconds) == ("pending", 1, None)
    assert (state.spent.cpu, state.spent.gpu, state.spent.wall) == (30.0, 40.0, 20.0)


def test_what_is_left_follows_from_what_finished_units_cost(experiment: ExperimentWriter) -> None:
    """A unit costs per operation as much as finished units of its size.

    Time that a running unit has spent is subtracted; other sizes count as farther.
    """
    units = [unit("a", cost=2.0), unit("b", cost=4.0), unit("c", cost=6.0), unit("big", cost=100.0, params=10**6)]
    start(experiment, *units, unit("other", cost=200.0, params=10**6))
    assert StatusReader(experiment).read().left is None
    finish(experiment, "a")
    claimed(experiment, "a", started=1.0, cpu_seconds=1.0, wall_seconds=1.0)
    claimed(experiment, "a", 2, ended="done", cpu_seconds=3.0, wall_seconds=5.0)
    finish(experiment, "big")
    claimed(experiment, "big", ended="done", cpu_seconds=10.0, wall_seconds=10.0)
    claimed(experiment, "b", cpu_seconds=1.5, wall_seconds=2.0)
    found = StatusReader(experiment).read()
    assert found.spent.wall == 18.0
    assert found.left is not None
    # a: 4 processor seconds and 6 of wall time for a cost of 2. b: 8 - 1.5 and 12 - 2; c: 12 and
    # 18; other, as big: 20 and 20.
    assert found.left.cpu == pytest.approx(6.5 + 12 + 20)
    assert found.left.wall == pytest.approx(10 + 18 + 20)
    assert found.seconds_left == pytest.approx(48)


def test_what_was_done_before_the_sweep_says_nothing_of_its_rate(experiment: ExperimentWriter) -> None:
    """A claim of an earlier sweep may be of another machine."""
    start(experiment, unit("a"), unit("b"))
    finish(experiment, "a")
    claimed(experiment, "a", sweep="s0", ended="done", wall_seconds=5.0)
    found = StatusReader(experiment).read()
    assert found.left is None
    assert found.spent.wall == 5.0


def test_a_reader_follows_a_sweep_and_leaves_alone_what_is_done(experiment: ExperimentWriter) -> None:
    """The next reading shows what changed; a unit that is done is not read again."""
    start(experiment, unit("a"), unit("b"))
    finish(experiment, "a")
    reader = StatusReader(experiment)
    assert [one.state for one in reader.read().units] == ["done", "pending"]
    held = Claims(experiment, sweep="s1").take("b")
    assert held is not None
    assert [one.state for one in reader.read().units] == ["done", "running"]
    finish(experiment, "b")
    held.end("done")
    (experiment.run_folder("a") / "record.json").unlink()
    found = reader.read()
    assert [one.state for one in found.units] == ["done", "done"]
    assert found.is_over


def test_a_group_is_an_arm_and_what_differs_within_it() -> None:
    """Without arms it is the overrides that differ; one arm alone keeps its overrides."""
    replay, none = ("tuning=lora", "mitigation=replay", "mitigation.fraction=0.2"), ("tuning=lora", "mitigation=none")
    runs = {"a": ("replay", (*replay, "seed=0", "lr=1")), "b": ("replay", (*replay, "seed=1", "lr=2")), "c": ("none", (*none, "seed=0"))}
    assert groups(runs) == {"a": "arm=replay lr=1", "b": "arm=replay lr=2", "c": "arm=none"}
    assert groups({name: ("", texts) for name, (_, texts) in runs.items()}) == {
        "a": "mitigation=replay mitigation.fraction=0.2 lr=1",
        "b": "mitigation=replay mitigation.fraction=0.2 lr=2",
        "c": "mitigation=none",
    }
    assert groups({"c": runs["c"]}) == {"c": "arm=none tuning=lora mitigation=none"}
    assert groups({"a": ("", ("seed=0",)), "b": ("", ("seed=1",))}) == {"a": "all", "b": "all"}


def test_the_text_has_totals_then_running_failed_and_pending_by_group(experiment: ExperimentWriter) -> None:
    """Columns are aligned.

    Groups omit the seed and shared overrides; lines beyond the limit are counted.
    """
    many = [unit("p" * n, params=5) for n in range(1, 4)]
    start(experiment, unit("a"), unit("b"), unit("c"), *many)
    finish(experiment, "a")
    claimed(experiment, "a", ended="done", cpu_seconds=1800.0, wall_seconds=3600.0)
    claimed(experiment, "b", stage="train", finished=3, total=7, node="n1")
    for name in ("c", "p"):
        experiment.write_failure(Failure(run_id=name, experiment="", labels={}, config={}, reason=f"bad {name}", traceback="", tries=2))
    lines = as_text(StatusReader(experiment).read(), limit=1).splitlines()
    assert lines[0] == "tiny: 1 of 6 runs, 2 of 12 points done; 1 running, 2 pending, 2 failed"
    assert lines[1:3] == ["spent 30 min of processors, 60 min of workers", "left about 1.5 h of processors, 3.0 h of workers"]
    assert lines[3] == "1 worker: n1 (1); ends in about 3.0 h"
    assert lines[5] == "running"
    assert lines[6].startswith("  run b  0/2 points  train  3/7  n1  heartbeat ")
    assert lines[8:11] == ["failed", "  run c  bad c", "  … and 1 more"]
    assert lines[12:] == ["pending", "  2  model=5"]


def test_the_json_has_every_unit_and_the_totals(experiment: ExperimentWriter) -> None:
    """Programs get the same information as people."""
    start(experiment, unit("a"), unit("b"))
    finish(experiment, "a")
    found = json.loads(as_json(StatusReader(experiment).read()))
    assert found["runs_by_state"] == {"done": 1, "running": 0, "pending": 1, "failed": 0}
    assert (found["points_done"], found["points"], found["runs"]) == (2, 4, 2)
    assert [one["id"] for one in found["units"]] == ["a", "b"]
    assert found["left"] is None


def test_a_thousand_units_are_read_in_a_moment(experiment: ExperimentWriter) -> None:
    """The target is 10,000 units in 8 s on two cores; counted is this process's time alone."""
    units = [unit(f"r{n}") for n in range(1000)]
    start(experiment, *units)
    for n in range(600):
        finish(experiment, f"r{n}")
        claimed(experiment, f"r{n}", ended="done", wall_seconds=1.0)
    began = time.process_time()
    reader = StatusReader(experiment)
    assert reader.read().count("run", "done") == 600
    assert time.process_time() - began < 3
    began = time.process_time()
    reader.read()
    assert time.process_time() - began < 0.5


def test_columns_are_aligned_and_times_have_the_unit_that_suits_them() -> None:
    """Seconds below a minute and a half, then minutes, hours, days."""
    assert aligned([("a", "bb"), ("ccc", "")]) == ["  a    bb", "  ccc"]
    assert [duration(x) for x in (5, 300, 7200, 3 * 86400)] == ["5 s", "5 min", "2.0 h", "3.0 days"]
