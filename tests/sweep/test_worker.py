"""Outcomes of units in a worker."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config.resolution import Machine
from harness.core import files
from harness.core.errors import ConfigError, FinalDataError, ProcessDied, TrainingError
from harness.core.progress import Interrupted, Progress
from harness.records import provenance
from harness.records.store import Experiment
from harness.records.sweep_schema import Unit
from harness.records.writer import ExperimentWriter
from harness.sweep import reporter, states, worker
from harness.sweep.claims import Claims
from harness.sweep.states import UnitStates
from harness.sweep.worker import Worker
from tests.support.units import BEFORE, record_run, run_unit, sweep_of


@dataclass(frozen=True)
class Composed:
    """Stands in for a configuration."""

    labels: dict[str, str] = field(default_factory=lambda: {"model": "m"})
    results: str = "results"


UNIT = run_unit("a", "run a")
Does = Callable[[Progress, Any], str]


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Worker]:
    reporter.go_on()
    yield Worker(ExperimentWriter(tmp_path / "e"), Claims(Experiment(tmp_path / "e"), sweep="s1", beat=0.05), Machine(cores=1, gpus=0))
    reporter.go_on()


@pytest.fixture
def does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Does], None]:
    """Let runs do what a test says; composition and preparation are tested elsewhere."""

    def install(what: Does) -> None:
        monkeypatch.setattr("harness.config.composition.compose", lambda overrides: Composed())
        monkeypatch.setattr("harness.run.other_models.make", lambda *_: None)
        monkeypatch.setattr(worker, "prepare", lambda *_: SimpleNamespace(run_id="a", evaluation_ids={}, before_sha256=BEFORE))
        monkeypatch.setattr("harness.run.execution.execute", lambda prepared, progress, once: what(progress, once))

    return install


def fails(error: Exception) -> Does:
    def raise_it(progress: Progress, once: Any) -> str:
        raise error

    return raise_it


def test_a_done_run_ends_its_claim(mine: Worker, does: Callable[[Does], None]) -> None:
    """The claim has the outcome and the costs."""
    does(lambda progress, once: "done")
    assert mine.carry_out(UNIT) == ("done", "")
    (claim,) = mine.claims.history("a")
    assert (claim.ended, claim.sweep, claim.generation) == ("done", "s1", 1)
    assert claim.memory_bytes > 0


def test_the_second_exception_is_final_and_has_its_traceback(mine: Worker, does: Callable[[Does], None]) -> None:
    """After the first one the run is pending again, with its failure on disk."""
    does(fails(TrainingError("two\nlines")))
    assert mine.carry_out(UNIT) == ("again", "TrainingError: two lines")
    states = UnitStates(mine.experiment, mine.claims)
    assert states.of(UNIT) == "pending"
    assert mine.carry_out(UNIT)[0] == "failed"
    failure = mine.experiment.failure("a")
    assert failure is not None
    assert (failure.tries, failure.reason) == (2, "TrainingError: two lines")
    assert "raise_it" in failure.traceback
    assert states.of(UNIT) == "failed"
    assert states.failure(UNIT) == "TrainingError: two lines"


def test_data_that_stay_as_they_are_are_tried_once(mine: Worker, does: Callable[[Does], None]) -> None:
    """Too few accepted rows for any volume: another try would find the same."""
    does(fails(FinalDataError("20 of 64 accepted")))
    assert mine.carry_out(UNIT) == ("failed", "FinalDataError: 20 of 64 accepted")


def test_a_worker_of_one_try_fails_at_once(mine: Worker, does: Callable[[Does], None]) -> None:
    """`harness run` does not try twice."""
    does(fails(ValueError("no")))
    assert replace(mine, tries=1).carry_out(UNIT)[0] == "failed"


def test_a_full_disk_is_waited_for_by_whatever_way_it_is_told(
    mine: Worker, does: Callable[[Does], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an OSError, as another library's text, or as the cause of another error."""
    monkeypatch.setattr(reporter, "SPACE_SECONDS", 0.01)
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = OSError(errno.EDQUOT, "quota")
    for error in (OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: No space left on device (os error 28)"), wrapped):
        tries: list[Exception] = []

        def full_once(progress: Progress, once: Any, error: Exception = error, tries: list[Exception] = tries) -> str:
            tries.append(error)
            if len(tries) == 1:
                raise error
            return "done"

        does(full_once)
        assert mine.carry_out(UNIT) == ("done", "")
        assert len(tries) == 2
    assert len(mine.claims.history("a")) == 3, "its claim is held while it waits"
    does(fails(OSError(errno.EACCES, "forbidden")))
    assert mine.carry_out(UNIT)[0] == "again"
    failure = mine.experiment.failure("a")
    assert failure is not None
    assert failure.tries == 1


@dataclass
class Said:
    """A progress that remembers what is said."""

    lines: list[str] = field(default_factory=list)

    def stage(self, name: str, total: int) -> None: ...

    def advance(self, units: int = 1) -> None: ...

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize(
    "write",
    [
        lambda experiment: experiment.write_written("a", {"8": "x"}),
        lambda experiment: experiment.write_folder(experiment.state_folder("a", 4), lambda place: (place / "x").write_text("x")),
        lambda experiment: record_run(experiment, UNIT),
    ],
    ids=["file", "checkpoint", "measurements, points and record"],
)
def test_what_is_finished_is_held_until_there_is_space(
    mine: Worker, does: Callable[[Does], None], monkeypatch: pytest.MonkeyPatch, write: Callable[[ExperimentWriter], object]
) -> None:
    """Each write is tried again; the run is executed once, and its claim stays alive meanwhile."""
    monkeypatch.setattr(reporter, "SPACE_SECONDS", 0.02)
    begun: list[bool] = []
    failed: list[Path] = []
    said, hidden_name = Said(), files.hidden_name

    def full(path: Path) -> Path:
        if begun and len(failed) < 7 and threading.current_thread() is threading.main_thread():
            failed.append(path)
            os.utime(mine.experiment.folder / "claims" / "a" / "1.json", (1, 1))
            raise OSError(errno.ENOSPC, "No space left on device")
        return hidden_name(path)

    def finished(progress: Progress, once: Any) -> str:
        begun.append(True)
        write(mine.experiment)
        return "done"

    monkeypatch.setattr(files, "hidden_name", full)
    does(finished)
    assert replace(mine, progress=said).carry_out(UNIT) == ("done", "")
    assert (len(begun), len(failed)) == (1, 7)
    assert said.lines == [
        f"waiting for space on the disk of {mine.experiment.folder}; finished work is held: [Errno 28] No space left on device"
    ]
    (claim,) = mine.claims.history("a")
    assert claim.ended == "done"


def test_who_waits_for_space_can_be_stopped(mine: Worker, does: Callable[[Does], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal or a time limit, within a fraction of a second."""
    monkeypatch.setattr(files, "rename_folder", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Disk quota exceeded")))
    folder = mine.experiment.state_folder("a", 4)

    def finished(progress: Progress, once: Any) -> str:
        mine.experiment.write_folder(folder, lambda place: None)
        return "done"

    does(finished)
    threading.Timer(0.1, reporter.stop_soon).start()
    assert mine.carry_out(UNIT) == ("interrupted", "")
    assert mine.claims.history("a")[0].ended == "interrupted"
    assert list(folder.parent.iterdir()) == [], "nothing half-written is left"


def test_a_request_to_stop_comes_through_progress(mine: Worker, does: Callable[[Does], None]) -> None:
    """The unit is given back, and no failure is recorded."""

    def long(progress: Progress, once: Any) -> str:
        progress.stage("train", 100)
        reporter.stop_soon()
        progress.advance()
        return "done"

    does(long)
    assert mine.carry_out(UNIT) == ("interrupted", "")
    assert mine.experiment.failure("a") is None
    assert UnitStates(mine.experiment, mine.claims).of(UNIT) == "pending"
    assert mine.claims.history("a")[0].stage == "train"


def test_a_request_to_stop_may_come_in_the_middle_of_another(mine: Worker) -> None:
    """Two signals may arrive within microseconds.

    Slurm signals each process of a job, and the first one hands its signal on.
    """

    def again(*_: Any) -> Any:  # called at every line, which is where a handler may run
        reporter.stop_soon()
        return again

    def ask() -> None:
        sys.settrace(again)
        reporter.stop_soon()

    asks = threading.Thread(target=ask, daemon=True)
    asks.start()
    asks.join(10)
    assert not asks.is_alive()


def test_a_worker_that_waits_stops_as_well(mine: Worker) -> None:
    """A signal that comes during a pause ends it early."""
    threading.Timer(0.1, reporter.stop_soon).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        reporter.pause(60)
    assert time.monotonic() - began < 10


def test_a_run_measured_in_part_is_final_for_this_sweep_only(mine: Worker, does: Callable[[Does], None]) -> None:
    """Its measurements failed repeatedly; the next command tries once more."""

    def in_part(progress: Progress, once: Any) -> str:
        record_run(mine.experiment, UNIT, incomplete=(8,))
        return "measured in part"

    does(in_part)
    assert mine.carry_out(UNIT)[0] == "measured in part"
    assert UnitStates(mine.experiment, mine.claims).of(UNIT) == "failed"
    assert UnitStates(mine.experiment, Claims(mine.experiment, sweep="s2")).of(UNIT) == "pending"


def test_a_run_whose_worker_died_three_times_at_one_place_is_not_executed(mine: Worker, does: Callable[[Does], None]) -> None:
    """It is failed at once, with place and cause."""
    does(lambda progress, once: pytest.fail("executed"))
    for _ in range(3):
        held = mine.claims.take("a", states.recorded_so_far(mine.experiment, "a"))
        assert held is not None
        mine.experiment.claims.write(replace(held.claim, stage="train", died="signal SIGKILL", memory_bytes=3 * 2**30))
    outcome, reason = mine.carry_out(UNIT)
    assert outcome == "failed"
    assert reason == ("died 3 times at the same place (train): signal SIGKILL; it held 3.0 GiB; often that is memory running out")
    assert mine.experiment.failure("a") is not None


def test_inputs_that_changed_since_the_sweep_was_planned_are_refused(mine: Worker, does: Callable[[Does], None]) -> None:
    """The results would belong to another run."""
    does(lambda progress, once: "done")
    outcome, reason = mine.carry_out(run_unit("b", "run b"))
    assert outcome == "again"
    assert "another run (a)" in reason


def test_a_configuration_that_breaks_under_way_is_a_failure_like_any_other(mine: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its yaml was edited: the failure is recorded, without labels."""

    def broken(overrides: object) -> None:
        raise ConfigError("experiment: got a broken file")

    monkeypatch.setattr("harness.config.composition.compose", broken)
    assert mine.carry_out(UNIT)[0] == "again"
    assert mine.carry_out(UNIT) == ("failed", "ConfigError: experiment: got a broken file")
    failure = mine.experiment.failure("a")
    assert failure is not None
    assert failure.labels == {}


def test_a_claim_that_cannot_be_made_is_no_failure_of_the_run(mine: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is not writable: the caller counts such tries."""

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Claims, "take", forbidden)
    outcome, reason = mine.carry_out(UNIT)
    assert outcome == "again"
    assert "Permission denied" in reason
    assert mine.experiment.failure("a") is None


def test_a_process_that_trains_along_and_is_killed_counts_as_a_death(mine: Worker, does: Callable[[Does], None]) -> None:
    """It is not an exception; after the third death at one place the run fails."""
    does(fails(ProcessDied("killed by signal 9")))
    for _ in range(3):
        assert mine.carry_out(UNIT) == ("died", "killed by signal 9")
        assert mine.experiment.failure("a") is None
    outcome, reason = mine.carry_out(UNIT)
    assert outcome == "failed"
    assert "died 3 times at the same place" in reason


def test_the_error_of_a_worker_that_was_followed_is_not_recorded(mine: Worker, does: Callable[[Does], None]) -> None:
    """The follower may have caused it, and has the unit now."""

    def late(progress: Progress, once: Any) -> str:
        assert mine.held is not None
        assert mine.experiment.claims.add(replace(mine.held.claim, generation=2))
        raise FileNotFoundError("swept away")

    does(late)
    assert mine.carry_out(UNIT)[0] == "lost"
    assert mine.experiment.failure("a") is None


def test_a_baseline_that_this_sweep_could_not_complete_is_not_measured_again(mine: Worker, does: Callable[[Does], None]) -> None:
    """A task that always fails is evaluated once, not once per run."""
    asked: list[str] = []
    does(lambda progress, once: once("baseline-x", lambda: False, lambda: asked.append("x")) or "done")
    mine.carry_out(UNIT)
    mine.carry_out(UNIT)
    assert asked == ["x"]


def test_one_process_measures_what_several_need(mine: Worker, does: Callable[[Does], None]) -> None:
    """While another process has it, a run waits; then it is not measured again."""
    other = Claims(mine.experiment).take("baseline-x")
    assert other is not None
    done: list[str] = []
    stages: list[str] = []

    class Watching:
        def stage(self, name: str, total: int) -> None:
            stages.append(name)
            done.append("by the other")
            assert other is not None
            other.end("done")

        def advance(self, units: int = 1) -> None: ...

        def say(self, message: str) -> None: ...

    def needs(progress: Progress, once: Any) -> str:
        once("baseline-x", lambda: bool(done), lambda: pytest.fail("measured twice"))
        once("baseline-y", lambda: "y" in done, lambda: done.append("y"))
        return "done"

    does(needs)
    assert replace(mine, progress=Watching()).carry_out(UNIT) == ("done", "")
    assert stages == ["wait for volume 0, which another process measures"]
    assert done == ["by the other", "y"]
    assert mine.claims.history("baseline-y")[0].ended == "done"


def test_what_is_once_needed_is_free_again_after_an_interrupt(mine: Worker, does: Callable[[Does], None]) -> None:
    """Its claim ends with the block, so that no process waits for a lease."""

    def stopped() -> None:
        raise Interrupted

    does(lambda progress, once: once("baseline-x", lambda: False, stopped))
    assert mine.carry_out(UNIT)[0] == "interrupted"
    assert mine.claims.history("baseline-x")[0].ended == "interrupted"


def test_workers_pull_until_nothing_is_left(mine: Worker, does: Callable[[Does], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines first; a failed run and another process's unit are left alone."""
    order: list[str] = []
    units: list[Unit] = [run_unit(name, name, volumes=(8,)) for name in "abc"]
    mine.experiment.write_sweep(sweep_of(units))
    monkeypatch.setattr("harness.config.composition.compose", lambda overrides: Composed())

    def execute(self: Worker, unit: Unit, reporter: Progress) -> tuple[str, str]:
        order.append(unit.id)
        if unit.id == "b":
            raise ValueError("no")
        record_run(self.experiment, unit)
        return "done", ""

    monkeypatch.setattr(Worker, "_execute", execute)
    elsewhere = Claims(mine.experiment).take("c")
    assert elsewhere is not None
    worker.work(mine.experiment.folder, "s1")
    assert order == ["a", "b", "b"]


def test_a_worker_records_the_command_of_its_sweep_and_no_secret(mine: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own arguments are a folder and an id, which nobody types."""
    made: list[str] = []
    mine.experiment.write_sweep(replace(sweep_of([run_unit("a", "a", volumes=(8,))]), command="harness sweep name=small seed=0,1"))
    monkeypatch.setattr("harness.config.composition.compose", lambda overrides: Composed())
    monkeypatch.setenv("HF_TOKEN", "hunter2!")

    def execute(self: Worker, unit: Unit, reporter: Progress) -> tuple[str, str]:
        made.append(provenance.command())
        raise ValueError("rejected: hunter2!")

    monkeypatch.setattr(Worker, "_execute", execute)
    worker.work(mine.experiment.folder, "s1")
    assert set(made) == {"harness sweep name=small seed=0,1"}
    failure = mine.experiment.failure("a")
    assert failure is not None
    assert failure.reason == "ValueError: rejected: ***"
    assert "hunter2" not in "".join(path.read_text() for path in mine.experiment.folder.rglob("*.json"))
