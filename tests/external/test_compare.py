"""`harness compare` on lm-eval's output: numbers by hand, the gate, JSON, the page."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats as scipy_stats

from harness.cli import app
from tests.support.lm_eval_logs import Run, Sample, choice, config, outcomes, planted, sides, written


def test_lost_gained_and_net_are_those_planted(tmp_path: Path, run: Run) -> None:
    planted(tmp_path)
    code, out, err = run("--json")
    assert (code, err) == (0, "")
    values = json.loads(out)
    (task,) = values["tasks"]
    assert (task["n"], task["lost"], task["gained"]) == (500, 45, 20)
    assert (task["before"], task["after"]) == (pytest.approx(345 / 500), pytest.approx(320 / 500))
    assert task["delta"] == pytest.approx(-0.050)
    assert task["p_value"] == pytest.approx(scipy_stats.binomtest(20, 65).pvalue)
    assert task["p_holm"] == task["p_mid"] == pytest.approx(task["p_value"] - scipy_stats.binom.pmf(20, 65, 0.5))
    assert task["verdict"] == "lost"
    assert task["agreement"] == pytest.approx(435 / 500)
    assert values["suites"] == []
    assert values["gate"] is None
    assert values["level"] == 0.95


def test_forgetting_beyond_guessing_is_the_papers(tmp_path: Path, run: Run) -> None:
    """2510.17776 with k = 4 choices and accuracies a, a': F − (1−a)(1−a')/(k−1)."""
    planted(tmp_path)
    task = json.loads(run("--json")[1])["tasks"][0]
    wrong_before, wrong_after, choices = 155 / 500, 180 / 500, 4
    assert task["samplewise_forgetting_true"] == pytest.approx(45 / 500 - wrong_before * wrong_after / (choices - 1))


@pytest.mark.parametrize(("limit", "code", "words"), [("0.02", 1, "fail"), ("0.05", 3, "undecided"), ("0.10", 0, "pass")])
def test_the_gate_reads_the_90_percent_interval(tmp_path: Path, run: Run, limit: str, code: int, words: str) -> None:
    """By hand: d = −0.05, SE = 0.0160, so d ± 1.645·SE is [−0.076, −0.024]."""
    planted(tmp_path)
    found, out, _ = run("--max-loss", limit)
    assert found == code
    assert out.rstrip().endswith(f"{words}, exit code {code}")
    assert "90% interval" in out
    values = json.loads(run("--max-loss", limit, "--json")[1])["gate"]
    (gated,) = values["suites"]
    error = math.sqrt(65 / 500**2 - 0.05**2 / 500)
    assert (values["level"], values["exit_code"]) == (0.9, code)
    assert gated["low"] == pytest.approx(-0.05 - 1.645 * error, abs=0.001)
    assert gated["high"] == pytest.approx(-0.05 + 1.645 * error, abs=0.001)


def test_a_rise_of_a_metric_that_should_be_low_is_a_loss(tmp_path: Path, run: Run) -> None:
    """Errors on 40 of 100 items, then on 90: only the gate reverses the sign."""
    listed = [{"metric": "errors", "aggregation": "mean", "higher_is_better": False}]
    before = [choice(i, right=i < 40, metric="errors") for i in range(100)]
    after = [choice(i, right=i < 90, metric="errors") for i in range(100)]
    sides(tmp_path, {"a": before}, {"a": after}, configs={"a": config(metric_list=listed)})
    code, out, _ = run("--json", "--max-loss", "0.1")
    values = json.loads(out)
    assert code == 1
    assert values["tasks"][0]["delta"] == pytest.approx(0.5)
    assert values["tasks"][0]["verdict"] == "lost"
    assert values["gate"]["suites"][0]["change"] == pytest.approx(-0.5)
    assert values["gate"]["suites"][0]["high"] < -0.1


def test_one_group_that_lost_decides_over_others(tmp_path: Path, run: Run) -> None:
    """Three groups: lost, kept, undecided.

    Without the first the gate is undecided; with the second only, it passes.
    """
    lost, kept, small = outcomes(0, 100, 0, 0), outcomes(2000, 0, 0, 0), outcomes(5, 1, 1, 5)
    tasks = {"lost": lost, "kept": kept, "small": small}
    for names, code in [(("lost", "kept", "small"), 1), (("kept", "small"), 3), (("kept",), 0)]:
        folder = tmp_path / str(code)
        groups = {f"group_{name}": [name] for name in names}
        sides(folder, {name: tasks[name][0] for name in names}, {name: tasks[name][1] for name in names}, groups=groups)
        assert app.main(["compare", str(folder / "before"), str(folder / "after"), "--max-loss", "0.02"]) == code


def test_a_group_is_the_mean_of_its_tasks_with_equal_weight(tmp_path: Path, run: Run) -> None:
    """10 of 100 items lose, 80 of 400 gain: (−0.1 + 0.2) / 2."""
    one, other = outcomes(50, 10, 0, 40), outcomes(100, 0, 80, 220)
    before, after = {"small": one[0], "large": other[0]}, {"small": one[1], "large": other[1]}
    sides(tmp_path, before, after, groups={"all": ["small", "large"]})
    values = json.loads(run("--json")[1])
    (suite,) = values["suites"]
    assert (suite["suite"], suite["n"], suite["lost"], suite["gained"]) == ("all", 500, 10, 80)
    assert suite["delta"] == pytest.approx(0.05)
    assert {task["task"]: task["delta"] for task in values["tasks"]} == {"small": pytest.approx(-0.1), "large": pytest.approx(0.2)}
    assert [task["tests"] for task in values["tasks"]] == [2, 2]
    assert any("equal weight" in note for note in values["notes"])


def names_shown(out: str) -> list[str]:
    """The first column of the table."""
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("suite / task")) + 1
    return [line.split("  acc")[0].rstrip() for line in lines[start : lines.index("", start)]]


def test_the_only_task_of_a_suite_is_not_shown_again(tmp_path: Path, run: Run) -> None:
    """Its row is the suite's; a program gets both."""
    before, after = outcomes(50, 10, 0, 40)
    groups = {"alone": ["a"], "pair": ["a", "b"], "three": ["c", "d", "e"]}
    every = "abcdef"
    sides(tmp_path, dict.fromkeys(every, before), dict.fromkeys(every, after), groups=groups)
    assert names_shown(run()[1]) == ["alone", "pair", "  b", "three", "  c", "  d", "  e", "f"]
    values = json.loads(run("--json")[1])
    assert [task["task"] for task in values["tasks"]] == list(every)


@pytest.mark.parametrize("groups", [None, {"blimp": ["blimp_causative", "blimp_passive_1"]}])
def test_the_tasks_of_blimp_are_known_without_their_group(tmp_path: Path, run: Run, groups: dict[str, list[str]] | None) -> None:
    """Logs of single tasks do not name the group that a suite of this project consists of."""
    before, after = outcomes(50, 10, 0, 40)
    tasks = ("blimp_causative", "blimp_passive_1")
    sides(tmp_path, dict.fromkeys(tasks, before), dict.fromkeys(tasks, after), groups=groups)
    assert "no suite of this project contains" not in run()[1]
    other = tmp_path / "other"
    sides(other, {"blimpish": before}, {"blimpish": after})
    assert app.main(["compare", str(other / "before"), str(other / "after")]) == 0


def test_a_task_of_two_groups_is_tested_once(tmp_path: Path, run: Run) -> None:
    before, after = outcomes(50, 10, 0, 40)
    sides(tmp_path, {"a": before, "b": before}, {"a": after, "b": after}, groups={"all": ["a", "some"], "some": ["b"]})
    values = json.loads(run("--json")[1])
    assert [(task["suite"], task["task"], task["tests"]) for task in values["tasks"]] == [("all", "a", 2), ("some", "b", 2)]
    assert [suite["suite"] for suite in values["suites"]] == ["all", "some"]


def test_a_group_of_several_units_has_no_mean(tmp_path: Path, run: Run) -> None:
    scored = [choice(i, right=True, metric="score") | {"score": 0.1 * i} for i in range(10)]
    right = [choice(i, right=True) for i in range(10)]
    sides(tmp_path, {"a": right, "b": scored}, {"a": right, "b": scored}, groups={"mixed": ["a", "b"]})
    values = json.loads(run("--json")[1])
    assert values["suites"] == []
    assert {task["task"]: task["suite"] for task in values["tasks"]} == {"a": "a", "b": "b"}
    assert "group mixed: no mean over its tasks, which are judged by acc, score" in values["notes"]


def test_continuous_metrics_are_compared_too(tmp_path: Path, run: Run) -> None:
    """Items fall by 0.1 and 0.3 alternately: −0.2."""
    before = [choice(i, right=True, metric="score") | {"score": 0.5 + 0.01 * i} for i in range(40)]
    after = [sample | {"score": sample["score"] - (0.1 if i % 2 else 0.3)} for i, sample in enumerate(before)]
    sides(tmp_path, {"a": before}, {"a": after})
    task = json.loads(run("--json")[1])["tasks"][0]
    assert task["delta"] == pytest.approx(-0.2)
    assert (task["lost"], task["gained"], task["chance"]) == (None, None, None)
    assert task["delta_low"] < -0.2 < task["delta_high"] < 0
    assert task["verdict"] == "lost"


def test_every_filter_and_metric_is_shown_and_the_first_is_judged(tmp_path: Path, run: Run) -> None:
    """Strict filter: 30 of 40 right, then 10; flexible filter: 40, then 30."""

    def items(strict: int, flexible: int) -> list[Sample]:
        every = {"strict-match": strict, "flexible-extract": flexible}
        return [written(i, right=i < right, filter_name=name) for name, right in every.items() for i in range(40)]

    settings = config("exact_match", output_type="generate_until")
    sides(tmp_path, {"a": items(30, 40)}, {"a": items(10, 30)}, configs={"a": settings})
    values = json.loads(run("--json")[1])
    assert [(task["filter"], task["lost"]) for task in values["tasks"]] == [("strict-match", 20)]
    assert [(row["filter"], row["lost"]) for row in values["other_metrics"]] == [("flexible-extract", 10)]


def test_a_task_of_a_suite_is_judged_by_its_metric(tmp_path: Path, run: Run) -> None:
    """benchmarks/suites/arc.yaml judges arc_easy by acc_norm, though lm-eval lists acc first."""
    both = [choice(i, right=True) | {"acc_norm": 1.0, "metrics": ["acc", "acc_norm"]} for i in range(20)]
    listed = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    sides(
        tmp_path,
        {"arc_easy": both, "other": both},
        {"arc_easy": both, "other": both},
        configs=dict.fromkeys(["arc_easy", "other"], config(metric_list=listed)),
    )
    values = json.loads(run("--json")[1])
    assert {task["task"]: task["metric"] for task in values["tasks"]} == {"arc_easy": "acc_norm", "other": "acc"}


def test_the_text_names_both_sides_and_levels(tmp_path: Path, run: Run) -> None:
    planted(tmp_path)
    code, out, _ = run()
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("before: base") and lines[1].startswith("after:  tuned")  # noqa: PT018
    assert "net [95%]" in lines[3]
    assert lines[4].split()[:7] == ["colours", "acc", "500", "0.690", "0.640", "45", "20"]
    assert "-0.050" in lines[4]
    assert "lost" in lines[4].split()
    assert "floor: rounding alone (other batches and threads) not measured" in out


def test_the_page_is_one_file_with_its_tables_and_figures(tmp_path: Path, run: Run) -> None:
    before, after = outcomes(300, 45, 20, 135)
    hostile = "</script><script>alert(1)</script>"
    prompts = [choice(i, right=True, prompt=f"{hostile} {i}") for i in range(500)]
    keys = ("arguments", "prompt_hash")
    before, after = ([sample | {key: prompts[i][key] for key in keys} for i, sample in enumerate(side)] for side in (before, after))
    sides(tmp_path, {"colours": before}, {"colours": after})
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "own.txt").write_text("mine")
    code, out, _ = run("--output", str(tmp_path / "page"), "--max-loss", "0.02")
    assert code == 1
    assert out.rstrip().endswith("index.html")
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"index.html", "changes.csv", "changes.md", "changes.svg", "changes.png", "changed_items.csv", "own.txt"} <= names
    page = (tmp_path / "page" / "index.html").read_text()
    assert "<script>alert(1)" not in page
    assert "Lost on colours." in page
    assert "−0.050" in page or "-0.050" in page
    assert len((tmp_path / "page" / "changed_items.csv").read_text().strip().split("\n")) == 1 + 45 + 20


def test_the_page_has_the_numbers_of_the_json(tmp_path: Path, run: Run) -> None:
    """The file of its table has the rows of the JSON with every digit."""
    planted(tmp_path)
    task = json.loads(run("--json", "--output", str(tmp_path / "page"))[1])["tasks"][0]
    header, line = (tmp_path / "page" / "changes.csv").read_text().strip().split("\n")
    found = dict(zip(header.split(","), line.split(","), strict=True))
    for name in ("n", "before", "after", "delta", "delta_low", "delta_high", "lost", "gained", "p_holm"):
        assert float(found[name]) == pytest.approx(task[name], rel=1e-12)


@pytest.mark.model  # it starts processes
def test_samples_are_compared_without_torch(tmp_path: Path) -> None:
    """No library that runs models is imported: a laptop with the logs suffices."""
    planted(tmp_path)
    script = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'transformers', 'lm_eval', 'datasets', 'peft'}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from harness.cli import app\n"
        "sys.exit(app.main(['compare', 'before', 'after', '--output', 'page']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "page" / "index.html").is_file()
