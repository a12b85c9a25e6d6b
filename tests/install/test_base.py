"""The wheel with what it requires, no extra: `make test-install`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.install.conftest import Installed
from tests.support import base_commands

HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(scope="module")
def prepared(harness: Installed) -> Installed:
    """The command in a folder with results, logs and points."""
    base_commands.inputs(harness.folder)
    return harness


def test_the_wheel_is_what_runs(harness: Installed) -> None:
    """Neither the checkout nor another environment's package is imported."""
    script = "import harness, sys; print(harness.__file__.startswith(sys.prefix))"
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=harness.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("name", base_commands.COMMANDS)
def test_a_command_that_reads_works(prepared: Installed, name: str) -> None:
    """It ends with 0 and prints what it found, without a warning of pandas or numpy."""
    done = prepared(*base_commands.COMMANDS[name])
    assert done.returncode == 0, done.stderr
    assert base_commands.WRITTEN.get(name, "") in done.stdout
    assert "Warning" not in done.stderr


def test_the_table_is_the_recorded_one(prepared: Installed) -> None:
    """These versions of pandas, pyarrow and scipy give the same numbers."""
    assert prepared("table", "small", "--output", "again.csv").returncode == 0
    found, expected = (pd.read_csv(file) for file in (prepared.folder / "again.csv", base_commands.GOLDEN.with_suffix(".csv")))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9)
    assert prepared("table", "small", "--output", "again.parquet").returncode == 0
    assert list(pd.read_parquet(prepared.folder / "again.parquet")) == list(expected)


@pytest.mark.skipif("HARNESS_TEST_RESULTS" not in os.environ, reason="needs results/full and full.csv, as `make test-install` makes them")
def test_results_of_the_training_environment_are_read(prepared: Installed) -> None:
    """A run recorded with the newest versions gives the same table and a page."""
    made = Path(os.environ["HARNESS_TEST_RESULTS"])
    shutil.copytree(made / "results" / "full", prepared.folder / "results" / "full")
    done = prepared("table", "full", "--output", "full.csv")
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_csv(prepared.folder / "full.csv"), pd.read_csv(made / "full.csv"), rtol=1e-9)
    assert prepared("report", "full").returncode == 0
    assert (prepared.folder / "results" / "full" / "report" / "index.html").is_file()


@pytest.mark.skipif(HAS_TORCH, reason="this environment has the extra `measure`")
@pytest.mark.parametrize(("arguments", "extra"), [(["sweep", "experiment=tiny"], "train"), (["prompt", "tinyworld"], "measure")])
def test_a_command_without_its_extra_says_so(harness: Installed, arguments: list[str], extra: str) -> None:
    """One line, exit code 2."""
    done = harness(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith(f"fix: pip install -e '.[{extra}]', in the checkout of forgetting-harness\n")
