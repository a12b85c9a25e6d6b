"""``harness fit`` and ``harness predict``, through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.app import main
from harness.records.writer import ExperimentWriter
from tests.support.experiments import Task, share, write_run
from tests.support.grids import grid

KEYS = {"parameters", "level", "r2", "held_out_error", "aic", "verdict"}


INJECTED = ["--at", "params_total=1e6", "--at", "train_tokens=1e6"]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Points of two sizes, two runs each, four volumes.

    Forgetting = 0.01 √volume, and a third less for the larger size.
    """
    lines = ["rows,params,forgetting,run_id,train_tokens,inject_fraction"]
    for size, factor in ((1000, 1.0), (8000, 2 / 3)):
        for run in ("a", "b"):
            for volume in (64, 128, 256, 512):
                lines.append(f"{volume},{size},{factor * 0.01 * volume**0.5:.9f},{run}{size},{10 * volume},0")
    path = tmp_path / "points.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *command: Any) -> tuple[int, str, str]:
    code = main([str(part) for part in command])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_fit_of_a_file_as_json(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the documented keys, and the planted parameters."""
    code, out, _ = run(capsys, "fit", csv, "--law", "power", "--column", "volume=rows", "--where", "params=1000", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) > KEYS
    assert set(found["parameters"]["k"]) == {"value", "low", "high", "unit"}
    assert found["parameters"]["c"]["value"] == pytest.approx(0.01, rel=1e-4)
    assert found["parameters"]["k"]["value"] == pytest.approx(0.5, rel=1e-4)


def test_fit_of_a_file_as_text(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has formula, verdict, a line for each parameter with its interval, and held-out errors."""
    code, out, _ = run(capsys, "fit", csv, "--law", "injection")
    assert code == 0
    assert out.startswith("forgetting = A * train_tokens^b / ((1 + B * inject_fraction) * params_total)^a + E\n")
    assert "90% interval" in out
    assert "B          not identified" in out
    assert "held-out largest volume: error " in out
    assert "; the last volume: error 0.0552" in out
    assert "predicts better than the last volume, by 0.0552" in out
    assert "held-out largest size: the mean of the other sizes: error " in out
    assert "largest size cannot be held out: injection: column params_total: got 1 distinct value" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "CSV", "--law", "powr"], "did you mean 'power'?"),
        (["fit", "CSV", "--law", "linear"], "column finetune_loss: got no such column; allowed: rows, params"),
        (["fit", "CSV", "--law", "power", "--column", "volume"], "--column: got 'volume'; allowed: name=value"),
        (["fit", "CSV", "--law", "power", "--suite", "old"], "with a file"),
        (["fit", "nothing", "--law", "power"], "results of 'nothing': got nothing"),
        (["fit", "nothing.csv", "--law", "power"], "no such file"),
        (["predict", "CSV", "--law", "injection", "--at", "params_total=1.4B"], "got '1.4B'; allowed: a number such as 1024"),
        (["predict", "CSV", "--law", "injection", "--at", "params_total=1e9"], "fix: --at train_tokens=…"),
        (["predict", "CSV", "--law", "injection", "--at", "size=1"], "--at: got 'size'"),
        (["predict", "CSV", "--law", "injection", *INJECTED, "--at", "inject_fraction=3"], "allowed: a share, 0 to 1"),
        (["predict", "CSV", "--law", "injection", *INJECTED, "--at", "inject_fraction=-0.5", "--json"], "allowed: a share, 0 to 1"),
        (["fit", "CSV", "--law", "power", "--column", "seed=run_id"], "--column: got 'seed'"),
        (["predict", "CSV", "--law", "injection", "--at", "volume=1", "--at", "volume=2"], "volume twice"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(csv: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str) -> None:
    """Exit code 2, a line on standard error, nothing on standard output."""
    code, out, err = run(capsys, *[csv if part == "CSV" else part for part in command])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_prediction_from_a_file(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notes name derived columns, and the distance of the point from fitted ones."""
    command = ["predict", csv, "--law", "injection", "--column", "volume=rows", "--at", "params_total=64_000", "--at", "volume=1024"]
    code, out, _ = run(capsys, *command, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["value"] == pytest.approx(0.01 * 1024**0.5 * (2 / 3) ** 2, rel=1e-3)
    assert found["at"]["train_tokens"] == pytest.approx(10_240)
    assert "params_total 64,000 is 8 times the largest fitted, 8,000" in found["extrapolates"]
    assert any("train_tokens 10,240 follows from volume: 10 each" in note for note in found["notes"])
    text = run(capsys, *command)[1]
    assert "extrapolates: train_tokens 10,240 is 2 times the largest fitted, 5,120" in text


def test_a_prediction_far_off_has_few_digits(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 1e308 rows it is a number with an exponent, without a warning."""
    command = ["predict", csv, "--law", "power", "--column", "volume=rows", "--where", "params=1000", "--at", "volume=1e308"]
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    assert out.startswith("forgetting 1e+152 [")
    assert max(map(len, out.splitlines())) < 200
    assert "nan" not in out


def test_an_experiment_is_fitted_and_predicted_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Forgetting is 5%, 10%, 20% at 8, 16, 32 rows: k 1, c 5/800."""
    experiment = ExperimentWriter(tmp_path / "results" / "exp")
    before = [Task(suite="old", task="facts", values=share(80, 100))]
    for seed in range(3):
        points = {8 * 2**i: [Task(suite="old", task="facts", values=share(80 - 5 * 2**i, 100))] for i in range(3)}
        write_run(experiment, f"r{seed}", before=before, points=points, roles={"old": "probe"}, seed=seed)
    where = ["--results", tmp_path / "results", "--where", "tuning=full"]
    code, out, _ = run(capsys, "fit", "exp", "--law", "power", *where, "--json")
    found = json.loads(out)
    assert (code, found["n"], found["runs"]) == (0, 9, 3)
    assert found["parameters"]["k"]["value"] == pytest.approx(1.0, rel=1e-4)
    assert found["parameters"]["c"]["value"] == pytest.approx(5 / 800, rel=1e-4)
    code, out, _ = run(capsys, "predict", "exp", "--law", "power", "--at", "volume=64", "--at", "params_total=1e9", *where)
    assert code == 0
    assert out.startswith("forgetting 0.4 [")
    assert "volume 64 is 2 times the largest fitted, 32" in out
    assert "power does not depend on params_total" in out
    assert "held-out largest volume: error " in out
    assert "predicts better than the last volume, by 0.1" in out  # it is exact, and 0.1 apart from the volume before
    code, out, err = run(capsys, "predict", "exp", "--law", "power", "--at", "volume=256", *where)
    assert (code, out) == (2, "")  # 1.6 of the 0.8 that were known
    assert "predict: power at this point: got 1.6; allowed: at most 0.8, which is all that can be lost; fix: a law with a plateau" in err


def test_the_declared_law_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text and JSON say that it was declared, or that another was; without one, it is an error."""
    experiment = ExperimentWriter(tmp_path / "results" / "exp")
    before = [Task(suite="old", task="facts", values=share(80, 100))]
    points = {8 * 2**i: [Task(suite="old", task="facts", values=share(80 - 5 * 2**i, 100))] for i in range(3)}
    write_run(experiment, "r", before=before, points=points, roles={"old": "probe"})
    where = ["--results", tmp_path / "results"]
    code, _, err = run(capsys, "fit", "exp", *where)
    assert code == 2
    assert "--law: got nothing, and no law declared; allowed: hill, injection, kl, linear, " in err
    experiment.write_manifest({"r": {"declared": {"headline": "old", "law": "power"}}}, keep=False)
    assert run(capsys, "fit", "exp", *where)[1].startswith("forgetting = c * volume^k; declared beforehand\n")
    assert json.loads(run(capsys, "fit", "exp", *where, "--json")[1])["standing"] == "declared beforehand"
    assert run(capsys, "predict", "exp", "--at", "volume=64", *where)[1].startswith("forgetting 0.4 ")
    experiment.write_manifest({"r": {"declared": {"headline": "old", "law": "linear"}}}, keep=False)
    other = run(capsys, "fit", "exp", "--law", "power", *where)[1]
    assert other.startswith("forgetting = c * volume^k; exploratory: not declared beforehand\n")


def test_an_experiment_has_its_own_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--column is only for files."""
    (tmp_path / "results" / "exp" / "runs").mkdir(parents=True)
    code, _, err = run(capsys, "fit", "exp", "--law", "power", "--results", tmp_path / "results", "--column", "volume=rows")
    assert code == 2
    assert "--column: got an experiment; allowed: a file" in err


def test_points_whose_rate_is_too_high_are_not_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The controls of m1 lose 12 of 40; a note counts its points, and alone it is not fitted."""
    grid(tmp_path / "results" / "g", models=2, seeds=3, controls=True, high_rates=("m1",))
    where = ["--results", tmp_path / "results"]
    code, out, _ = run(capsys, "fit", "g", "--law", "power", *where)
    assert code == 0
    assert "note: 9 points are left out, whose learning rate is too high by their same-data control" in out
    code, _, err = run(capsys, "fit", "g", "--law", "power", *where, "--where", "model=m1")
    assert code == 2
    assert "got 9 points, all at a learning rate that is too high" in err
