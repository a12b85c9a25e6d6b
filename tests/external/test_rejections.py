"""Folders of lm-eval's output that are rejected, or compared with a note."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from harness.cli import app
from tests.support import lm_eval_logs
from tests.support.lm_eval_logs import Run, choice, config, lowered, planted, sides, written


def rejection(run: Run) -> str:
    """The line of standard error of a rejected comparison."""
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_tasks_of_one_side_are_listed(tmp_path: Path, run: Run) -> None:
    right = [choice(i, right=True) for i in range(10)]
    sides(tmp_path, {"a": right, "b": right}, {"a": right, "c": right})
    notes = json.loads(run("--json")[1])["notes"]
    assert "not compared, only before: b" in notes
    assert "not compared, only after: c" in notes


def test_no_task_in_common_is_rejected(tmp_path: Path, run: Run) -> None:
    right = [choice(0, right=True)]
    sides(tmp_path, {"a": right}, {"b": right})
    assert "tasks: got a before and b after" in rejection(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"versions": {"a": 2.0}}, "task a: version: got 1 before and 2 after"),
        ({"configs": {"a": config(num_fewshot=5)}}, "task a: num_fewshot: got 0 before and 5 after"),
        ({"configs": {"a": config(output_type="loglikelihood")}}, "task a: output_type"),
        ({"configs": {"a": config(repeats=2)}}, "task a: repeats: got 1 before and 2 after"),
        ({"configs": {"a": config(metric_list=[{"metric": "acc", "aggregation": "mean", "ignore_case": True}])}}, "task a: metric_list"),
    ],
)
def test_different_settings_are_rejected(tmp_path: Path, run: Run, change: dict[str, Any], words: str) -> None:
    right = [choice(i, right=True) for i in range(3)]
    sides(tmp_path, {"a": right}, {"a": right}, only_after=change)
    line = rejection(run)
    assert words in line
    assert "allowed: the same on both sides" in line
    assert "fix: " in line


def test_different_prompts_are_rejected_with_example_and_reason(tmp_path: Path, run: Run) -> None:
    before = [choice(i, right=True) for i in range(4)]
    after = [choice(i, right=True, prompt="" if i else "<user> question 0: <assistant>") for i in range(4)]
    sides(tmp_path, {"a": before}, {"a": after}, only_after={"chat_template_sha": "abc"})
    line = rejection(run)
    assert "task a: got different prompts (chat template: after only) for 1 of 4 items" in line
    assert "'question 0:' and '<user> question 0: <assistant>'" in line


def test_different_gold_answers_are_rejected(tmp_path: Path, run: Run) -> None:
    before = [choice(i, right=True) for i in range(4)]
    after = [*before[:3], before[3] | {"target": "1", "target_hash": lm_eval_logs.digest("1")}]
    sides(tmp_path, {"a": before}, {"a": after})
    assert "different gold answers for 1 of 4 items, such as '0' and '1'" in rejection(run)


def test_different_choices_are_rejected(tmp_path: Path, run: Run) -> None:
    before = [choice(i, right=True) for i in range(4)]
    other = {**before[0]["arguments"], "gen_args_3": {"arg_0": "question 0:", "arg_1": " pink"}}
    sides(tmp_path, {"a": before}, {"a": [before[0] | {"arguments": other}, *before[1:]]})
    assert "different texts to score or continue for 1 of 4 items" in rejection(run)


def test_different_settings_of_generation_are_rejected(tmp_path: Path, run: Run) -> None:
    settings = config("exact_match", output_type="generate_until")
    before, after = ([written(i, right=True, until=until) for i in range(4)] for until in ("\n", "."))
    sides(tmp_path, {"a": before}, {"a": after}, configs={"a": settings})
    assert "different settings of generation for 4 of 4 items" in rejection(run)


def test_items_of_one_side_are_rejected_with_their_counts(tmp_path: Path, run: Run) -> None:
    items = [choice(i, right=True) for i in range(10)]
    sides(tmp_path, {"a": items}, {"a": items[:4]})
    line = rejection(run)
    assert "task a: items: got 10 before and 4 after, 4 of them the same" in line
    assert "--limit" in line


def test_different_filters_are_rejected(tmp_path: Path, run: Run) -> None:
    settings = config("exact_match", output_type="generate_until")
    before, after = ([written(0, right=True, filter_name=name)] for name in ("strict-match", "flexible-extract"))
    sides(tmp_path, {"a": before}, {"a": after}, configs={"a": settings})
    assert "task a: filters: got strict-match before and flexible-extract after" in rejection(run)


def test_a_task_without_a_mean_over_items_is_rejected(tmp_path: Path, run: Run) -> None:
    items = [choice(i, right=True, metric="perplexity") | {"perplexity": -1.0} for i in range(3)]
    settings = config(metric_list=[{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}])
    sides(tmp_path, {"a": items}, {"a": items}, configs={"a": settings}, results={"a": {"perplexity,none": math.e}})
    assert "perplexity left out: its score is not a mean over items" in rejection(run)


def test_differences_that_keep_the_questions_have_a_note(tmp_path: Path, run: Run) -> None:
    items = [choice(i, right=True) for i in range(3)]
    other = {"model": "vllm", "model_args": {"pretrained": "tuned"}, "model_dtype": "torch.bfloat16", "batch_size": "8"}
    sides(tmp_path, {"a": items}, {"a": items}, only_after={"lm_eval_version": "0.4.9", "config": other})
    notes = json.loads(run("--json")[1])["notes"]
    for words in [
        "lm-eval 0.4.13 before, 0.4.9 after",
        "backend hf before, vllm after",
        "dtype torch.float32 before, torch.bfloat16 after",
    ]:
        assert any(note.startswith(words) for note in notes)


def test_identical_answers_have_a_note_and_leave_the_gate_undecided(tmp_path: Path, run: Run) -> None:
    """One task of equal log-likelihoods, another of equal texts, a third of other log-likelihoods.

    Texts may well be equal; log-likelihoods to the last digit are as of one model.
    """
    items, texts = [choice(i, right=True) for i in range(300)], [written(i, right=True) for i in range(300)]
    other = [lowered(sample) for sample in items]
    settings = {"t": config("exact_match", output_type="generate_until")}
    sides(tmp_path, {"a": items, "t": texts}, {"a": items, "t": texts}, configs=settings)
    code, out, _ = run("--max-loss", "0.05")
    assert "note: every answer is identical to the last digit: are both sides the same model?" in out
    assert re.search(r"gate a \(in the mean\): .*: undecided: every log-likelihood is the same on both sides", out)
    assert re.search(r"gate t \(in the mean\): .*: not shown to lose more than allowed", out)
    assert re.search("gate mean of 2 suites.*: undecided because of a\n", out)
    assert code == 3
    sides(tmp_path, {"a": items, "t": texts}, {"a": other, "t": texts}, configs=settings)
    code, out, _ = run("--max-loss", "0.05")
    assert "note: every answer on t is identical to the last digit: are both sides the same model?" in out
    assert code == 0


def test_a_cache_that_may_have_answered_is_named(tmp_path: Path, run: Run) -> None:
    items = [choice(i, right=True) for i in range(3)]
    sides(tmp_path, {"a": items}, {"a": items}, config={"model_args": {}, "use_cache": "cache.db"})
    assert "are both sides the same model? (lm-eval's --use_cache was on" in run()[1]


def test_several_answers_per_item_have_a_note(tmp_path: Path, run: Run) -> None:
    settings = config("exact_match", output_type="generate_until", repeats=3)
    items = [written(i, right=True, repeats=3) for i in range(3)]
    sides(tmp_path, {"a": items}, {"a": items}, configs={"a": settings})
    assert any("3 answers per item" in note for note in json.loads(run("--json")[1])["notes"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-loss", "-0.01"], "--max-loss: got -0.01"),
        (["--max-loss", "nan"], "--max-loss"),
        (["--margin", "0"], "--margin"),
        (["--suites", "blimp"], "neither suites nor overrides"),
    ],
)
def test_usage_errors_exit_with_2(tmp_path: Path, run: Run, options: list[str], words: str) -> None:
    planted(tmp_path)
    code, out, err = run(*options)
    assert (code, out) == (2, "")
    assert words in err


def test_overrides_are_rejected_for_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted(tmp_path)
    assert app.main(["compare", str(tmp_path / "before"), str(tmp_path / "after"), "evaluation.dtype=bfloat16"]) == 2
    assert "neither suites nor overrides" in capsys.readouterr().err


def test_overrides_may_follow_options(tmp_path: Path, run: Run) -> None:
    """They reach the command, which rejects them as overrides of samples."""
    planted(tmp_path)
    code, _, err = run("--margin", "0.1", "evaluation.dtype=bfloat16")
    assert code == 2
    assert "got evaluation.dtype=bfloat16" in err
    with pytest.raises(SystemExit):
        run("--margin", "0.1", "--no-such-option=1")
    with pytest.raises(SystemExit):
        run("--margin", "0.1", "stray")


def test_a_model_and_samples_are_rejected(tmp_path: Path, run: Run) -> None:
    planted(tmp_path)
    (tmp_path / "after" / "config.json").write_text("{}")
    line = rejection(run)
    assert "got lm-eval samples before and a model after" in line


def test_a_side_that_is_neither_is_rejected(tmp_path: Path, run: Run) -> None:
    planted(tmp_path)
    assert app.main(["compare", str(tmp_path / "before"), str(tmp_path / "nothing")]) == 2
    (tmp_path / "nothing").mkdir()
    assert app.main(["compare", str(tmp_path / "before"), str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize("groups", [{"g": ["g"]}, {"g": ["h"], "h": ["a", "g"]}, {"g": ["a", "h"], "h": ["i"], "i": ["h"]}])
def test_a_group_inside_itself_is_rejected(tmp_path: Path, run: Run, groups: dict[str, list[str]]) -> None:
    """In a results file, which is one side's or both sides'."""
    sides(tmp_path, {"a": [choice(0, right=True)]}, {"a": [choice(0, right=True)]}, groups=groups)
    assert "got itself as a member (" in rejection(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": {"g": [5]}}, "group_subtasks: g: got a value of type int; allowed: a name"),
        ({"configs": {"a": config(metric_list=[{"metric": 5}])}}, "configs: a: metric_list: metric: got a value of type int"),
        (
            {"configs": {"a": config(metric_list=[{"metric": "acc", "aggregation": {}}])}},
            "aggregation: got a value of type dict",
        ),
        ({"configs": {"a": config(filter_list=5)}}, "configs: a: filter_list: got a value of type int; allowed: a list"),
    ],
)
def test_a_results_file_of_another_shape_is_rejected(tmp_path: Path, run: Run, change: dict[str, Any], words: str) -> None:
    """The message names the file and the key."""
    sides(tmp_path, {"a": [choice(0, right=True)]}, {"a": [choice(0, right=True)]}, **change)
    assert words in rejection(run)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({0: math.nan}, "got 1 of 4 items whose acc (filter none) is NaN or infinite; allowed: numbers; fix: look for diverged weights"),
        ({1: math.inf}, "got 1 of 4 items whose acc (filter none) is NaN or infinite"),
        (dict.fromkeys(range(4), math.nan), "a: acc left out: NaN for every item"),
    ],
)
def test_items_without_a_number_are_named_as_the_cause(tmp_path: Path, run: Run, numbers: dict[int, float], words: str) -> None:
    """A model of no numbers has lost nothing and gained nothing."""
    before = [choice(i, right=True) for i in range(4)]
    sides(tmp_path, {"a": before}, {"a": [sample | {"acc": numbers.get(i, 1.0)} for i, sample in enumerate(before)]})
    assert words in rejection(run)


def test_a_log_likelihood_of_nan_is_rejected(tmp_path: Path, run: Run) -> None:
    """lm-eval takes the first choice for the answer then, which is often right."""
    before = [choice(i, right=True) for i in range(3)]
    sides(tmp_path, {"a": before}, {"a": [*before[:2], before[2] | {"resps": [[["nan", "False"]]] * 4}]})
    assert ".jsonl, line 3: got a log-likelihood that is NaN" in rejection(run)


@pytest.mark.parametrize("answers", [[], [[["-1.0", "False"]]] * 3, [[["-1.0", "False"]]] * 5])
def test_answers_that_are_not_one_for_each_request_are_rejected(tmp_path: Path, run: Run, answers: list[Any]) -> None:
    """Each of the four choices is a request."""
    before = [choice(i, right=True) for i in range(2)]
    sides(tmp_path, {"a": before}, {"a": [before[0], before[1] | {"resps": answers}]})
    assert f".jsonl, line 2: got {len(answers)} answers to 4 requests" in rejection(run)


def test_half_a_character_is_rejected(tmp_path: Path, run: Run) -> None:
    """JSON can hold half of a surrogate pair, a page or a hash cannot."""
    before = [choice(i, right=True) for i in range(2)]
    sides(tmp_path, {"a": before}, {"a": before})
    (file,) = (tmp_path / "after").rglob("samples_*.jsonl")
    file.write_text(file.read_text().replace('"filter": "none"', '"filter": "\\ud800"', 1))
    assert ".jsonl, line 1: got invalid JSON" in rejection(run)
