"""Task files and their functions run from trusted folders only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from lm_eval.api import task as tasks
from lm_eval.tasks._index import Kind

from harness.cli import app
from harness.core.errors import EvaluationError
from harness.evaluation import task_index, trust
from harness.evaluation.suites import Suite
from harness.evaluation.tasks import build_tasks

TASK = """task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "what {{number}} is"
doc_to_choice: [the, of, a]
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}]
metadata: {version: 1}
"""
CODE = "from pathlib import Path\nPath(MARK).write_text('ran')\n\ndef docs(dataset):\n    return dataset\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of HARNESS_PATH with a task; code and yaml next to it, in ``elsewhere``."""
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"number": i, "gold": i % 3}) + "\n" for i in range(6)))
    tasks, elsewhere = tmp_path / "mine" / "benchmarks" / "tasks", tmp_path / "elsewhere"
    tasks.mkdir(parents=True)
    elsewhere.mkdir()
    code = CODE.replace("MARK", repr(str(tmp_path / "mark")))
    (elsewhere / "code.py").write_text(code)
    (tmp_path / "mine" / "code.py").write_text(code)
    (tasks / "pick.yaml").write_text(TASK.replace("DATA", str(tmp_path / "items.jsonl")))
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path / "mine"))
    monkeypatch.setenv("HARNESS_TRUST_TASKS", "0")
    task_index._ours.cache_clear()
    yield tmp_path
    task_index._ours.cache_clear()


def add(mine: Path, text: str) -> None:
    with (mine / "mine" / "benchmarks" / "tasks" / "pick.yaml").open("a") as file:
        file.write(text.replace("MINE", str(mine)))


def replace_metrics(mine: Path, text: str) -> None:
    file = mine / "mine" / "benchmarks" / "tasks" / "pick.yaml"
    file.write_text(file.read_text().replace("metric_list: [{metric: acc}]\n", ""))
    add(mine, text)


def built(task: str) -> list[str]:
    return list(build_tasks(Suite(name="s", tasks=(task,), metric="acc")))


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("process_docs: !function MINE/elsewhere/code.docs\n", "!function docs of 'MINE/elsewhere/code.py'"),
        ("metric_list: [{metric: acc, aggregation: !function 'MINE/elsewhere/code.docs'}]\n", "!function docs of"),
        ("process_docs: !function subprocess.getoutput\n", "!function getoutput of "),
        ("process_docs: !function sys.exit\n", "!function exit of 'sys'"),
        ("include: ../../../elsewhere/more.yaml\n", "yaml file 'MINE/elsewhere/more.yaml'"),
        ("include: [MINE/mine/between.yaml]\n", "yaml file 'MINE/elsewhere/more.yaml'"),
        ("<<: {include: MINE/elsewhere/more.yaml}\n", "yaml file 'MINE/elsewhere/more.yaml'"),
        ("<<: [{<<: {include: MINE/mine/between.yaml}}]\n", "yaml file 'MINE/elsewhere/more.yaml'"),
        ("? !!str {=: include}\n: MINE/elsewhere/more.yaml\n", "yaml file 'MINE/elsewhere/more.yaml'"),
        ("process_docs: !function {=: MINE/elsewhere/code.docs}\n", "!function docs of 'MINE/elsewhere/code.py'"),
    ],
)
def test_what_comes_from_elsewhere_does_not_run(mine: Path, text: str, got: str) -> None:
    """Functions and included files are named before any code runs; the whole message is a line."""
    (mine / "elsewhere" / "more.yaml").write_text("process_docs: !function code.docs\n")
    (mine / "mine" / "between.yaml").write_text("include: ../elsewhere/more.yaml\n")
    add(mine, text)
    with pytest.raises(EvaluationError) as caught:
        built("pick")
    message = str(caught.value)
    assert message.startswith(f"task pick: got {got.replace('MINE', str(mine))}")
    assert message.endswith("fix: move it there, or --trust-tasks if you trust it")
    assert "\n" not in message
    assert not (mine / "mark").exists()


OWN = "metric_list: [{metric: acc}, {metric: NAME, aggregation: mean, higher_is_better: true}]\n"


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (OWN.replace("NAME", "MINE/elsewhere/own"), "metric 'MINE/elsewhere/own'"),
        (OWN.replace("NAME", "MINE/elsewhere/own, hf_evaluate: true"), "metric 'MINE/elsewhere/own', with hf_evaluate"),
        (OWN.replace("NAME", "acc, hf_evaluate: true"), "metric 'acc', with hf_evaluate"),
        (f"<<: {{{OWN.strip().replace('NAME', 'accuracy')}}}\n", "metric 'accuracy'"),
        (OWN.replace("NAME, aggregation: mean", "acc_norm, aggregation: own"), "aggregation 'own'"),
    ],
)
def test_metrics_that_lm_eval_would_load_as_code_are_rejected(mine: Path, monkeypatch: pytest.MonkeyPatch, text: str, got: str) -> None:
    """The code of other names would be loaded from a folder or the hub."""
    loaded: list[str] = []
    monkeypatch.setattr("evaluate.load", loaded.append)
    replace_metrics(mine, text)
    with pytest.raises(EvaluationError) as caught:
        built("pick")
    assert str(caught.value).startswith(f"task pick: got {got.replace('MINE', str(mine))}; allowed: lm-eval's own")
    assert str(caught.value).endswith("fix: --trust-tasks if you trust it")
    assert loaded == []
    if "elsewhere" in text:
        monkeypatch.setenv("HARNESS_TRUST_TASKS", "1")
        assert built("pick") == ["pick"]
        assert loaded == [f"{mine}/elsewhere/own"]


def test_metrics_of_a_tasks_own_code_have_any_name(mine: Path) -> None:
    """With process_results lm-eval loads no metric; a group may take that setting away."""
    tasks = mine / "mine" / "benchmarks" / "tasks"
    replace_metrics(mine, OWN.replace("NAME", "MINE/elsewhere/own") + "process_results: !function MINE/mine/code.docs\n")
    assert built("pick") == ["pick"]
    (tasks / "group.yaml").write_text("group: all\ntask: [{task: pick, process_results: null}]\n")
    task_index._ours.cache_clear()
    with pytest.raises(EvaluationError, match=r"task all: got metric '.*/elsewhere/own'"):
        built("all")


def test_a_group_may_have_members_of_lm_eval_that_fetch_metrics(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that a member as installed fetches may be fetched, and no other."""
    theirs = mine / "lm_eval" / "theirs.yaml"
    theirs.parent.mkdir()
    theirs.write_text((mine / "mine" / "benchmarks" / "tasks" / "pick.yaml").read_text())
    monkeypatch.setattr(trust, "_folder_of", lambda package: mine / package)
    member = SimpleNamespace(yaml_path=theirs, kind=Kind.TASK, cfg={"metric_list": [{"metric": "f1", "hf_evaluate": True}]})
    group = SimpleNamespace(yaml_path=mine / "mine" / "benchmarks" / "tasks" / "pick.yaml", kind=Kind.GROUP, cfg={"task": ["theirs"]})
    loaded: list[str] = []
    monkeypatch.setattr("evaluate.load", loaded.append)
    with trust.only_trusted({"all": group, "theirs": member}, "all"):
        tasks.get_metric("f1", True)
        with pytest.raises(EvaluationError, match="task all: got metric 'accuracy', with hf_evaluate"):
            tasks.get_metric("accuracy", True)
    assert loaded == ["f1"]


def test_members_of_a_group_are_checked(mine: Path) -> None:
    """A link to a file elsewhere is that file; settings inside a group's list may call code too."""
    add(mine, "process_docs: !function MINE/elsewhere/code.docs\n")
    tasks = mine / "mine" / "benchmarks" / "tasks"
    (tasks / "pick.yaml").rename(mine / "elsewhere" / "pick.yaml")
    (tasks / "pick.yaml").symlink_to(mine / "elsewhere" / "pick.yaml")
    (tasks / "group.yaml").write_text("group: all\ntask: [{group: inner, task: [pick]}]\n")
    with pytest.raises(EvaluationError, match="task pick: got yaml file '.*/elsewhere/pick.yaml'"):
        built("all")
    (tasks / "group.yaml").write_text(f"group: all\ntask: [{{task: arc_easy, process_docs: !function {mine}/elsewhere/code.docs}}]\n")
    task_index._ours.cache_clear()
    with pytest.raises(EvaluationError, match="task all: got !function docs"):
        built("all")
    assert not (mine / "mark").exists()


@pytest.mark.parametrize("spelled", ["MINE/mine/code.docs", "code.docs", "MINE/elsewhere/code.docs"])
def test_trusted_code_runs(mine: Path, monkeypatch: pytest.MonkeyPatch, spelled: str) -> None:
    """A folder of HARNESS_PATH is trusted; with --trust-tasks every one is."""
    if spelled == "code.docs":
        (mine / "mine" / "code.py").rename(mine / "mine" / "benchmarks" / "tasks" / "code.py")
    if "elsewhere" in spelled:
        monkeypatch.setenv("HARNESS_TRUST_TASKS", "1")
    add(mine, f"process_docs: !function {spelled}\n")
    assert built("pick") == ["pick"]
    assert (mine / "mark").read_text() == "ran"


def test_the_option_and_the_message_of_the_command(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`harness prompt` rejects such a task with one line before a model is loaded."""
    add(mine, "process_docs: !function MINE/elsewhere/code.docs\n")
    assert app.main(["prompt", "pick", "model=nursery-smoke-a"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("harness: task pick: got !function docs")
    assert app.main(["prompt", "pick", "model=nursery-smoke-a", "--trust-tasks"]) == 0
    assert "item 1 of 6" in capsys.readouterr().out
