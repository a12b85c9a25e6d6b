from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.table.columns import COLUMNS
from harness.analysis.table.frame import table
from harness.core.errors import ConfigError
from harness.records.writer import ExperimentWriter
from harness.report import tables
from harness.report.tables import DisplayUnit
from tests.support.experiments import Task, flipped, share, write_run

POINTS = DisplayUnit("points", 100.0, 1)


def test_csv_reads_back_equal(rows: pd.DataFrame) -> None:
    """Numbers keep every digit, missing values stay missing."""
    back = pd.read_csv(io.StringIO(tables.render(rows, "csv")), dtype=COLUMNS)
    pd.testing.assert_frame_equal(back, rows)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("+x", "'+x"),
        ("\tx", "'\tx"),
        ("＝1", "'＝1"),
        ("a\x00\x1b[0m\rb", r"a\u0000\u001b[0m\u000db"),
        ("-", "-"),
        ("-12.5 [-16.1, +8.9]", "-12.5 [-16.1, +8.9]"),
        ("-1e-05", "-1e-05"),
        *[(number, number) for number in ("-inf", "+inf", "-5 [−7, −3]", "-5 [-inf, +2]", "+12 %", "-1/2", "-1,024")],
        ("-inf()", "'-inf()"),
        ("-1/A2", "'-1/A2"),
        ("+12 %x", "'+12 %x"),
        ("a = b\n-c", "a = b\n-c"),
    ],
)
def test_no_cell_of_a_csv_is_run(text: str, cell: str) -> None:
    """A text that would be is quoted by an apostrophe; numbers stay, and all cells with ``raw``."""
    frame = pd.DataFrame({"=name": pd.Series([text, None], dtype="string"), "mixed": [text, -1.5], "number": [-1.5, -2.0]})
    back = pd.read_csv(io.StringIO(tables.render(frame, "csv")), dtype="string")
    assert list(back.columns) == ["'=name", "mixed", "number"]
    assert list(back["'=name"].fillna("")) == [cell, ""]
    assert list(back["mixed"]) == [cell, "-1.5"]
    assert list(back["number"]) == ["-1.5", "-2.0"]
    raw = tables.render(frame, "csv", raw=True)
    assert raw == frame.to_csv(index=False, lineterminator="\n")


def test_json_is_a_list_of_rows_with_null_for_missing_values(rows: pd.DataFrame) -> None:
    """Numbers are numbers, true is true, and there is no NaN."""
    text = tables.render(rows, "json")
    assert "NaN" not in text
    found = json.loads(text)
    assert len(found) == len(rows)
    assert list(found[0]) == list(COLUMNS)
    assert (found[0]["volume"], found[0]["lr_tuned"], found[0]["reason"]) == (None, None, "TrainingError: nan")
    assert all(isinstance(row["value"], float) for row in found if row["status"] == "ok")


def test_markdown_has_one_line_per_row(rows: pd.DataFrame) -> None:
    """Heading, rule, rows."""
    lines = tables.render(rows, "markdown").splitlines()
    assert len(lines) == len(rows) + 2
    assert {line.count(" | ") for line in lines} == {len(COLUMNS) - 1}


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("[x](http://evil)", r"\[x\](http&#58;//evil)"),
        ("a_b _c_ *d* `e`\n# f", r"a_b \_c\_ \*d\* \`e\` \# f"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_text_from_data_is_never_markup(text: str, escaped: str) -> None:
    """Cells, HTML, links, emphasis, code and line breaks are escaped."""
    assert tables.escape(text) == escaped


@pytest.mark.parametrize("suffix", [".csv", ".json", ".md", ".parquet"])
def test_a_file_is_written_whole_by_its_suffix(rows: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    """And no temporary file is left."""
    (tmp_path / "out").mkdir()
    tables.write(rows, tmp_path / "out" / f"table{suffix}")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"table{suffix}"]
    if suffix == ".parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "table.parquet"), rows)


def test_a_file_that_cannot_be_written_is_one_line(rows: pd.DataFrame, tmp_path: Path) -> None:
    """An unknown suffix and a missing folder are one-line errors."""
    with pytest.raises(ConfigError, match=r"\.csv"):
        tables.write(rows, tmp_path / "table.xlsx")
    with pytest.raises(ConfigError, match="not writable"):
        tables.write(rows, tmp_path / "absent" / "table.csv")


@pytest.mark.parametrize(("value", "text"), [(-0.125, "-12.5"), (0.031, "+3.1"), (0.0, "+0.0"), (-0.0001, "+0.0"), (pd.NA, "-")])
def test_numbers_are_written_in_their_unit(value: float, text: str) -> None:
    """Points with one decimal and a sign; zero has no minus sign."""
    assert tables.number(value, POINTS, sign=True) == text


def test_the_summary_shows_changes_failures_and_untuned_rates(rows: pd.DataFrame) -> None:
    """One row per run and volume: nats with 3 decimals, points with 1, with intervals."""
    text = tables.summary(rows)
    lines = text.splitlines()
    full = next(line for line in lines if "full" in line and " 32 " in line)
    row = rows.query("run_id == 'full000' and volume == 32 and task == 'facts'").iloc[0]
    assert f"-12.5 [{100 * row['delta_low']:+.1f}, {100 * row['delta_high']:+.1f}]" in full
    lora = next(line for line in lines if "lora" in line and " 32 " in line)
    assert lora.endswith("failed")
    assert "failed: run failed00 (tiny-a, dora): TrainingError: nan" in lines
    assert "failed: old, sums at 1 points: RuntimeError: out of memory" in lines
    assert "learning rate not tuned: not a method comparison" in lines
    assert "nats per token ↓" in text
    assert max(map(len, lines)) <= 120


def test_a_summary_without_points_has_the_reasons(rows: pd.DataFrame) -> None:
    """Failures only: no table."""
    text = tables.summary(rows[rows["suite"].isna()])
    assert text.startswith("No point is measured yet.")
    assert "TrainingError: nan" in text


def test_a_suite_of_many_tasks_is_shown_by_its_own_row(tmp_path: Path) -> None:
    """Five tasks are one panel, four tasks are four."""
    for count, labels in {5: ["big (5 tasks)"], 4: ["t0", "t1", "t2", "t3"]}.items():
        experiment = ExperimentWriter(tmp_path / f"e{count}")
        before = [Task(suite="big", task=f"t{i}", values=share(6, 8)) for i in range(count)]
        after = [Task(suite="big", task=f"t{i}", values=flipped(share(6, 8), lost=1, gained=0)) for i in range(count)]
        write_run(experiment, "r", before=before, points={8: after}, roles={"big": "probe"})
        assert [panel.label for panel in tables.panels(table(experiment), "probe")] == labels


def test_many_points_are_summarized_by_their_largest_volume(tmp_path: Path) -> None:
    """25 volumes of one run: one row, of the largest."""
    experiment = ExperimentWriter(tmp_path / "e")
    task = Task(suite="old", task="t", values=share(6, 8))
    write_run(experiment, "r", before=[task], points={8 * k: [task] for k in range(1, 26)}, roles={"old": "probe"})
    lines = tables.summary(table(experiment)).splitlines()
    assert "largest volume of each of 1 runs" in lines[0]
    assert [line for line in lines if line.startswith("tiny-a")] == [line for line in lines if "  200  " in line]


def test_a_task_of_two_suites_is_shown_for_each() -> None:
    """Each label has the suite's name, so that neither result hides the other.

    A task of one suite keeps its short label.
    """
    same = {"role": "probe", "primary": True, "metric": "acc", "filter": "none", "higher_is_better": True, "lost": 1, "chance": 0.2}
    tasks = [("one", "facts"), ("one", "sums"), ("two", "facts"), ("two", "words")]
    rows = pd.DataFrame([{"suite": suite, "task": task, **same} for suite, task in tasks])
    assert [panel.label for panel in tables.panels(rows, "probe")] == ["one: facts", "sums", "two: facts", "words"]
