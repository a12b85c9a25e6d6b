"""The pool of workers: after any deaths, every unit is done or failed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness.config.resolution import Machine
from harness.records.schema import Failure
from harness.records.sweep_schema import Unit
from harness.records.writer import ExperimentWriter
from harness.sweep.claims import DEATHS, LEFT, Claims
from harness.sweep.launchers import local
from harness.sweep.launchers.local import AWAY, Local, Pool
from harness.sweep.states import MOST_TRIES
from harness.sweep.tally import Tally
from tests.support.units import record_baseline, record_run, run_unit, sweep_of

multiprocessing.get_context("forkserver").set_forkserver_preload(["harness.sweep.worker"])  # once, not in each worker


@dataclass
class Seen:
    """A display that remembers its calls."""

    said: list[str] = field(default_factory=list)
    most: int = 0
    finished: tuple[int, int] = (0, 0)

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def runs(self, finished: int, total: int) -> None:
        self.finished = (finished, total)

    def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
        self.most = max(self.most, len(working))

    def stage(self, name: str, total: int) -> None: ...

    def advance(self, units: int = 1) -> None: ...

    def say(self, message: str) -> None:
        self.said.append(message)


@dataclass
class Actor:
    """Acts as a unit's label says: ``ok``, ``dies N`` (N times), ``raises``, ``stopped N``.

    Every try is noted in a file.
    """

    claims: Claims

    def carry_out(self, unit: Unit) -> tuple[str, str]:
        experiment, notes = ExperimentWriter(self.claims.experiment.folder), self.claims.experiment.folder / f"tries-{unit.id}"
        dead = self.claims.deaths(unit.id)
        self.claims.lease = 0.5 if unit.label.startswith(("stopped", "hangs")) else 30.0
        held = self.claims.take(unit.id)
        if held is None:
            return "busy", ""
        with notes.open("a") as file:
            file.write("x")
        tries = len(notes.read_text())
        what, _, times = unit.label.partition(" ")
        if len(dead) >= DEATHS:
            experiment.write_failure(Failure(run_id=unit.id, experiment="e", labels={}, config={}, reason="died", traceback="", tries=2))
            held.end("failed", "died")
            return "failed", "died"
        if what in {"dies", "stopped", "hangs"} and tries <= int(times):
            self.vanish(what)
        if what == "crashes":
            held.end("done")
            raise RuntimeError("outside of any guard")
        if what == "raises":
            experiment.write_failure(Failure(run_id=unit.id, experiment="e", labels={}, config={}, reason="no", traceback="t", tries=tries))
            held.end("failed" if tries == 2 else "again", "no")
            return ("failed" if tries == 2 else "again"), "no"
        if what == "terminated" and tries <= int(times):  # a request to stop this process, which then gives its unit back
            os.kill(os.getpid(), signal.SIGTERM)
            held.end("interrupted")
            return "interrupted", ""
        if what == "nowhere":
            held.end("done")
            return "done", ""
        if what == "unclaimed":
            held.end("again")
            return "again", "its claim: forbidden"
        if what == "slow":
            time.sleep(float(times))
        record_baseline(experiment, unit) if unit.kind == "baseline" else record_run(experiment, unit)
        held.end("done")
        return "done", ""

    @staticmethod
    def vanish(how: str) -> None:
        """Show no sign of life any more: there are no heartbeats."""
        if how == "hangs":
            time.sleep(60)
        os.kill(os.getpid(), {"dies": signal.SIGKILL, "stopped": signal.SIGSTOP}[how])

    def leave(self) -> None: ...


def carried(folder: Path, units: Sequence[Unit], **launcher: Any) -> tuple[Seen, Tally, ExperimentWriter]:
    experiment, seen = ExperimentWriter(folder / "e"), Seen()
    experiment.folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(Local(**launcher), experiment, sweep_of(units), units, seen, make=Actor)
    return seen, pool.run(), experiment


def tries(experiment: ExperimentWriter, unit: str) -> int:
    return len((experiment.folder / f"tries-{unit}").read_text())


def test_killed_workers_cost_their_units_nothing(tmp_path: Path) -> None:
    """Two deaths, then it is done; no failure is recorded."""
    units = [run_unit("a", "dies 2"), run_unit("b", "ok")]
    seen, tally, experiment = carried(tmp_path, units)
    assert (tally.done, tally.failed) == (2, [])
    assert tries(experiment, "a") == 3
    assert experiment.failure("a") is None
    assert sum("SIGKILL" in line for line in seen.said) == 2
    assert [claim.died for claim in experiment.claims.of("a")] == ["signal SIGKILL", "signal SIGKILL", ""]


def test_a_run_that_always_dies_at_one_place_is_failed(tmp_path: Path) -> None:
    """After the third death it is not executed again; the others are done."""
    _, tally, experiment = carried(tmp_path, [run_unit("a", "dies 99"), run_unit("b", "ok")])
    assert tally.failed == [("dies 99", "died")]
    assert tally.done == 1
    assert tries(experiment, "a") == 4  # three that died, and the one that counted them


def test_an_exception_is_tried_twice(tmp_path: Path) -> None:
    """After the second one it is failed; the others continue."""
    seen, tally, experiment = carried(tmp_path, [run_unit("a", "raises"), run_unit("b", "ok")])
    assert tries(experiment, "a") == 2
    assert tally.failed == [("raises", "no")]
    assert tally.done == 1
    assert seen.finished == (2, 2)


@pytest.mark.parametrize("how", ["stopped 1", "hangs 1"])
def test_the_unit_of_a_worker_without_a_sign_of_life_is_taken_over(tmp_path: Path, how: str) -> None:
    """It is killed after its lease, which is told, and counts as a death; others are left alone."""
    seen, tally, experiment = carried(tmp_path, [run_unit("a", how), run_unit("b", "ok")], workers=1)
    assert (tally.done, tally.failed) == (2, [])
    assert tries(experiment, "a") == 2
    (line,) = [line for line in seen.said if "stopped or hung" in line]
    assert line.startswith("a worker died (stopped or hung: no sign of life for ")
    assert line.endswith(f"back to pending: {how}")
    assert [bool(claim.died) for claim in experiment.claims.of("a")] == [True, False]


def test_after_a_pause_of_the_whole_sweep_silence_counts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Ctrl-Z and fg: no worker had a chance to give a sign of life."""
    sent: list[int] = []
    hand: Any = SimpleNamespace(silent="", since=0.0, signal=sent.append)
    pool = Pool(Local(workers=1), ExperimentWriter(tmp_path), sweep_of([]), [], Seen(), make=Actor, hands=[hand])
    monkeypatch.setattr(pool, "_silence", lambda hand: time.monotonic() - hand.since if hand.since == 0.0 else 0.0)
    pool.looked -= AWAY + 1
    pool._end_silent()
    assert (sent, hand.since > 0) == ([], True)
    hand.since = 0.0
    pool._end_silent()
    assert sent == [signal.SIGKILL]


def test_a_worker_that_dies_outside_of_its_claim_does_not_loop(tmp_path: Path) -> None:
    """No claim counts its deaths, so its coordinator does."""
    _, tally, experiment = carried(tmp_path, [run_unit("a", "crashes"), run_unit("b", "ok")], workers=1)
    assert tally.done == 1
    assert tally.failed == [("crashes", "a worker died without a claim of it (exit code 1)")]
    assert tries(experiment, "a") == MOST_TRIES


def test_a_killed_fork_server_is_replaced(tmp_path: Path) -> None:
    """The worker at work continues; the worker that is killed next is forked from the new one."""
    experiment, seen = ExperimentWriter(tmp_path / "e"), Seen()
    experiment.folder.mkdir()
    units = [run_unit("a", "slow 2"), run_unit("b", "dies 1")]

    class Killing(Pool):
        killed = 0

        def _listen(self) -> None:
            super()._listen()
            if not self.killed and any(hand.unit is not None and self.claims.held(hand.unit.id) for hand in self.hands):
                self.killed = psutil.Process(self.hands[0].pid).ppid()
                os.kill(self.killed, signal.SIGKILL)

    pool = Killing(Local(workers=1), experiment, sweep_of(units), units, seen, make=Actor)
    tally = pool.run()
    assert (tally.done, tally.failed) == (2, [])
    assert tries(experiment, "a") == 1
    assert tries(experiment, "b") == 2
    assert [line for line in seen.said if "fork server" in line] == [
        "the fork server ended; new workers get another one, those at work continue",
        "a worker died (how is unknown, since its fork server is gone); back to pending: dies 1",
    ]


def test_a_fork_server_that_dies_while_a_worker_starts_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of the worker is tried again; after three in a row the sweep gives up."""
    started, real = [], ForkServerProcess.start

    def start(process: ForkServerProcess) -> None:
        started.append(process)
        if len(started) <= 2:
            raise EOFError("unexpected EOF")
        real(process)

    monkeypatch.setattr(ForkServerProcess, "start", start)
    _, tally, _ = carried(tmp_path, [run_unit("a", "ok")], workers=1)
    assert (tally.done, len(started)) == (1, 3)
    started.clear()
    monkeypatch.setattr(ForkServerProcess, "start", lambda _: (_ for _ in ()).throw(EOFError("unexpected EOF")))
    _, tally, _ = carried(tmp_path / "never", [run_unit("a", "ok")], workers=1)
    (reason,) = [reason for _, reason in tally.failed]
    assert reason == "not done: 3 workers in a row died before they were ready (its fork server ended: unexpected EOF)"


def test_a_full_disk_is_told_once_a_minute_for_all_workers(tmp_path: Path) -> None:
    """Every worker tells of it; the user reads one line."""
    seen = Seen()
    pool = Pool(Local(workers=1), ExperimentWriter(tmp_path), sweep_of([]), [], seen, make=Actor)
    for line in ("waiting for space on the disk of e: a", "another line", "waiting for space on the disk of e: b"):
        pool._say(line)
    assert seen.said == ["waiting for space on the disk of e: a", "another line"]


def test_baselines_come_before_the_runs_that_need_them(tmp_path: Path) -> None:
    """A run waits for its running baseline, although a worker is free."""
    base = run_unit("baseline-1", "slow 0.5", kind="baseline", suites=("k",))
    units = [base, run_unit("a", "ok", needs=("baseline-1",), suites=("k",)), run_unit("b", "ok")]
    _, tally, experiment = carried(tmp_path, units, workers=2)
    assert tally.done == 2
    ended = {unit.id: (experiment.folder / "claims" / unit.id / "1.json").stat().st_mtime for unit in units}
    assert ended["a"] >= ended["baseline-1"]


def test_what_another_process_has_is_waited_for(tmp_path: Path) -> None:
    """Its unit is not executed twice; it is done once the other has recorded it."""
    experiment = ExperimentWriter(tmp_path / "e")
    unit = run_unit("a", "ok")
    held = Claims(experiment).take("a")
    assert held is not None

    def other() -> None:
        time.sleep(1.0)
        record_run(experiment, unit)
        held.end("done")

    thread = threading.Thread(target=other)
    thread.start()
    _, tally, _ = carried(tmp_path, [unit])
    thread.join()
    assert tally.done == 1
    assert not (experiment.folder / "tries-a").exists()


def test_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two cores, units of two threads run in turn, units of one thread together."""
    monkeypatch.setattr("harness.sweep.launchers.local.this_machine", lambda: Machine(cores=2, gpus=0))
    wide = [run_unit(name, "slow 0.6", threads=2) for name in "ab"]
    seen, _, _ = carried(tmp_path / "wide", wide)
    assert seen.most == 1
    narrow = [run_unit(name, "slow 2", threads=1) for name in "ab"]
    seen, _, _ = carried(tmp_path / "narrow", narrow)
    assert seen.most == 2


def test_a_worker_that_is_asked_to_stop_is_replaced(tmp_path: Path) -> None:
    """Its unit goes to another worker, so that it does not loop."""
    _, tally, experiment = carried(tmp_path, [run_unit("a", "terminated 1"), run_unit("b", "ok")], workers=1)
    assert (tally.done, tally.failed) == (2, [])
    assert tries(experiment, "a") == 2
    assert len({claim.pid for claim in experiment.claims.of("a")}) == 2


@pytest.mark.parametrize("how", ["nowhere", "unclaimed"])
def test_what_comes_to_nothing_ends_all_the_same(tmp_path: Path, how: str) -> None:
    """Missing records and unwritable claims do not loop forever."""
    _, tally, experiment = carried(tmp_path, [run_unit("a", how), run_unit("b", "ok")])
    assert tally.done == 1
    ((label, reason),) = tally.failed
    assert label == how
    assert reason in {"carried out, but its records are missing", "its claim: forbidden"}
    assert tries(experiment, "a") == MOST_TRIES


def test_ctrl_c_gives_every_unit_back(tmp_path: Path) -> None:
    """The workers are gone, and their units are pending, without counting as deaths."""
    experiment = ExperimentWriter(tmp_path / "e")
    experiment.folder.mkdir()
    units = [run_unit("a", "slow 60")]

    class Impatient(Seen):
        def workers(self, working: Sequence[tuple[str, str, int, int]], share: float) -> None:
            if working:
                raise KeyboardInterrupt

    pool = Pool(Local(grace_seconds=0.2), experiment, sweep_of(units), units, Impatient(), make=Actor)
    with pytest.raises(KeyboardInterrupt):
        pool.run()
    assert pool.hands == []
    assert pool.states.of(units[0]) == "pending"
    (claim,) = experiment.claims.of("a")
    assert claim.died == LEFT
    assert pool.claims.deaths("a") == []


@pytest.mark.parametrize(
    ("visible", "count", "expected"), [(None, 2, ["0", "1"]), ("2,3", 2, ["2", "3"]), ("GPU-a, GPU-b", 1, ["GPU-a"]), ("", 0, [])]
)
def test_workers_get_the_gpus_that_their_coordinator_was_given(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, expected: list[str]
) -> None:
    """On a shared machine the first GPU may belong to someone else."""
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert local.gpus() == expected


def test_each_worker_has_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many workers as shares; a single GPU is one worker's, at any share."""
    for found, each, most in [(["4", "5", "6", "7"], 2, 2), (["0"], 2, 1), (["0", "1", "2"], 1, 3)]:
        monkeypatch.setattr(local, "gpus", lambda found=found: list(found))
        pool = Pool(Local(gpus_per_worker=each), ExperimentWriter(tmp_path), sweep_of([]), [], Seen(), make=Actor)
        assert pool.most == most
