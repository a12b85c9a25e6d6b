from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.table.frame import table
from harness.records.store import Experiment
from harness.records.writer import ExperimentWriter
from harness.report import evidence
from harness.report.evidence import Evidence

SMALL = Path(__file__).parent.parent / "golden" / "small"


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentWriter:
    """The recorded small experiment, in a separate folder."""
    shutil.copytree(SMALL, tmp_path / "results" / "small")
    return ExperimentWriter(tmp_path / "results" / "small")


@pytest.fixture
def rows(experiment: Experiment) -> pd.DataFrame:
    return table(experiment)


@pytest.fixture
def small(experiment: Experiment) -> Evidence:
    """The data of its page."""
    return evidence.gather(experiment)
