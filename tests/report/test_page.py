from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.analysis.frame import table
from harness.records import Experiment
from harness.report import page
from tests.analysis.fabricate import Task, share, write_run

WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "datasets", "peft", "lm_eval", "trl", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from harness.analysis.frame import table
from harness.records import Experiment
from harness.report import page, tables
experiment = Experiment(Path(sys.argv[1]))
tables.summary(table(experiment))
page.write(experiment)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_report_is_a_folder_of_page_figures_and_table(experiment: Experiment) -> None:
    """Nothing else is left beside it, and writing it again changes no byte."""
    where = page.write(experiment)
    assert where == experiment.folder / "report" / "report.md"
    first = contents(where.parent)
    stems = ["forgetting", "learning", "tradeoff"]
    assert set(first) == {"report.md", "table.csv", *(f"{stem}.{suffix}" for stem in stems for suffix in ["png", "svg"])}
    page.write(experiment)
    assert contents(where.parent) == first
    assert {path.name for path in experiment.folder.iterdir()} == {"baselines", "runs", "manifest.json", "report"}


def test_a_report_that_breaks_leaves_the_old_one(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader never sees half a report."""
    first = contents(page.write(experiment).parent)
    monkeypatch.setattr(page, "text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.write(experiment)
    assert contents(experiment.folder / "report") == first


@pytest.mark.parametrize(
    "words",
    [
        "# small: what was learned, what was lost",
        "Protocol version 2. Every interval is at 95%",
        "**tiny-a, full**, after 32 rows: learned math_nll (-0.",
        "not measured: sums",
        "learning rate not tuned: not a method comparison (1 of 2 runs)",
        "1 seed(s): intervals over items only",
        "1 run(s) failed: failed00 (tiny-a, dora): TrainingError: nan",
        "1 failed measurement(s) of old, sums: RuntimeError: out of memory",
        "| people | old | 1 of 40 (2.5%) | 4 of 20 (20.0%) |",
        "| people | math_nll | expected | expected |",
        "harness report small",
        "commit abc1234; harness 0.1.0, torch 2.13.0",
        "| tiny-a | full | 32 | 145,000 | 4 | 320 | 128 | 0 | 2.0 | 3.2e+07 | 0.30 |",
        "![Change on what the model knew before, against the volume of target data.](forgetting.png)",
    ],
)
def test_the_page_says_what_a_reader_needs(experiment: Experiment, words: str) -> None:
    """Findings, warnings, failures counted, costs, overlap, and how to make it again."""
    assert words in page.text(experiment, table(experiment), [("forgetting", page.FIGURES["forgetting"][1])])


def test_stale_and_absent_runs_are_counted(experiment: Experiment) -> None:
    """What the last command asked for and is not there, and what is there and was not asked for."""
    experiment.write_manifest({"full000": {}, "unknown": {}}, keep=False)
    text = page.text(experiment, table(experiment), [])
    assert "1 run(s) not started" in text
    assert "2 stale run(s)" in text
    assert "lora000" not in text


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    """A model, a reason and a task that hold HTML, links and table cells stay words."""
    experiment = Experiment(tmp_path / "e")
    hostile = "<img src=x onerror=y>|[a](http://b)"
    task = Task(suite="old", task="t", values=share(6, 8))
    write_run(experiment, "r", before=[task], points={8: [task]}, roles={"old": "probe"}, labels={"model": hostile}, failure=hostile)
    text = page.text(experiment, table(experiment), [])
    outside_code = text.split("```json")[0]
    assert "<img" not in outside_code
    assert "](http:" not in outside_code


def test_a_report_without_a_point_still_says_what_failed(tmp_path: Path) -> None:
    """No figure, no finding, but the reason."""
    experiment = Experiment(tmp_path / "e")
    write_run(experiment, "r", before=[], points={}, roles={}, finished=False, failure="ModelError: no such folder")
    text = page.write(experiment).read_text(encoding="utf-8")
    assert "1 run(s) failed: r (tiny-a, full): ModelError: no such folder" in text
    assert "## Figures" not in text


def test_analysis_and_report_work_without_torch(experiment: Experiment) -> None:
    """Table, summary, figures and page are made where no model library can be imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, str(experiment.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (experiment.folder / "report" / "report.md").exists()
