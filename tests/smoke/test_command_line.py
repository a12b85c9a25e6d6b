"""The real command line, from sweep to report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import app as command
from tests.smoke.conftest import SWEEP, Cli


def test_a_sweep_prints_a_table_and_the_next_command(cli: Cli, swept: subprocess.CompletedProcess[str]) -> None:
    """Data are on standard output, the report's path and the next command on standard error."""
    assert "nursery-smoke-a" in swept.stdout
    assert "index.html" in swept.stderr
    assert "next: harness table smoke --format text" in swept.stderr
    report = cli.folder / "results" / "smoke" / "report"
    assert (report / "index.html").stat().st_size > 5000
    assert list(report.glob("*.png"))
    assert list(report.glob("*.svg"))


def test_the_same_sweep_again_computes_nothing(cli: Cli, swept: subprocess.CompletedProcess[str]) -> None:
    """Every run is found done; no record is written."""
    records = {path: path.stat().st_mtime_ns for path in (cli.folder / "results" / "smoke").rglob("*.json")}
    again = cli(*SWEEP)
    assert "0 run(s) done, 4 already done, 0 failed" in again.stderr
    after = {path: path.stat().st_mtime_ns for path in (cli.folder / "results" / "smoke" / "runs").rglob("*.json")}
    assert after == {path: stamp for path, stamp in records.items() if "runs" in path.parts}


def test_the_table_holds_a_whole_curve_for_each_run(cli: Cli, swept: subprocess.CompletedProcess[str]) -> None:
    """Every run has volume 0 with delta 0; every row has its interval."""
    rows = pd.DataFrame(json.loads(cli("table", "smoke", "--format", "json").stdout))
    assert rows["run_id"].nunique() == 4
    assert set(rows["volume"]) == {0, 64}
    before = rows[rows["volume"] == 0]
    assert (before["delta"] == 0).all()
    after = rows[(rows["volume"] == 64) & rows["primary"]]
    assert (after["delta_low"] <= after["delta"]).all()
    assert (after["delta"] <= after["delta_high"]).all()
    assert (after["delta"] == after["value"] - after["before"]).mean() > 0.9 or (
        after["delta"] - after["value"] + after["before"]
    ).abs().max() < 1e-9
    assert set(rows["role"]) == {"target", "probe"}
    assert set(rows[rows["task"] == "*"]["suite"]) == {"tinyworld", "tinyworld-people"}


def test_the_table_is_written_in_every_format(cli: Cli, swept: subprocess.CompletedProcess[str]) -> None:
    """The format follows from the file's suffix; parquet keeps the types."""
    csv = cli("table", "smoke").stdout.splitlines()
    for name in ["t.csv", "t.json", "t.md", "t.parquet"]:
        cli("table", "smoke", "--output", name)
        assert (cli.folder / name).stat().st_size > 500
    table = pd.read_parquet(cli.folder / "t.parquet")
    assert len(table) == len(csv) - 1
    assert list(table.columns) == csv[0].split(",")


def test_a_volume_added_later_extends_the_run(cli: Cli, swept: subprocess.CompletedProcess[str]) -> None:
    """Only the new point is computed; the old ones are not written."""
    model = ["model=nursery-smoke-a", "tuning=full"]
    runs = cli.folder / "results" / "smoke" / "runs"
    points = {path: path.stat().st_mtime_ns for path in runs.rglob("point.json")}
    done = cli("run", "experiment=smoke", *model, "data.volumes=[64,128]")
    assert "1 run(s) done" in done.stderr
    fresh = set(runs.rglob("point.json")) - set(points)
    assert [path.parent.name for path in fresh] == ["128"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in points.items())


RUN = ["model=nursery-smoke-a", "target_suites=[]", "name=runs"]


def test_a_killed_run_resumes_with_the_same_command(cli: Cli) -> None:
    """Points are written when reached; the scores are those of an uninterrupted run."""
    cli("run", *RUN, "data.volumes=[8,16,24]", "seed=5")
    folder = cli.folder / "results" / "runs"
    whole = _scores(folder)
    (record,) = folder.glob("runs/*/record.json")
    record.unlink()
    (record.parent / "points" / "16" / "point.json").unlink()
    cli("run", *RUN, "data.volumes=[8,16,24]", "seed=5")
    assert _scores(folder) == whole


def _scores(folder: Path) -> dict[str, object]:
    """Return the scores of each measurement, and the weights of each point."""
    points = {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in folder.rglob("point.json")}
    return points | {str(path.parent): json.loads(path.read_text())["scores"] for path in folder.rglob("measurement.json")}


def test_another_seed_gives_another_run(cli: Cli) -> None:
    """The seed changes the order of the data."""
    for seed in (5, 6):  # the first of them is done already, unless this test runs alone
        cli("run", *RUN, "data.volumes=[8]", f"seed={seed}")
    points = (cli.folder / "results" / "runs").rglob("8/point.json")
    first, second = (json.loads(path.read_text())["weight_change"] for path in points)
    assert first != second


def test_help_is_instant() -> None:
    """`harness --help` imports neither torch nor hydra nor pandas."""
    script = "\n".join(
        [
            "import sys; from harness.cli.app import main",
            "try: main(['--help'])",
            "except SystemExit: pass",
            "assert not {'torch', 'hydra', 'pandas'} & set(sys.modules)",
        ]
    )
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("group", ["model", "tuning", "data", "anchor", "suites", "experiment"])
def test_list_shows_the_members_of_a_group(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a line that describes it."""
    assert command.main(["list", group]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(len(line.split()) > 2 for line in lines), lines
