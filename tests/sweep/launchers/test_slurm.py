"""Calls to Slurm, and the use of its answers; tests/cluster calls a real one."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config.strict import build
from harness.core.display import display
from harness.core.errors import ConfigError
from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter
from harness.sweep.launchers import slurm
from harness.sweep.launchers.choose import Work
from harness.sweep.launchers.slurm import Slurm


class Commands:
    """Stand-ins for Slurm's commands: each prints the text of a file and keeps its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ["sbatch", "srun", "squeue", "scontrol"]:
            script = folder / name
            script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.asked\n[ -f {folder}/{name}.says ] && cat {folder}/{name}.says\n')
            script.chmod(0o755)
        self.say("sbatch", "Submitted batch job 7")
        self.say("squeue", "")
        self.say("scontrol", "")

    def say(self, name: str, text: str | None) -> None:
        """Set the output of a command; with None it fails."""
        path = self.folder / f"{name}.says"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    def asked(self, name: str) -> str:
        """Return the arguments of all calls of a command."""
        path = self.folder / f"{name}.asked"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Put the stand-ins on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Commands(folder)


def sweep_of(folder: Path, sweep_id: str, *units: str) -> None:
    """Write a sweep of units by name."""
    made = tuple(
        Unit(kind="run", id=unit, overrides=(), label=unit, evaluations={}, threads=1, processes=1, params_total=1, cost=1.0)
        for unit in units
    )
    ExperimentWriter(folder).write_sweep(Sweep(id=sweep_id, experiment="exp", command="", time="", cores=1, gpus=0, units=made))


def lines(folder: Path, sweep_id: str, job: str = "7") -> list[str]:
    """Return the submitted script."""
    return (folder / "slurm" / sweep_id / f"{job}_submission.sh").read_text().splitlines()


def test_what_is_configured_is_what_sbatch_is_asked_for(commands: Commands, tmp_path: Path) -> None:
    """Every option arrives, setup lines come before the worker, and `extra` overrides.

    Null sets no option.
    """
    values = {
        "workers": 2,
        "partition": "gpu",
        "gpus": 2,
        "cpus": 6,
        "memory_gb": 1.5,
        "hours": 2,
        "setup": ["module load cuda"],
        "python": "uv run python",
        "extra": {"constraint": "a100", "gpus-per-node": "a100:2"},
    }
    assert build(Slurm, values, "launcher").submit(tmp_path / "exp", "exp", "one", units=9) == ["7_0", "7_1"]
    script = lines(tmp_path / "exp", "one")
    options = {line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH")}
    assert options >= {"array=0-1%2", "partition=gpu", "cpus-per-task=6", "mem=1536M", "time=120", "signal=USR2@300", "requeue"}
    assert {option for option in options if "gpu" in option} == {"partition=gpu", "gpus-per-node=a100:2"}
    assert "constraint=a100" in options
    assert not [option for option in options if option.startswith(("account", "qos", "wckey"))]
    run = next(line for line in script if line.startswith("srun"))
    assert "--cpus-per-task=6 uv run python -u -m submitit" in run
    assert script.index("module load cuda") < script.index(run)


def test_no_script_has_a_secret(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job reads it from the environment, which sbatch passes on; other lines stay."""
    monkeypatch.setenv("HF_TOKEN", "")  # restored afterwards
    monkeypatch.setenv("B_KEY", "")
    setup = ("export HF_TOKEN='abc def'", "module load cuda; export  A=1 B_KEY=x'y'z", "export A_TOKEN=$(cat file)")
    Slurm(setup=setup).submit(tmp_path / "exp", "exp", "one", units=1)
    script = lines(tmp_path / "exp", "one")
    assert {'export HF_TOKEN="$HF_TOKEN"', 'module load cuda; export  A=1 B_KEY="$B_KEY"', setup[2]} <= set(script)
    assert (os.environ["HF_TOKEN"], os.environ["B_KEY"]) == ("abc def", "xyz")
    written = [path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()]
    assert not [text for text in written if b"abc def" in text or b"xyz" in text]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"setup": ("hf login --token abc",)}, r"launcher.setup: got a secret \(hf login --token \*\*\*\)"),
        ({"setup": ('export A_KEY="abc$B"',)}, r"launcher.setup: got a secret \(export A_KEY=\*\*\*\)"),
        ({"setup": ("export A_KEY=$'abc'",)}, "launcher.setup: got a secret"),
        ({"setup": ("export A_KEY=${A_KEY:-abc}",)}, "launcher.setup: got a secret"),
        ({"setup": ("python -c 'A_KEY=abc'",)}, "launcher.setup: got a secret"),
        ({"setup": ("export A_KEY=x", "export A_KEY=abc")}, "launcher.setup: got a secret"),
        ({"setup": ("git clone https://me:abc@host/x",)}, "launcher.setup: got a secret"),
        ({"python": "A_KEY=abc python"}, "launcher.python: got a secret"),
        ({"setup": ("export A_KEY=abc",), "extra": {"export": "NONE"}}, "launcher.setup: got A_KEY together with launcher.extra.export"),
        ({"extra": {"export": "ALL,A_KEY=abc"}}, r"launcher.extra: got a secret \(export=ALL,A_KEY=\*\*\*\)"),
    ],
)
def test_a_secret_that_a_script_would_have_is_rejected(commands: Commands, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    """Before anything is submitted; the message does not show it."""
    with pytest.raises(ConfigError, match=message) as caught:
        Slurm(**values).check()
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(("units", "jobs"), [(1, ["7"]), (2, ["7_0", "7_1"]), (50, ["7_0", "7_1", "7_2"])])
def test_no_more_workers_than_units(commands: Commands, tmp_path: Path, units: int, jobs: list[str]) -> None:
    """As many workers as units, and never more than configured."""
    assert Slurm(workers=3).submit(tmp_path / "exp", "exp", "one", units=units) == jobs


def test_workers_in_the_queue_are_not_submitted_again(commands: Commands, tmp_path: Path) -> None:
    """Workers of this sweep count, and of an earlier one with all of its units.

    Others do not.
    """
    folder = tmp_path / "exp"
    sweep_of(folder, "one", "a", "b", "c")
    sweep_of(folder, "two", "b", "c")
    sweep_of(folder, "three", "b", "d")
    Slurm(workers=2).submit(folder, "exp", "one", units=3)
    commands.say("squeue", "3_0\n7_0\n7_1\n")
    assert slurm.queued(folder, "two") == ["7_0", "7_1"]
    assert slurm.queued(folder, "three") == []
    assert Slurm(workers=2).submit(folder, "exp", "two", units=2) == ["7_0", "7_1"]
    assert commands.asked("sbatch").count("\n") == 1
    commands.say("sbatch", "Submitted batch job 8")
    assert Slurm(workers=3).submit(folder, "exp", "two", units=9) == ["7_0", "7_1", "8"]


def test_a_controller_that_does_not_answer_ends_nothing(commands: Commands) -> None:
    """The command waits for jobs until Slurm reports that they are gone."""
    commands.say("squeue", "7_0\n")
    assert slurm.waiting(["7_0", "7_1"])
    assert not slurm.waiting(["7_1"])
    commands.say("squeue", None)
    assert slurm.waiting(["7_1"])


def test_what_sbatch_refuses_is_one_line(commands: Commands, tmp_path: Path) -> None:
    """Its last line is shown."""
    (commands.folder / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="sbatch: got error: invalid partition specified: x; .*fix: partition, account"):
        Slurm(partition="x").submit(tmp_path / "exp", "exp", "one", units=1)


def test_a_controller_that_is_away_is_told_before_anything_is_written(commands: Commands) -> None:
    """`harness sweep` checks its launcher first."""
    commands.say("squeue", None)
    with pytest.raises(ConfigError, match="no answer from its controller"):
        Slurm().check()


def test_a_sweep_is_announced_once_its_jobs_are_in_the_queue(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without waiting the command returns; rejected jobs announce nothing."""
    announced: list[bool] = []
    sweep_of(tmp_path / "exp", "one", "a", "b")
    experiment = ExperimentWriter(tmp_path / "exp")
    sweep = experiment.sweep("one")
    assert sweep is not None
    work = Work(experiment=experiment, sweep=sweep, units=sweep.units, announce=lambda: announced.append(True))
    with display() as progress:
        assert Slurm(workers=2).carry(work, progress, wait=False) is None
        assert announced == [True]
        assert "2 worker(s) in the queue: 7_0, 7_1" in capsys.readouterr().err
        commands.say("squeue", "")
        (commands.folder / "sbatch").write_text("#!/bin/sh\nexit 1\n")
        with pytest.raises(ConfigError, match="sbatch"):
            Slurm(workers=2).carry(work, progress, wait=False)
    assert announced == [True]


def test_no_sbatch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where the command works, and which launcher works here."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="got no sbatch on this machine.*launcher=local"):
        Slurm().submit(tmp_path / "exp", "exp", "one", units=1)


def test_memory_is_asked_for_by_the_largest_model() -> None:
    """20 bytes a parameter and 1.5 GB of a worker; what is configured is asked for as it is."""
    asked = [Slurm(memory_gb=one).parameters("exp", 20 * 8e9 + 1.5 * 2**30)["mem"] for one in (None, 48)]
    assert asked == [f"{round(20 * 8e9 / 2**20 + 1536)}M", "49152M"]
    assert Slurm().parameters("exp", 2**30)["mem"] == "32768M"
    assert "mem" not in Slurm(extra={"mem": None}).parameters("exp", 2**30)


@pytest.mark.parametrize("values", [{"workers": 0}, {"gpus": -1}, {"hours": 0.0}, {"hours": 0.1, "grace_minutes": 5}, {"memory_gb": 0}])
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    """Also a grace time that leaves no time to work."""
    with pytest.raises(ConfigError, match="launcher."):
        build(Slurm, values, "launcher")


WORKS = """#!{python}
import os, signal, sys, time
stopped = []  # an Event takes a lock, which a signal handler must not wait for
signal.signal(signal.SIGUSR2, lambda *_: stopped.append(1))
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
open("starts", "a").write("x")
starts = len(open("starts").read())
what, _, times = open("does").read().partition(" ")
if what == "stops":
    os.kill(os.getppid(), int(times))
    end = time.monotonic() + 10
    while not stopped and time.monotonic() < end:
        time.sleep(0.01)
    sys.exit({interrupted} if stopped else 1)
if what == "dies" and starts <= int(times):
    os.kill(os.getpid(), signal.SIGKILL)
if what == "sick" and starts <= int(times):
    sys.exit({sick})
"""
"""The working process of a job: stopped, killed, or without a working GPU, as a file says."""


@pytest.fixture
def job(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A job's environment in a folder where ``does`` says what the child process does.

    Afterwards the signal handlers are restored.
    """
    for name, value in {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    python = tmp_path / "python"
    python.write_text(WORKS.format(python=sys.executable, interrupted=slurm.INTERRUPTED, sick=slurm.SICK))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)}
    yield monkeypatch
    for number, handler in before.items():
        signal.signal(number, handler)
    logging.getLogger("submitit").propagate = True


def tell(number: signal.Signals) -> None:
    """Run a job that gets this signal while its child works."""
    Path("does").write_text(f"stops {int(number)}")
    with pytest.raises(SystemExit, match="1"):
        slurm.carry(Path("exp"), "one", 2)


@pytest.mark.parametrize("how", ["dies 2", "sick 2"])
def test_a_job_outlives_the_process_that_works_in_it(job: pytest.MonkeyPatch, how: str) -> None:
    """A killed child, or one without a working GPU, is replaced until nothing is left."""
    Path("does").write_text(how)
    slurm.carry(Path("exp"), "one", 2)
    assert Path("starts").read_text() == "xxx"


def test_a_job_does_not_start_processes_for_ever(job: pytest.MonkeyPatch) -> None:
    """Children that die at once, again and again, end it."""
    Path("does").write_text("dies 99")
    with pytest.raises(SystemExit, match="1"):
        slurm.carry(Path("exp"), "one", 2)
    assert len(Path("starts").read_text()) == slurm.MOST_SHORT


@pytest.mark.parametrize(
    ("number", "state", "queues"),
    [
        (signal.SIGUSR2, "RUNNING\n", True),  # the time limit is near
        (signal.SIGTERM, "RUNNING\n", True),  # preempted, with time to leave
        (signal.SIGTERM, "COMPLETING\n", False),  # cancelled
        (signal.SIGUSR2, "COMPLETING\n", False),  # told to stop, then cancelled
        (signal.SIGUSR2, None, True),  # no answer
        (signal.SIGTERM, None, False),
    ],
)
def test_a_job_told_to_stop_queues_again_unless_it_was_cancelled(
    commands: Commands, job: pytest.MonkeyPatch, number: signal.Signals, state: str | None, queues: bool
) -> None:
    """After saving it asks Slurm for its state; a cancelled job stays cancelled."""
    commands.say("squeue", state)
    tell(number)
    assert commands.asked("scontrol") == ("requeue 7_1\n" if queues else "")


def test_a_job_does_not_queue_for_ever(commands: Commands, job: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After the configured number of starts it stops, with a message."""
    commands.say("squeue", "RUNNING\n")
    job.setenv("SLURM_RESTART_COUNT", "2")
    tell(signal.SIGUSR2)
    assert commands.asked("scontrol") == ""
    assert "launcher.requeues=2" in capsys.readouterr().err
