"""Logs of inspect_ai as sides of a comparison: matching, scores, failures, epochs."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.cli import app
from harness.core import extras
from harness.core.errors import HarnessError, RecordError
from harness.external import command
from tests.support import lm_eval_logs
from tests.support.inspect_logs import Log, graded, log, sample, sides, write
from tests.support.lm_eval_logs import Run

REAL = Path(__file__).parent / "inspect_ai"
"""Logs that inspect_ai 0.3.285 wrote of its model ``mockllm``, the ``.json`` ones without events.

``sums``: four samples in two epochs; AFTER answers ``q1`` wrong twice and sample 3 once.
``colours``: four samples; BEFORE answers three right, AFTER one.
"""

ZSTANDARD = sys.version_info >= (3, 14) or importlib.util.find_spec("zipfile_zstd") is not None

KEPT = [True] * 2000
"""That many samples pass a gate of 0.02 if all stay right."""


def compared(before: Path, after: Path) -> pd.DataFrame:
    """The rows of a comparison, by suite."""
    return command.compare(str(before), str(after), suites="", margin=0.02, overrides=[]).rows.set_index("suite")


def notes(folder: Path) -> str:
    found = command.compare(str(folder / "before"), str(folder / "after"), suites="", margin=0.02, overrides=[])
    return "\n".join(found.notes)


def test_logs_of_inspect_ai_itself_are_compared() -> None:
    """Graded C and I; the mean over epochs; a scorer with several values has one metric each."""
    found = command.compare(str(REAL / "before"), str(REAL / "after"), suites="", margin=0.02, overrides=[])
    rows = found.rows.set_index("suite")
    assert list(rows.loc["colours", ["metric", "n", "before", "value", "lost"]]) == ["choice", 4, 0.75, 0.25, 2]
    assert list(rows.loc["sums", ["metric", "n", "before", "value"]]) == ["match", 4, 1.0, (1 + 0 + 0.5 + 1) / 4]
    assert sorted(found.others["metric"]) == ["both.found", "both.length"]
    assert found.before.model == "mockllm/model"
    assert "higher is taken as better" in found.notes[0]
    assert "sums: 2 epochs, averaged in each sample" in found.notes


@pytest.mark.skipif(not ZSTANDARD, reason="needs the extra inspect")
def test_eval_files_hold_what_json_files_hold() -> None:
    one, other = (compared(REAL / f"before{file}", REAL / f"after{file}") for file in ("/colours.json", "-eval/colours.eval"))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="zipfile reads them")
def test_eval_files_without_the_extra_say_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda module: False)
    assert app.main(["compare", str(REAL / "before-eval"), str(REAL / "after-eval")]) == 2
    fix = "fix: pip install -e '.[inspect]', in the checkout of forgetting-harness\n"
    assert capsys.readouterr().err.endswith(f"needs zipfile-zstd, which is not installed; {fix}")


def test_eval_files_of_older_releases_need_no_extra(tmp_path: Path) -> None:
    """Compressed with deflate; here the logs of inspect_ai itself, packed anew."""
    for side in ("before", "after"):
        write(tmp_path / side / "one.eval", json.loads((REAL / side / "sums.json").read_text()))
    assert compared(tmp_path / "before" / "one.eval", tmp_path / "after").loc["sums", "value"] == 0.625


def test_ids_are_equal_as_numbers_and_as_digits_and_uuids_do_not_matter(tmp_path: Path) -> None:
    one, other = graded([True, False]), graded([True, True])
    other["samples"].reverse()
    for found in other["samples"]:
        found["id"] = str(found["id"])
    sides(tmp_path, one, other)
    assert list(compared(tmp_path / "before", tmp_path / "after").loc["sums", ["before", "value", "gained"]]) == [0.5, 1.0, 1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("C", 1.0), ("P", 0.5), ("I", 0.0), ("N", 0.0), ("yes", 1.0), ("False", 0.0), (True, 1.0), ("0.25", 0.25), (0.75, 0.75)],
)
def test_grades_and_numbers_have_the_values_that_inspect_ai_gives_them(tmp_path: Path, value: Any, expected: float) -> None:
    sides(tmp_path, log([sample(1, "C"), sample(2, "C")]), log([sample(1, value), sample(2, "C")]))
    assert compared(tmp_path / "before", tmp_path / "after").loc["sums", "value"] == (1 + expected) / 2


@pytest.mark.parametrize("value", ["c", "B", [1, 0], "nan"])
def test_a_score_that_is_no_number_is_left_out_and_never_0(tmp_path: Path, value: Any) -> None:
    sides(tmp_path, log([sample(1, "C"), sample(2, "C")]), log([sample(1, value), sample(2, "C")]))
    with pytest.raises(RecordError, match="task sums: metrics: got sums: match left out: 1 of 2 values are no numbers"):
        compared(tmp_path / "before", tmp_path / "after")


FAILURES: dict[str, Mapping[str, Any]] = {
    "failed": {"error": {"message": "timeout", "traceback": ""}},
    "invalidated": {"invalidation": {"author": "someone", "reason": "wrong grader"}},
    "unscored": {"scores": {"match": {"value": math.nan, "reason": "no answer"}}},
    "unscored at all": {"scores": {}},
    "unscored, of a mapping": {"scores": {"match": {"value": None}}},
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_sample_without_a_value_is_in_neither_mean(tmp_path: Path, run: Run, failure: str, side: str) -> None:
    """A gate passes without it where BEFORE lacks it, and is undecided where AFTER does."""
    made = {"before": graded(KEPT), "after": graded(KEPT)}
    made[side]["samples"][7].update(FAILURES[failure])
    sides(tmp_path, made["before"], made["after"])
    code, out, _ = run("--max-loss", "0.02")
    assert f"{side}: sums: 1 {failure.split(' ')[0].rstrip(',')} of 2000 samples: not compared" in out
    assert re.search(r"1,999 +1\.000 +1\.000", out)
    assert code == (3 if side == "after" else 0)
    if side == "after":
        assert "AFTER lacks 1 task(s) that BEFORE has (sums (1 of 2000 samples)): undecided" in out


def test_an_epoch_counts_where_both_sides_have_scored_it(tmp_path: Path) -> None:
    """Of sample 1 the second epoch failed after: its first epochs alone are compared."""
    before = [sample(1, "C"), sample(2, "C"), sample(1, "I", epoch=2), sample(2, "I", epoch=2)]
    after = [sample(1, "C"), sample(2, "C"), sample(1, "I", epoch=2, error={"message": "x"}), sample(2, "I", epoch=2)]
    sides(tmp_path, log(before), log(after))
    assert list(compared(tmp_path / "before", tmp_path / "after").loc["sums", ["n", "before", "value"]]) == [2, 0.75, 0.75]


def test_samples_of_which_none_is_scored_on_both_sides_are_rejected(tmp_path: Path) -> None:
    sides(tmp_path, log([sample(1, "C"), sample(2, math.nan)]), log([sample(1, math.nan), sample(2, "C")]))
    with pytest.raises(RecordError, match=r"task sums: got no sample that both sides have scored"):
        compared(tmp_path / "before", tmp_path / "after")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task_version": 2}, "sums: version: got 0 before and 2 after"),
        ({"task_args": {"level": 3}}, "sums: arguments"),
        ({"config": {"epochs": 4}}, "sums: epochs: got 1 before and 4 after"),
        ({"scorers": [{"name": "match", "options": {"numeric": True}}]}, "sums: scorers"),
        ({"plan": {"steps": [{"solver": "system_message", "params": {"template": "x"}}]}}, "sums: solver"),
        ({"plan": {"steps": [], "config": {"temperature": 1.0}}}, "sums: generation"),
        ({"model_generate_config": {"max_tokens": 5}}, "sums: generation"),
        ({"model_roles": {"grader": {"model": "another"}}}, "sums: model_roles"),
    ],
)
def test_other_settings_are_rejected(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    sides(tmp_path, graded([True]), graded([True], **changes))
    with pytest.raises(RecordError, match=f"task {said}"):
        compared(tmp_path / "before", tmp_path / "after")


def test_settings_of_the_connection_and_the_model_may_differ(tmp_path: Path) -> None:
    """A release of inspect_ai too, with a note."""
    other = {"model_args": {"device": "cuda:1"}, "model_generate_config": {"max_connections": 4, "timeout": 9}, "packages": {}}
    sides(tmp_path, graded([True]), graded([True], model="other", **other))
    assert "inspect_ai 0.3.285 before, None after: this alone can move scores" in notes(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": "another"}, "different prompts for 1 of 1 items"),
        ({"input": [{"role": "user", "content": "another"}]}, "different prompts for 1 of 1 items"),
        ({"target": ["yes", "no"]}, "different gold answers for 1 of 1 items"),
        ({"choices": ["a", "b"]}, "different texts to score or continue for 1 of 1 items"),
        ({"id": 5}, "items: got 1 before and 1 after, 0 of them the same"),
    ],
)
def test_other_samples_are_rejected(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Automatic ids count from 1, so inputs and targets are compared too."""
    sides(tmp_path, log([sample(1, "C")]), log([sample(1, "C", **change)]))
    with pytest.raises(RecordError, match=said):
        compared(tmp_path / "before", tmp_path / "after")


def test_messages_are_compared_without_their_ids_and_attachments_are_shown(tmp_path: Path) -> None:
    made = [
        [{"id": name, "role": "user", "content": [{"type": "text", "text": "attachment://h"}, {"type": "image", "image": "x.png"}]}]
        for name in ("one", "two")
    ]
    first, second = (log([sample(1, grade, input=one, attachments={"h": "a long text"})]) for one, grade in zip(made, "CI", strict=True))
    sides(tmp_path, first, second)
    found = command.compare(str(tmp_path / "before"), str(tmp_path / "after"), suites="", margin=0.02, overrides=[])
    assert found.items["prompt"].tolist() == ["user: a long text\nx.png"]
    assert found.items["answer_after"].tolist() == ["answer I"]


@pytest.mark.parametrize("status", ["error", "cancelled", "started"])
def test_a_log_that_did_not_succeed_is_rejected_unless_another_one_did(tmp_path: Path, status: str) -> None:
    """As after ``inspect eval-retry``, which writes a new log."""
    sides(tmp_path, graded([True]), graded([True], status=status))
    with pytest.raises(RecordError, match=rf"got a log whose status is {status} .*allowed: status success; fix: .*inspect eval-retry"):
        compared(tmp_path / "before", tmp_path / "after")
    write(tmp_path / "after" / "retried.json", graded([True]))
    assert "after: 1 log(s) left out, that failed or did not end" in notes(tmp_path)


def test_an_eval_file_without_header_did_not_end(tmp_path: Path) -> None:
    write(tmp_path / "before" / "log.json", graded([True]))
    (tmp_path / "after").mkdir()
    start = {key: graded([True])[key] for key in ("version", "eval")}
    with zipfile.ZipFile(tmp_path / "after" / "log.eval", "w") as archive:
        archive.writestr("_journal/start.json", json.dumps(start))
    with pytest.raises(RecordError, match="got a log whose status is started"):
        compared(tmp_path / "before", tmp_path / "after")


def test_the_newest_log_of_each_task_counts(tmp_path: Path) -> None:
    sides(tmp_path, graded([True, True]), graded([True, False]))
    write(tmp_path / "after" / "a" / "newer.json", graded([True, True], created="2026-02-02T03:04:05+00:00"))
    assert compared(tmp_path / "before", tmp_path / "after").loc["sums", "value"] == 1.0
    assert "after: 1 log(s) left out, older, of the same tasks" in notes(tmp_path)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (graded([True], model="other"), r"got logs of 2 models \(other, some/model\)"),
        (graded([True], task_args={"level": 2}), "got two logs of one task with other task_args"),
        (graded([True], model_args={"revision": "b"}), "got two logs of one task with other model_args"),
    ],
)
def test_logs_of_two_models_or_variants_in_one_folder_are_rejected(tmp_path: Path, second: Log, said: str) -> None:
    sides(tmp_path, graded([True]), graded([True]))
    write(tmp_path / "after" / "second.json", second)
    with pytest.raises(RecordError, match=said):
        compared(tmp_path / "before", tmp_path / "after")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (graded([True], version=1), "version: got 1; allowed: 2; fix: convert it with a newer inspect_ai: inspect log convert"),
        (log([sample(1, "C"), sample(1, "C")]), "got sample 1 twice in epoch 1"),
        (graded([True]) | {"samples": [{"id": 1}]}, "sample 1: got no id and epoch"),
        (graded([True]) | {"samples": []}, "got a log without samples"),
        (
            graded([True, False], results={"scores": [{"name": "match", "scorer": "match", "metrics": {"accuracy": {"value": 0.9}}}]}),
            "got samples whose mean match is 0.5; allowed: 0.9, its score",
        ),
    ],
)
def test_a_damaged_log_is_rejected_by_name(tmp_path: Path, values: Log, said: str) -> None:
    sides(tmp_path, graded([True]), values)
    with pytest.raises(RecordError, match=rf"log.json.*{said}"):
        compared(tmp_path / "before", tmp_path / "after")


@pytest.mark.parametrize("content", [b"PK", b"", b'{"version": 2, "status": "success", "eval": '])
def test_a_file_that_cannot_be_read_is_rejected_in_one_line(tmp_path: Path, run: Run, content: bytes) -> None:
    sides(tmp_path, graded([True]), graded([True]))
    file = tmp_path / "after" / ("log.json" if content.startswith(b"{") else "cut.eval")
    file.write_bytes(content)
    code, out, err = run()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{file}: got a damaged file (" in err


def test_sides_of_other_kinds_are_rejected(tmp_path: Path, run: Run) -> None:
    """Logs of lm-eval, and suites for what is measured already."""
    sides(tmp_path, graded([True]), graded([True]))
    assert "neither suites nor overrides with inspect_ai logs" in run("--suites", "blimp")[2]
    lm_eval_logs.write(tmp_path / "lm-eval", {"a": [lm_eval_logs.choice(0, right=True)]})
    with pytest.raises(HarnessError, match=r"got inspect_ai logs before and lm-eval samples after.*fix: run inspect_ai on both sides"):
        command.compare(str(tmp_path / "before"), str(tmp_path / "lm-eval"), suites="", margin=0.02, overrides=[])


def test_other_json_files_of_a_folder_are_no_logs(tmp_path: Path) -> None:
    """Such as the list of logs that ``inspect view`` writes."""
    sides(tmp_path, graded([True]), graded([False]))
    (tmp_path / "after" / "logs.json").write_text('{"log.json": {"status": "success"}}')
    assert compared(tmp_path / "before", tmp_path / "after").loc["sums", "lost"] == 1
