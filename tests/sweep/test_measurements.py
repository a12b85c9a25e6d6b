"""Measurements as units of a sweep: when they begin, how they end, and what a run's end means."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.records.schema import Failure
from harness.records.writer import ExperimentWriter
from harness.sweep.claims import Claims
from harness.sweep.states import MEASURED_IN_PART, UnitStates
from harness.sweep.tally import tally
from tests.support.units import point, record_measurements, record_run, run_unit

RUN = dataclasses.replace(run_unit("a", "run a", suites=("k",), volumes=(8, 16)), measures=False)
AT_8, AT_16 = (
    dataclasses.replace(RUN, kind="measurement", id=f"a@{volume}", label=f"measure {volume}", volumes=(volume,)) for volume in (8, 16)
)
UNITS = (AT_8, AT_16, RUN)
BY_ID = {unit.id: unit for unit in UNITS}


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentWriter:
    return ExperimentWriter(tmp_path / "e")


def states(experiment: ExperimentWriter) -> UnitStates:
    return UnitStates(experiment, Claims(experiment, sweep="s1"))


def reach(experiment: ExperimentWriter, volume: int) -> None:
    """Write a point whose weights are on disk and not measured."""
    experiment.write_point(point(RUN, volume))
    experiment.unmeasured_weights("a", volume).mkdir(parents=True)


def measure(experiment: ExperimentWriter, volume: int) -> None:
    record_measurements(experiment, RUN, point(RUN, volume).weights_sha256)


def fail(experiment: ExperimentWriter) -> None:
    experiment.write_failure(Failure(run_id="a", experiment="e", labels={}, config={}, reason="no luck", traceback="", tries=2))


def test_a_point_can_be_measured_once_its_weights_are_on_disk(experiment: ExperimentWriter) -> None:
    """While training goes on; the other point waits."""
    reach(experiment, 8)
    found = states(experiment)
    assert [unit.id for unit in UNITS if found.ready(unit, BY_ID)] == ["a@8", "a"]
    assert {unit.id: found.of(unit) for unit in UNITS} == {"a@8": "pending", "a@16": "pending", "a": "pending"}
    measure(experiment, 8)
    assert states(experiment).of(AT_8) == "pending"  # its weights are still to be removed
    experiment.drop_unmeasured_weights("a", 8)
    assert states(experiment).of(AT_8) == "done"
    assert [unit.id for unit in UNITS if states(experiment).ready(unit, BY_ID)] == ["a"]


def test_a_trained_run_is_done_as_a_unit_and_counts_with_its_measurements(experiment: ExperimentWriter) -> None:
    """Its record may lack measurements, as long as their weights are there."""
    unmeasured = dataclasses.replace(RUN, evaluations={})
    record_run(experiment, unmeasured, incomplete=(8, 16))
    for volume in (8, 16):
        reach(experiment, volume)
    assert states(experiment).of(RUN) == "done"
    assert tally(UNITS, states(experiment)).done == 0
    measure(experiment, 8)
    measure(experiment, 16)
    assert states(experiment).of(RUN) == "done"
    assert tally(UNITS, states(experiment)).done == 0  # its record and its disk do not say so yet
    record_run(experiment, RUN)
    for volume in (8, 16):
        experiment.drop_unmeasured_weights("a", volume)
    assert tally(UNITS, states(experiment)).done == 1


def test_weights_that_are_lost_before_they_are_measured_are_trained_again(experiment: ExperimentWriter) -> None:
    """The run is pending again, and the measurement waits for it."""
    record_run(experiment, dataclasses.replace(RUN, evaluations={}), incomplete=(8, 16))
    reach(experiment, 8)
    found = states(experiment)
    assert (found.of(RUN), found.ready(AT_8, BY_ID), found.ready(AT_16, BY_ID)) == ("pending", True, False)


def test_a_failed_run_fails_the_measurements_whose_weights_it_never_reached(experiment: ExperimentWriter) -> None:
    """So that no worker waits for them; a point that was reached is measured all the same."""
    reach(experiment, 8)
    fail(experiment)
    found = states(experiment)
    assert {unit.id: found.of(unit) for unit in UNITS} == {"a@8": "pending", "a@16": "failed", "a": "failed"}
    assert found.failure(AT_16) == "its run failed: no luck"
    assert found.may_begin(AT_16, BY_ID)  # a launcher takes it off its list
    assert [label for label, _ in tally(UNITS, found).failed] == ["run a"]


def test_a_run_that_a_process_gave_up_fails_what_it_never_reached(experiment: ExperimentWriter) -> None:
    """Although no failure could be recorded: no process waits for ever."""
    found = states(experiment)
    found.gave_up["a"] = "carried out, but its records are missing"
    assert {found.of(unit) for unit in UNITS} == {"failed"}


@pytest.mark.parametrize("ended", ["failed", MEASURED_IN_PART])
def test_a_measurement_that_failed_is_final_for_its_sweep(experiment: ExperimentWriter, ended: str) -> None:
    """The next command tries again; its weights stay on disk."""
    reach(experiment, 8)
    held = Claims(experiment, sweep="s1").take("a@8")
    assert held is not None
    held.end(ended, "no memory")
    assert (states(experiment).of(AT_8), states(experiment).failure(AT_8)) == ("failed", "no memory")
    assert UnitStates(experiment, Claims(experiment, sweep="s2")).of(AT_8) == "pending"
