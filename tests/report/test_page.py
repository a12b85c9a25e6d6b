from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.table.frame import table
from harness.records.writer import ExperimentWriter
from harness.report import html, page, words
from harness.report.sections import findings, glossary, metrics
from tests.report.conftest import SMALL
from tests.support.experiments import BEFORE as WEIGHTS_BEFORE
from tests.support.experiments import Task, share, weights_of, write_run
from tests.support.grids import Page, grid

WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "datasets", "peft", "lm_eval", "trl", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from harness.analysis.table.frame import table
from harness.records.store import Experiment
from harness.report import page, tables
experiment = Experiment(Path(sys.argv[1]))
tables.summary(table(experiment))
page.write(experiment)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(experiment: ExperimentWriter) -> Page:
    return Page(html.render(page.content(experiment)))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the recorded small experiment, made once."""
    folder = tmp_path_factory.mktemp("small") / "small"
    shutil.copytree(SMALL, folder)
    return html.render(page.content(ExperimentWriter(folder)))


@pytest.fixture
def found(text: str) -> Page:
    return Page(text)


def test_the_report_is_a_folder_of_page_figures_and_tables(experiment: ExperimentWriter) -> None:
    """Every figure in three formats, every table in two; writing it again changes no byte."""
    where = page.write(experiment)
    assert where == experiment.folder / "report" / "index.html"
    first = contents(where.parent)
    figures = {f"{stem}.{suffix}" for stem in ["forgetting", "learning", "tradeoff"] for suffix in ["png", "svg", "pdf"]}
    tables = {f"{stem}.{suffix}" for stem in ["findings", "heat", "costs", "metrics", "overlap"] for suffix in ["csv", "md"]}
    assert set(first) >= {"index.html", "table.csv", "items.csv"} | figures | tables
    page.write(experiment)
    assert contents(where.parent) == first
    assert "report" in {path.name for path in experiment.folder.iterdir()}


def test_a_report_keeps_files_that_it_did_not_write(experiment: ExperimentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own older files go; a list that names files elsewhere removes nothing there."""
    monkeypatch.setattr(html, "write", lambda _, place: [(place / name).write_text("a") for name in ("index.html", "forgetting.png")])
    monkeypatch.setattr(page, "gather", lambda _: None)
    monkeypatch.setattr(page, "_content", lambda _: None)
    folder = page.write(experiment).parent
    (folder / "notes.md").write_text("mine")
    (folder / "slides").mkdir()
    (folder / "slides" / "forgetting.png").write_text("mine too")
    (folder / "laws.csv").write_text("of an older page")
    listed = json.loads((folder / page.WRITTEN).read_text())
    (folder / page.WRITTEN).write_text(json.dumps([*listed, "laws.csv", "../manifest.json", 5]))
    before = (experiment.folder / "manifest.json").read_bytes()
    page.write(experiment)
    assert (folder / "notes.md").read_text() == "mine"
    assert (folder / "slides" / "forgetting.png").read_text() == "mine too"
    assert not (folder / "laws.csv").exists()
    assert (experiment.folder / "manifest.json").read_bytes() == before
    assert json.loads((folder / page.WRITTEN).read_text()) == listed
    for damaged in ("[", "5", "null"):
        (folder / page.WRITTEN).write_text(damaged)
        assert page.write(experiment).exists()
    assert (folder / "notes.md").exists()


def test_a_report_that_fails_keeps_the_old_one(experiment: ExperimentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader never sees half a report."""
    first = contents(page.write(experiment).parent)
    monkeypatch.setattr(html, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.write(experiment)
    assert contents(experiment.folder / "report") == first


WORDS = [
    "small: what was learned, what was lost",
    "with 95% intervals over items, 1 seed.",
    "Protocol version 3.",
    "headline suite old",
    "After 8 to 32 rows",
    "learned: math_nll (nats per token)",
    "lost: old (points)",
    "kept: the interval is inside the margin (±2.0 points)",
    "Learning rate not tuned for 1 of 2 runs: not a method comparison.",
    "Fewer than 3 seeds for some findings: their intervals are over items only",
    "Of 3 requested runs, 1 failed, 0 unfinished, 0 not started; 4 points measured, 1 measurements failed.",
    "Run failed00 (tiny-a, dora) failed: TrainingError: nan",
    "1 failed measurement(s) of old, sums: RuntimeError: out of memory",
    "No same-data control was run",
    "harness report small",
    "commit abc1234; harness 0.1.0, torch 2.13.0",
    "10 of the 10 changed probe items",
]


def test_the_page_has_all_its_parts(found: Page) -> None:
    """Findings with intervals, floors, warnings, counts of failures, and how to reproduce them."""
    assert [words for words in WORDS if words not in found.text] == []


def test_costs_and_overlap_are_tables(found: Page) -> None:
    """Numbers as recorded; the overlap of a target suite with its own rows is expected."""
    headings = found.rows("costs")[0]
    assert (headings["tokens"], headings["parameters trained"]) == ("320", "145,000")
    assert ", steps 4" in found.text  # constant, so it is in the caption
    assert (headings["training time"], headings["operations"], headings["memory (GB)"]) == ("2 s", "3.2 × 10⁷", "0.30")
    overlap = found.rows("overlap")
    assert [list(row.values()) for row in overlap] == [
        ["people", "math_nll", "expected", "expected"],
        ["people", "old", "1 of 40 (2.5%)", "4 of 20 (20.0%)"],
    ]


def test_the_page_has_the_sections_of_its_contents(found: Page) -> None:
    """Every link has a target, headings skip no level, ids are unique."""
    ids = [attributes["id"] for _, attributes in found.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [
        str(attributes["href"])[1:] for tag, attributes in found.elements if tag == "a" and str(attributes.get("href")).startswith("#")
    ]
    assert set(links) <= set(ids)
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_every_figure_has_a_description(found: Page, text: str) -> None:
    """Each drawing is an image with a title and a description that has numbers."""
    drawings = [attributes for tag, attributes in found.elements if tag == "svg" and "sample" not in str(attributes.get("class"))]
    assert len(drawings) >= 5
    assert all(attributes["role"] == "img" for attributes in drawings)
    for attributes in drawings:
        title, description = str(attributes["aria-labelledby"]).split()
        assert re.search(rf'<title id="{title}">[^<]+</title>', text)
        assert re.search(rf'<desc id="{description}">[^<]*\d[^<]*</desc>', text)


def test_the_findings_on_the_page_are_those_of_the_items(experiment: ExperimentWriter, found: Page) -> None:
    """Changes, counts and n of every measured row equal those of the recorded items."""
    rows = found.rows("findings")
    measured = [row for row in rows if row["suite"].startswith("old") and row["change"] != "-"]
    assert len(measured) == 10  # 2 runs, 2 volumes, suite and 2 tasks; less the failed task sums and its suite
    run_of = {"tiny-a · full": "full000", "tiny-a · lora": "lora000"}
    before = experiment.measurement_samples("tiny-a-old", WEIGHTS_BEFORE).set_index(["task", "doc_hash"])["metric.acc"]
    for row in measured:
        measured_on = weights_of(run_of[row["method"]], int(row["volume"]))
        samples = experiment.measurement_samples("tiny-a-old", measured_on).set_index(["task", "doc_hash"])["metric.acc"]
        moved = (samples - before).dropna()
        moved = moved if row["task"] == "all" else moved[[row["task"]]]
        expected = 100 * moved.groupby(level="task").mean().mean()
        assert float(row["change"].split("[")[0].replace("−", "-")) == pytest.approx(expected, abs=0.051)
        counted = {"lost": int((moved < 0).sum()), "gained": int((moved > 0).sum()), "items": len(moved)}
        assert {name: int(row[name]) for name in counted} == counted


def test_findings_equal_the_table_and_its_file(experiment: ExperimentWriter, found: Page) -> None:
    """One seed: every number of the page's table is, rounded, that of the tidy table."""
    page.write(experiment)
    tidy = table(experiment)
    for row in found.rows("findings"):
        suite, task = row["suite"].removesuffix(" (headline)"), "*" if row["task"] == "all" else row["task"]
        tuning = row["method"].split(" · ")[1]
        same = (tidy["suite"] == suite) & (tidy["task"] == task) & (tidy["tuning"] == tuning) & (tidy["volume"] == int(row["volume"]))
        known = tidy[same & tidy["primary"]]
        scale = 100 if "points" in row["unit"] else 1
        if row["change"] == "-":
            assert known["delta"].isna().all()
            continue
        texts = [row["change"].split("[")[0], *row["change"].split("[")[1].rstrip("]").split(",")]
        shown = [float(text.replace("−", "-")) for text in texts]
        expected = [scale * float(known[name].iloc[0]) for name in ["delta", "delta_low", "delta_high"]]
        assert shown == pytest.approx(expected, abs=0.051 if scale == 100 else 0.00051)
    held = pd.read_csv(experiment.folder / "report" / "findings.csv")
    assert len(held) == len(tidy.query("volume > 0 and primary").drop_duplicates(["run_id", "volume", "suite", "task"]))


def test_stale_and_absent_runs_are_counted(experiment: ExperimentWriter) -> None:
    """Absent runs are requested but do not exist; stale runs are the reverse."""
    experiment.write_manifest({"full000": {}, "unknown": {}}, keep=False)
    text = read(experiment).text
    assert "Of 2 requested runs, 0 failed, 0 unfinished, 1 not started" in text
    assert "2 stale run(s)" in text
    assert "lora000" not in text


def test_a_report_without_a_point_still_says_what_failed(tmp_path: Path) -> None:
    """No figure and no finding, only the reason."""
    experiment = ExperimentWriter(tmp_path / "e")
    write_run(experiment, "r", before=[], points={}, roles={}, finished=False, failure="ModelError: no such folder")
    where = page.write(experiment)
    found = Page(where.read_text(encoding="utf-8"))
    assert "No change is measured yet." in found.text
    assert "Run r (tiny-a, full) failed: ModelError: no such folder" in found.text
    assert [tag for tag, _ in found.elements if tag == "figure"] == []


@pytest.mark.parametrize("declared", [True, False])
def test_a_headline_is_declared_beforehand_only_where_it_was(tmp_path: Path, *, declared: bool) -> None:
    """The first probe suite is the headline without a declaration, and the page says so."""
    experiment = ExperimentWriter(tmp_path / "e")
    tasks = [Task(suite="one", task="o", values=share(6, 8))]
    write_run(experiment, "r", before=tasks, points={8: tasks}, roles={"one": "probe"})
    experiment.write_config("r", {"probe_suites": ["one"]})
    experiment.write_manifest({"r": {"declared": {"headline": "one" if declared else None}}}, keep=False)
    text = read(experiment).text
    assert ("on one (the headline, declared beforehand)" in text) is declared
    assert ("on one (the headline, not declared: the first probe suite)" in text) is not declared
    assert ("No headline suite was declared beforehand." in text) is not declared


def test_without_a_declared_headline_no_suite_is_the_claim(tmp_path: Path) -> None:
    """With two probe suites and none declared, the page says that its answer is exploratory."""
    experiment = ExperimentWriter(tmp_path / "e")
    tasks = [Task(suite=suite, task=suite[0], values=share(6, 8)) for suite in ("one", "two")]
    write_run(experiment, "r", before=tasks, points={8: tasks}, roles={"one": "probe", "two": "probe"})
    text = read(experiment).text
    assert "No suite was declared as the headline before the results were seen" in text
    assert "on one (the headline, not declared: the first probe suite)" in text
    assert "lost: two (points)" in text


def test_a_page_of_many_runs_says_what_it_leaves_out(tmp_path: Path) -> None:
    """Ten sizes and eight mitigations: curves, fields and items are bounded, each bound stated."""
    mitigations = ("none", *(f"replay-{i}" for i in range(7)))
    found = read(grid(tmp_path / "g", models=10, mitigations=mitigations, volumes=(8,)))
    assert "48 of 80 methods are drawn; all are in findings.csv." in found.text
    assert "60 of 80 methods; all are in findings.csv." in found.text
    assert "40 of 80 methods are drawn; all are in methods.csv." in found.text
    assert "60 of 80 methods." in found.text
    assert "From 12 of 80 methods" in found.text


def test_analysis_and_report_work_without_torch(experiment: ExperimentWriter) -> None:
    """Table, summary, figures and page need no model library."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, str(experiment.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (experiment.folder / "report" / "index.html").exists()


def test_words_that_headings_and_verdicts_use_are_explained() -> None:
    """They are the headings as the tables have them."""
    shares = {title.removesuffix(" (%)") for title, _ in metrics.SHARES.values()}
    assert {"over", "pooled"} <= set(findings.TITLES)
    assert {"could be lost", "FG over volumes"} <= shares
    held = words.held_by({"varies": "items", "seeds": 2})
    assert {"over", "pooled", "could be lost", "FG over volumes", held} <= set(glossary.TERMS)
