"""The plan of a sweep, before it starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.config import composition
from harness.config.resolution import Machine
from harness.config.strict import plain
from harness.core.errors import ConfigError, DamagedError
from harness.records.schema import Failure
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace
from harness.sweep.axes import Asked
from harness.sweep.plan.device import gpu_hours, price_line
from harness.sweep.plan.planning import SweepPlan, _together, as_text, plan_command, plan_sweep, to_json
from harness.sweep.plan.rates import START_SECONDS
from harness.sweep.plan.stale import differences
from harness.sweep.units import units_of
from tests.support import sealing, units

MACHINE = Machine(cores=1, gpus=0)
SWEEP = ["experiment=smoke", "model=nursery-smoke-a", "tuning=full"]
REST = {"seed": "0", "data.volumes": "[64]"}
"""Values of the axes and volumes that a test does not give."""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def asked(*overrides: str) -> list[str]:
    given = {text.partition("=")[0] for text in overrides}
    return [*SWEEP, *(f"{key}={value}" for key, value in REST.items() if key not in given), *overrides]


def planned(*overrides: str) -> SweepPlan:
    return plan_sweep(asked(*overrides), MACHINE, workers=2)


def ready(*overrides: str) -> Prepared:
    config = composition.compose(asked("name=smoke", *overrides))
    return prepare(config, Workspace(), MACHINE)


def record(found: Prepared, volumes: tuple[int, ...] = (64,)) -> None:
    """Write a run as it would be recorded, as far as plans read it."""
    experiment = found.experiment
    experiment.write_config(found.run_id, plain(found.config))
    unit = dataclasses.replace(units_of([(Asked(found.config, ()), found)])[-1], volumes=volumes)
    units.record_run(experiment, unit)
    units.record_baseline(experiment, unit)
    file = experiment.run_folder(found.run_id) / "record.json"
    labels = {"identity": found.identity, "labels": plain(found.config.labels), "seed": found.config.seed}
    sealing.edit(file, labels)


def states(found: SweepPlan) -> dict[str, str]:
    return {unit.id: unit.state for unit in found.units if unit.kind == "run"}


def test_nothing_done_everything_is_pending_and_nothing_is_written(results: Path) -> None:
    """It shows the runs, their shared baseline, tokens and a time."""
    found = planned("seed=0,1")
    assert sorted(states(found).values()) == ["pending", "pending"]
    assert [unit.kind for unit in found.units] == ["baseline", "run", "run"]
    assert found.can_start
    assert found.left.train_tokens > 0
    assert found.seconds
    assert not results.exists()


def test_done_failed_and_longer_runs_are_told_apart(results: Path) -> None:
    """A recorded run is done.

    With a further volume it is pending; a run that failed twice shows its reason.
    """
    done, failed = ready(), ready("seed=1")
    record(done)
    failure = Failure(run_id=failed.run_id, experiment="smoke", labels={}, config={}, reason="no luck", traceback="", tries=2)
    failed.experiment.write_failure(failure)
    found = planned("seed=0,1")
    assert states(found) == {done.run_id: "done", failed.run_id: "failed"}
    assert "1  no luck" in as_text(found)
    assert states(planned("data.volumes=[64,128]"))[done.run_id] == "pending"
    assert found.left.train_tokens == planned("seed=1").left.train_tokens


def test_a_stale_run_names_what_takes_its_place_and_why(results: Path) -> None:
    """The key that differs is shown, with values that people can read."""
    old, new = ready("training.learning_rate=0.001"), ready("training.learning_rate=0.002")
    record(old)
    (stale,) = planned("training.learning_rate=0.002").stale
    assert (stale.id, stale.superseded_by) == (old.run_id, new.run_id)
    assert stale.differs == ("training.learning_rate 0.001 -> 0.002",)
    (other,) = planned("seed=5").stale
    assert other.superseded_by == ""
    assert "no longer asked for" in as_text(planned("seed=5"))


@pytest.mark.parametrize("changed", ["seed", "volumes"])
def test_a_plan_names_an_altered_record(results: Path, changed: str) -> None:
    """A run is neither done nor pending by a record that was edited."""
    found = ready("training.learning_rate=0.001")
    record(found)
    file = found.experiment.run_folder(found.run_id) / "record.json"
    file.write_text(file.read_text().replace(f'"{changed}"', f'"{changed}s"'))
    with pytest.raises(DamagedError, match=r"record\.json: got a file that was changed after it was written"):
        planned("training.learning_rate=0.001")


def test_content_that_changed_is_named_without_its_hashes() -> None:
    """Hashes are not shown; a missing key is None."""
    before = {"inputs": {"data": "0123456789ab", "anchor": None}, "seed": 0, "volumes": [8]}
    after = {"inputs": {"data": "ba9876543210", "anchor": "x"}, "seed": 0, "volumes": (8,)}
    assert differences(before, after) == ["inputs.data", "inputs.anchor None -> x"]


def test_an_unfinished_run_is_stale_by_its_configuration(results: Path) -> None:
    """Without a record, configurations are compared."""
    old = ready("training.learning_rate=0.001")
    old.experiment.write_config(old.run_id, plain(old.config))
    (stale,) = planned("training.learning_rate=0.002").stale
    assert stale.differs == ("training.learning_rate 0.001 -> 0.002",)


def test_incompatible_points_are_listed_with_their_reason(results: Path) -> None:
    """Replay without an anchor is invalid.

    The other point is planned, but the sweep cannot start.
    """
    text, code = plan_command(asked("mitigation=none,replay"))
    assert code == 1
    assert "1 pending, 1 incompatible" in text
    assert "mitigation=replay: got no anchor" in text


def test_what_is_not_on_this_machine_is_missing_with_the_fix(results: Path) -> None:
    """A hub model that was never fetched is reported, and nothing is fetched."""
    found = plan_sweep(["experiment=smoke", "model=hf", "model.name=no-such/model", "tuning=full,lora", "seed=0"], MACHINE)
    assert [unit.state for unit in found.units] == ["missing", "missing"]
    assert "harness prefetch experiment=smoke" in found.units[0].reason
    assert "2  model.name: got 'no-such/model'" in as_text(found)
    assert not found.can_start


def test_what_is_wrong_everywhere_is_an_error(results: Path) -> None:
    """A misspelt key gives an error, not a plan."""
    with pytest.raises(ConfigError):
        planned("training.learnin_rate=1")


def test_time_is_shared_out_but_no_less_than_the_longest(results: Path) -> None:
    """Two runs of 10 s, a baseline of 4 s.

    With two workers that is 14 s after the start, with one 24 s. With nothing to do nothing starts.
    """
    (baseline, run) = planned().units
    assert baseline.cost is not None
    assert run.cost is not None
    units = [
        dataclasses.replace(baseline, cost=dataclasses.replace(baseline.cost, seconds=4.0)),
        *[dataclasses.replace(run, cost=dataclasses.replace(run.cost, seconds=10.0))] * 2,
    ]
    assert _together(units, 2) == START_SECONDS + 14.0
    assert _together(units, 1) == START_SECONDS + 24.0
    assert _together([dataclasses.replace(unit, state="done") for unit in units], 2) == 0.0
    assert _together([dataclasses.replace(run, cost=dataclasses.replace(run.cost, seconds=None))], 1) is None


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((), False),
        (("mitigation=l2",), False),
        (("mitigation=pseudo_replay",), True),
        (("mitigation=kl", "mitigation.inputs=new"), True),
        (("mitigation=kl", "mitigation.inputs=new", "mitigation.weight=0"), False),
    ],
)
def test_what_no_estimate_counts_is_said(results: Path, overrides: tuple[str, ...], *, says: bool) -> None:
    """Once, and only if a run writes, or reads more than its training rows."""
    text = as_text(planned("seed=0,1", *overrides))
    assert text.count("note: not included: text that models write, and forward passes of reference models") == says


def test_the_json_has_every_run_with_its_cost(results: Path) -> None:
    """Programs get the same information as people."""
    found = json.loads(to_json(planned("seed=0,1")))
    assert found["runs_by_state"] == {"stale": 0, "pending": 2}
    assert found["units"][-1]["cost"]["train_tokens"] > 0
    assert found["left"]["evaluation_tokens"] > 0


def test_memory_of_a_gpu_is_listed_by_model_and_tuning(tmp_path: Path) -> None:
    """A combination that does not fit is rejected: full tuning holds 16 bytes a parameter."""
    own = ["launcher=slurm", "launcher.gpu_memory_gb=0.016", f"results={tmp_path}", "name=e", "data.volumes=[8]"]
    found = plan_sweep([*own, "model=nursery-xl", "tuning=full,lora"])
    assert [(one.model, one.tuning, one.measured) for one in found.gpu_memory] == [("nursery-xl", "lora", True)]
    (rejected,) = found.runs("incompatible")
    assert "memory of model=nursery-xl tuning=full" in rejected.reason
    assert "nursery-xl  lora" in as_text(found)


def test_hours_and_their_price() -> None:
    """Two GPUs for half an hour of work, at 3 an hour, cost 3."""
    machine = Machine(cores=1, gpus=2)
    assert price_line(gpu_hours(1800, machine), 3.0, machine) == ["price: 1.0 GPU-hours at 3: about 3.00"]
    assert price_line(gpu_hours(1800, MACHINE), None, MACHINE) == []
