"""Task files and documents that make no item: one line before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import ConfigError, EvaluationError
from harness.evaluation import backends, evaluator, suites, task_index
from harness.evaluation.tasks import _explained

TASK: dict[str, Any] = {
    "task": "pick",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{answers}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
}
GOOD = {"question": "what is it", "answers": ["the", "of"], "gold": 1}

Prepare = Callable[..., evaluator.PreparedSuite]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prepare]:
    """Prepares a suite of one task of a user."""
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    folder = tmp_path / "benchmarks" / "tasks"
    folder.mkdir(parents=True)

    def prepared(settings: dict[str, Any] | None = None, **doc: Any) -> evaluator.PreparedSuite:
        """The second of two documents has ``doc``; JSON is yaml."""
        items = tmp_path / "items.jsonl"
        items.write_text("".join(json.dumps(one) + "\n" for one in ({**GOOD, "question": "what was it"}, {**GOOD, **doc})))
        task = TASK | {"dataset_kwargs": {"data_files": {"test": str(items)}}} | (settings or {})
        (folder / "pick.yaml").write_text(json.dumps(task))
        task_index._ours.cache_clear()
        return evaluator.prepare(suites.load("pick"), backends.HfEvaluation())

    yield prepared
    task_index._ours.cache_clear()


@pytest.mark.parametrize(
    ("doc", "words"),
    [
        ({"gold": 2}, "the gold answer 2 with 2 choices"),
        ({"gold": -1}, "the gold answer -1 with 2 choices"),
        ({"gold": None}, "the gold answer None with 2 choices"),
        ({"answers": []}, "as its choices"),
        ({"answers": ["the", ""]}, "the choice ''"),
    ],
)
def test_a_document_without_a_right_choice_is_rejected(prepare: Prepare, doc: dict[str, Any], words: str) -> None:
    """lm-eval would count it as wrong for every model; the message has its number."""
    with pytest.raises(EvaluationError, match="^task pick, document 1: got ") as raised:
        prepare(**doc)
    assert words in str(raised.value)


def test_a_right_choice_may_be_named_by_its_text(prepare: Prepare) -> None:
    """As lm-eval allows it; a text that is no choice is rejected."""
    assert list(prepare({"doc_to_target": "{{answers[gold]}}"}).items["pick"]) == [0, 1]
    with pytest.raises(EvaluationError, match="the gold answer 'office' with 2 choices"):
        prepare({"doc_to_target": "{{answers[gold]}}{{'ice' if answers[gold] == 'off'}}"}, answers=["the", "off"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"doc_to_text": "{{absent}}"}, "'absent' is undefined"),
        ({"doc_to_target": "{{absent.part}}"}, "'absent' is undefined"),
        ({"doc_to_text": "{{question"}, "unexpected end of template"),
        ({"doc_to_text": None}, "TypeError"),
        ({"absent": 5}, "'absent'"),
        ({"doc_to_choice": ["the", 5]}, "TypeError"),
        ({"test_split": "absent"}, "'absent'"),
    ],
)
def test_a_task_file_that_lm_eval_cannot_build_is_one_line(prepare: Prepare, settings: dict[str, Any], words: str) -> None:
    """The message names suite and task, and has lm-eval's reason."""
    with pytest.raises(EvaluationError, match="^suite pick, task pick: got [^\n]*fix: correct its yaml[^\n]*$") as raised:
        prepare(settings)
    assert words in str(raised.value)


@pytest.mark.parametrize("settings", [{"metric_list": 5}, {"metric_list": [None]}, {"metric_list": [{}]}, {"filter_list": 5}])
def test_settings_of_another_shape_are_one_line(prepare: Prepare, settings: dict[str, Any]) -> None:
    """They are read before lm-eval builds the task."""
    with pytest.raises(ConfigError, match="^task pick: got [^\n]*fix: correct metric_list"):
        prepare(settings)


def test_a_name_that_is_a_number_is_one_line(prepare: Prepare) -> None:
    """lm-eval sorts the names of tasks, which are texts."""
    with pytest.raises(ConfigError, match="benchmarks/tasks.*got TypeError.*fix: correct their yaml"):
        prepare({"task": 5})


@pytest.mark.parametrize("members", [{"g": ["g"]}, {"g": ["h"], "h": ["g", "pick"]}])
def test_a_group_inside_itself_is_one_line(prepare: Prepare, members: dict[str, list[str]]) -> None:
    """Directly, or through another one."""
    (folder,) = task_index.task_folders()[:1]
    for name, tasks in members.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"group": name, "task": tasks}))
    with pytest.raises(ConfigError, match=r"group g: got itself as a member \(g > (h > )?g\)"):
        suites.load("g")


@pytest.mark.parametrize(
    ("error", "offline", "fix"),
    [
        (ModuleNotFoundError("No module named 'langdetect'", name="langdetect"), False, "pip install 'lm-eval[ifeval]'"),
        (ModuleNotFoundError("install them via pip install lm-eval[math] or"), False, "pip install 'lm-eval[math]'"),
        (ModuleNotFoundError("No module named 'mine'", name="mine.words"), False, "install mine, or correct the import"),
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
            True,
            "the same command with HF_HUB_OFFLINE=0 in front, ",
        ),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (timeout)"), False, "correct its yaml; or check the network"),
    ],
)
def test_a_missing_package_or_network_comes_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, error: Exception, offline: bool, fix: str
) -> None:
    """The extra of lm-eval that has the package, or the command that goes online once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(EvaluationError) as raised, _explained("task t"):
        raise error
    assert str(raised.value).partition("; fix: ")[2].startswith(fix)
