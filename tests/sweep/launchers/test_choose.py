"""The choice of a launcher: a shipped one, or a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.display import display
from harness.core.errors import ConfigError
from harness.records.writer import ExperimentWriter
from harness.sweep.command import Started, carry
from harness.sweep.launchers import choose
from harness.sweep.launchers.local import Local
from harness.sweep.launchers.slurm import Slurm
from tests.support.units import run_unit, sweep_of

OWN = """
from dataclasses import dataclass

from harness.config.resolution import Machine
from harness.sweep import Launcher
from harness.sweep.tally import Tally


@dataclass(frozen=True, kw_only=True)
class Mine(Launcher):
    greeting: str = ""

    @property
    def machine(self):
        return Machine(cores=1, gpus=0)

    def carry(self, work, display, *, wait):
        work.announce()
        display.say(f"{self.greeting} {len(work.units)} units, wait={wait}")
        return Tally(done=len(work.units)) if wait else None


@dataclass
class Other:
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's own launcher."""
    folder = tmp_path / "conf" / "launcher"
    folder.mkdir(parents=True)
    (tmp_path / "own_launcher.py").write_text(OWN)
    (folder / "mine.yaml").write_text("# mine\nclass: own_launcher:Mine\ngreeting: hello,\n")
    (folder / "other.yaml").write_text("# not a launcher\nclass: own_launcher:Other\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    return tmp_path


def test_a_launcher_and_its_values_are_taken_out_of_the_overrides() -> None:
    """`local` is the default, and the only one that `harness run` accepts."""
    launcher, rest = choose.split(["seed=0", "launcher.workers=2", "tuning=full"])
    assert (launcher, rest) == (Local(workers=2), ["seed=0", "tuning=full"])
    assert launcher.here
    launcher, _ = choose.split(["launcher=slurm", "launcher.extra.constraint=a100"])
    assert isinstance(launcher, Slurm)
    assert (launcher.here, launcher.workers, launcher.extra) == (False, 8, {"constraint": "a100"})


@pytest.mark.parametrize("wait", [True, False])
def test_a_users_own_launcher_carries_a_sweep(own: Path, capsys: pytest.CaptureFixture[str], wait: bool) -> None:
    """It gets the units, announces the runs and returns their totals, or None without waiting."""
    launcher, _ = choose.split(["launcher=mine"])
    announced: list[bool] = []
    units = [run_unit("a", "run a"), run_unit("b", "run b")]
    started = Started(
        experiment=ExperimentWriter(own / "e"),
        sweep=sweep_of(units),
        units=units,
        announce=lambda: announced.append(True),
        already_done=3,
        same=False,
        launcher=launcher,
    )
    with display() as progress:
        tally = carry(started, progress, wait=wait)
    assert announced == [True]
    assert f"hello, 2 units, wait={wait}" in capsys.readouterr().err
    assert (None if tally is None else (tally.done, tally.already_done)) == ((2, 3) if wait else None)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["launcher=slrum"], ["launcher: got 'slrum'", "did you mean 'slurm'"]),
        (["launcher.wrokers=2"], ["launcher.wrokers", "did you mean 'workers'"]),
        (["launcher=other"], ["launcher=other.class: got Other", "a subclass of harness.sweep.launchers.choose.Launcher"]),
    ],
)
def test_a_wrong_launcher_is_one_line(own: Path, overrides: list[str], words: list[str]) -> None:
    """Before anything is planned."""
    with pytest.raises(ConfigError) as caught:
        choose.split(overrides)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
