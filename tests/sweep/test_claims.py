"""Claims: one process at a time has a unit, and none longer than it lives."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.core import files
from harness.records.claim_log import ClaimLog
from harness.records.store import Experiment
from harness.records.sweep_schema import Claim
from harness.sweep.claims import LEASE, LEFT, Claims, deaths, identity, is_stopped

TAKE_AND_HANG = """
import sys, time
from pathlib import Path
from harness.records.store import Experiment
from harness.sweep.claims import Claims
held = Claims(Experiment(Path(sys.argv[1]))).take("run", "nothing yet")
held.progress = lambda: ("train", 3, 8)
held._write()
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(Experiment(tmp_path / "sweep"), sweep="now", beat=0.05)


def elsewhere(claims: Claims, lease: float = 60.0) -> Claim:
    """Write the claim of a process on another host."""
    me = dataclasses.asdict(identity()) | {"host": "node7", "boot": "another", "pid": 1, "node": "node7"}
    claim = Claim(unit="run", generation=1, sweep="now", lease=lease, taken="", stage="train", **me)
    assert claims.experiment.claims.add(claim)
    return claim


def beat_ago(claims: Claims, seconds: float) -> None:
    path = claims.experiment.folder / "claims" / "run" / "1.json"
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_what_is_held_is_not_taken_and_what_ended_is(claims: Claims) -> None:
    """A second process cannot claim a unit until the first has ended its claim.

    Then its claim is the second one.
    """
    first = claims.take("run")
    assert first is not None
    assert claims.take("run") is None
    assert claims.held("run")
    first.end("done")
    assert not claims.held("run")
    second = claims.take("run")
    assert second is not None
    assert [claim.ended for claim in claims.history("run")] == ["done", ""]
    assert second.claim.generation == 2


def test_one_of_many_takers_wins(claims: Claims) -> None:
    """Sixteen threads claim the same unit at the same moment: one gets it."""
    barrier, won = threading.Barrier(16), []

    def take() -> None:
        barrier.wait()
        if (held := claims.take("run")) is not None:
            won.append(held)

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(claims.history("run")) == 1


def test_the_unit_of_a_killed_process_of_this_machine_is_free_at_once(claims: Claims) -> None:
    """SIGKILL leaves a claim that never ended.

    No lease has to expire, and the log keeps its progress.
    """
    process = subprocess.Popen([sys.executable, "-c", TAKE_AND_HANG, str(claims.experiment.folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    assert claims.take("run") is None
    process.kill()
    process.wait()
    process.stdout.close()
    assert not claims.held("run")
    claims.note_death("run", process.pid, "signal SIGKILL")
    held = claims.take("run")
    assert held is not None
    assert held.claim.generation == 2
    (dead,) = claims.history("run")[:1]
    assert (dead.stage, dead.finished, dead.died, dead.ended) == ("train", 3, "signal SIGKILL", "")


def test_another_hosts_claim_stands_until_its_lease_expires(claims: Claims) -> None:
    """Its process cannot be seen from here, only its heartbeats."""
    elsewhere(claims, lease=60.0)
    beat_ago(claims, 50)
    assert claims.take("run") is None
    beat_ago(claims, 70)
    assert claims.take("run") is not None


def write_raw(claims: Claims, text: str, name: str = "1.json") -> Path:
    path = claims.experiment.folder / "claims" / "run" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose sum is added to this process's clock that never jumps."""
    passed, real = [0.0], time.monotonic
    monkeypatch.setattr("harness.sweep.claims.time.monotonic", lambda: real() + sum(passed))
    return passed


@pytest.mark.parametrize("ahead", [100.0, 3 * 3600.0, 40 * 365 * 86400.0])
def test_a_heartbeat_in_the_future_holds_a_unit_for_one_lease(claims: Claims, time_passes: list[float], ahead: float) -> None:
    """By whatever clock it was written: unless it changes, its owner is gone after the lease."""
    elsewhere(claims, lease=60.0)
    beat_ago(claims, -ahead)
    assert claims.take("run") is None
    time_passes.append(50)
    assert claims.take("run") is None
    beat_ago(claims, -ahead - 5)  # it lives
    time_passes.append(50)
    assert claims.take("run") is None
    time_passes.append(61)
    held = claims.take("run")
    assert held is not None
    assert held.after == "process 1 of node7 gave no sign of life for 61 s"
    assert claims.experiment.claims.age(claims.history("run")[0]) == 0.0


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_clock_that_jumps_takes_no_unit_from_a_process_of_this_machine(
    claims: Claims, time_passes: list[float], monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Neither after the heartbeat was seen, nor before; the start of a process stays the same."""
    assert claims.take("run") is not None
    assert claims.held("run")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    files._offset.cache_clear()
    assert claims.held("run")
    assert Claims(claims.experiment).held("run")
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: jump, raising=False)
    assert Claims(claims.experiment).held("run")
    time_passes.append(LEASE + 1)
    assert not claims.held("run")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lease", '"abc"'), ("lease", "1e300"), ("lease", "-5"), ("lease", "NaN"), ("lease", "null"), ("lease", "[60]"), ("lease", "1e9"),
        ("pid", '"x"'), ("pid", "-1"), ("pid", "1" + "0" * 40), ("started", '"now"'), ("host", "7"), ("stage", "{}"), ("finished", "null"),
    ],
)  # fmt: skip
def test_a_claim_with_nonsense_is_followed_after_a_minute(claims: Claims, field: str, value: str) -> None:
    """As one that cannot be read: no error, no endless wait, and it is told."""
    claim = elsewhere(claims)
    path = write_raw(claims, "")
    values = dataclasses.asdict(claim)
    del values[field]
    path.write_text(json.dumps(values)[:-1] + f', "{field}": {value}}}')
    assert claims.take("run") is None
    beat_ago(claims, 70)
    held = Claims(claims.experiment).take("run")
    assert held is not None
    assert held.claim.generation == 2
    assert held.after == f"{path} cannot be read"


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "[" * 5000, "\x00", '{"unit": "run"}'])
def test_a_damaged_claim_is_followed_after_a_minute(claims: Claims, text: str) -> None:
    """Whatever its file contains."""
    write_raw(claims, text)
    beat_ago(claims, 70)
    held = claims.take("run")
    assert held is not None
    assert held.after.endswith("1.json cannot be read")


def test_stray_files_are_no_claims(claims: Claims) -> None:
    """Copies and files of others are ignored; a claim counts by its name, not its content."""
    elsewhere(claims)
    for name in ("1.json.bak", "1.json~", "x.json", "-3.json", "0.json", "2.jsn", "1e3.json", "9" * 30 + ".json", ".1.json.swp"):
        write_raw(claims, "{}", name)
    (claims.experiment.folder / "claims" / "note.txt").write_text("mine")
    assert [claim.generation for claim in claims.history("run")] == [1]
    assert claims.experiment.claims.units() == ["run"]
    assert claims.experiment.claims.of("note.txt") == []
    write_raw(claims, (claims.experiment.folder / "claims" / "run" / "1.json").read_text(), "5.json")  # a copy of the first
    beat_ago(claims, 70)
    os.utime(claims.experiment.folder / "claims" / "run" / "5.json", (1, 1))
    held = claims.take("run")
    assert held is not None
    assert held.claim.generation == 6


def test_a_stopped_process_of_this_machine_is_followed_after_its_lease(claims: Claims) -> None:
    """SIGSTOP leaves a process that exists and does nothing, also for who looks only now."""
    process = subprocess.Popen([sys.executable, "-c", TAKE_AND_HANG, str(claims.experiment.folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        beat_ago(claims, LEASE - 20)
        assert claims.take("run") is None
        beat_ago(claims, LEASE + 1)
        until = time.monotonic() + 5
        while not is_stopped(process.pid) and time.monotonic() < until:
            time.sleep(0.01)
        held = Claims(claims.experiment).take("run")
        assert held is not None
        assert f"process {process.pid} of " in held.after
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_owner_that_was_followed_is_told(claims: Claims) -> None:
    """A process that slept past its lease learns of its follower with the next heartbeat."""
    late, told = claims.take("run"), threading.Event()
    assert late is not None
    late.on_lost = told.set
    with late.beating():
        follower = dataclasses.replace(late.claim, generation=2)
        assert claims.experiment.claims.add(follower)
        assert told.wait(5)
    assert late.lost


def test_heartbeats_keep_a_claim_young_and_tell_the_stage(claims: Claims) -> None:
    """The file's age stays below the lease while the work lasts."""
    held = claims.take("run")
    assert held is not None
    held.progress = lambda: ("evaluate", 5, 9)
    with held.beating():
        beat_ago(claims, 1000)
        deadline = time.monotonic() + 5
        while claims.history("run")[0].stage != "evaluate" and time.monotonic() < deadline:
            time.sleep(0.02)
    (claim,) = claims.history("run")
    assert (claim.stage, claim.finished, claim.total) == ("evaluate", 5, 9)
    age = claims.experiment.claims.age(claim)
    assert age is not None
    assert age < 60


def test_deaths_count_where_nothing_was_gained() -> None:
    """Three deaths in one stage without new records are at the same place.

    Progress, or an end, starts the count again.
    """
    me = dataclasses.asdict(identity())

    def claim(number: int, stage: str, found: str, ended: str = "") -> Claim:
        return Claim(unit="run", generation=number, sweep="", lease=1, taken="", stage=stage, found=found, ended=ended, **me)

    same = [claim(1, "train", "a"), claim(2, "train", "a"), claim(3, "train", "a")]
    assert len(deaths(same)) == 3
    assert len(deaths([*same, claim(4, "train", "b")])) == 1
    assert len(deaths([*same, claim(4, "evaluate", "a")])) == 1
    assert deaths([*same, claim(4, "train", "a", ended="interrupted")]) == []
    assert len(deaths([claim(1, "train", "a", ended="failed"), *same[1:]])) == 2


def test_a_claim_being_written_is_held(claims: Claims) -> None:
    """Without links a new claim is empty for a moment, and still held."""
    path = claims.experiment.folder / "claims" / "run" / "1.json"
    path.parent.mkdir(parents=True)
    path.touch()
    assert claims.held("run")
    assert claims.take("run") is None


def test_a_heartbeat_that_fails_is_not_the_last(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is down for a moment costs one heartbeat.

    The next one is written, and a follower is still noticed.
    """
    held, told, calls = claims.take("run"), threading.Event(), []
    assert held is not None
    has = ClaimLog.has

    def flaky(log: ClaimLog, unit: str, number: int) -> bool:
        calls.append(number)
        if len(calls) == 1:
            raise OSError(116, "Stale file handle")
        return has(log, unit, number)

    monkeypatch.setattr(ClaimLog, "has", flaky)
    held.on_lost = told.set
    assert claims.experiment.claims.add(dataclasses.replace(held.claim, generation=2))
    with held.beating():
        assert told.wait(5)


def test_heartbeats_go_on_without_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that cannot be written anew is renewed: no other worker takes the unit."""
    held = Claims(Experiment(tmp_path), beat=0.02).take("a")
    assert held is not None
    path = tmp_path / "claims" / "a" / "1.json"
    os.utime(path, (1, 1))
    monkeypatch.setattr(ClaimLog, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with held.beating():
        until = time.monotonic() + 5
        while path.stat().st_mtime < 1000 and time.monotonic() < until:
            time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 60


def test_an_end_is_never_overwritten_by_a_heartbeat(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end waits for a heartbeat that is being written."""
    write, slow = ClaimLog.write, threading.Event()

    def slowly(log: ClaimLog, claim: Claim) -> None:
        if not claim.ended:
            slow.set()
            time.sleep(0.3)
        write(log, claim)

    monkeypatch.setattr(ClaimLog, "write", slowly)
    held = claims.take("run")
    assert held is not None
    with held.beating():
        assert slow.wait(5)
        held.end("done")
    assert claims.history("run")[0].ended == "done"


def test_leaving_with_the_coordinator_is_no_death() -> None:
    """Three Ctrl-C in one long stage do not count.

    Deaths that count are counted across them.
    """
    me = dataclasses.asdict(identity())
    kills = [
        Claim(unit="run", generation=number, sweep="", lease=1, taken="", stage="load", died=died, **me)
        for number, died in enumerate(["signal SIGKILL", LEFT, LEFT, "signal SIGKILL", LEFT])
    ]
    assert [claim.generation for claim in deaths(kills)] == [3, 0]
