"""Reading lm-eval's output: files, metrics, rejections, older layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import ConfigError, RecordError
from harness.external import command, logged, logs
from tests.support import lm_eval_logs
from tests.support.lm_eval_logs import choice, config, digest, written


def test_a_line_becomes_a_row_with_every_column_of_a_sample(tmp_path: Path) -> None:
    lm_eval_logs.lines(tmp_path / "x.jsonl", [choice(7, right=False)])
    row = logged.rows(tmp_path / "x.jsonl", "colours").iloc[0].to_dict()
    assert row["task"] == "colours"
    assert row["doc_id"] == 7
    assert row["filter"] == "none"
    assert row["prompt"] == "question 7:"
    assert row["choices"] == [" red", " green", " blue", " grey"]
    assert row["log_likelihoods"] == [-2.0, -1.0, -3.0, -4.0]
    assert row["target"] == "0"
    assert row["metric.acc"] == 0.0
    assert row["chance"] == 0.25
    assert row["text"] is None


def test_a_generated_answer_has_a_text_and_no_level_of_guessing(tmp_path: Path) -> None:
    lm_eval_logs.lines(tmp_path / "x.jsonl", [written(0, right=True)])
    row = logged.rows(tmp_path / "x.jsonl", "t").iloc[0].to_dict()
    assert row["text"] == "yes"
    assert row["choices"] is None
    assert row["log_likelihoods"] is None
    assert math.isnan(row["chance"])


def test_lines_of_older_versions_are_read_alike(tmp_path: Path) -> None:
    """No hashes, filter or metrics; arguments are lists, responses numbers."""
    new = choice(3, right=True)
    old = {key: value for key, value in new.items() if key not in {"filter", "metrics", "doc_hash", "prompt_hash", "target_hash"}}
    old["arguments"] = [[request["arg_0"], request["arg_1"]] for request in new["arguments"].values()]
    old["resps"] = [[[float(one[0][0]), False]] for one in new["resps"]]
    old["target"] = 0
    for name, sample in {"new": new, "old": old}.items():
        lm_eval_logs.lines(tmp_path / f"{name}.jsonl", [sample])
    rows = {name: logged.rows(tmp_path / f"{name}.jsonl", "t").iloc[0].to_dict() for name in ("new", "old")}
    assert {key: str(value) for key, value in rows["old"].items()} == {key: str(value) for key, value in rows["new"].items()}
    assert rows["old"]["target_hash"] == digest("0")
    assert rows["old"]["prompt_hash"] == digest("question 3:")


@pytest.mark.parametrize("filters", [["strict", "flexible"], ["strict", "flexible", "last"], ["strict"]])
def test_filters_that_older_versions_do_not_name_are_those_of_the_settings(tmp_path: Path, filters: list[str]) -> None:
    """0.4.3 to 0.4.6 write all items of one filter, then all of the next, without its name."""
    right = {"strict": [True, False, False], "flexible": [True, True, False], "last": [True, True, True]}
    named = [written(i, right=right[name][i], filter_name=name) for name in filters for i in range(3)]
    settings = config("exact_match", output_type="generate_until", filter_list=[{"name": name, "filter": []} for name in filters])
    lm_eval_logs.write(tmp_path, {"a": named}, configs={"a": settings}, lm_eval_version=None)
    (file,) = tmp_path.rglob("samples_a*")
    lm_eval_logs.lines(file, [{key: value for key, value in sample.items() if key not in {"filter", "metrics"}} for sample in named])
    found = logs.read(str(tmp_path)).tasks["a"].samples
    assert {name: rows["metric.exact_match"].astype(bool).tolist() for name, rows in found.groupby("filter")} == {
        name: right[name] for name in filters
    }


def test_lines_that_do_not_fit_the_filters_of_the_settings_are_rejected(tmp_path: Path) -> None:
    """Three lines of two items for two filters: whose they are is unknown."""
    settings = config("exact_match", output_type="generate_until", filter_list=[{"name": name, "filter": []} for name in ("one", "two")])
    lm_eval_logs.write(tmp_path, {"a": [written(i, right=True) for i in (0, 1, 0)]}, configs={"a": settings})
    with pytest.raises(RecordError, match="without the name of their filter, 1 to 2 per item; allowed: 2, for the filters one, two"):
        logs.read(str(tmp_path))


def test_layouts_that_are_not_read_are_rejected_by_version(tmp_path: Path) -> None:
    """JSON arrays of 0.4.0 to 0.4.2; results without samples of 0.3."""
    old, oldest = tmp_path / "old", tmp_path / "oldest"
    for folder in (old, oldest):
        folder.mkdir()
        (folder / "results.json").write_text('{"results": {"a": {"acc": 1.0}}, "versions": {"a": 0}, "config": {"num_fewshot": 0}}')
    (old / "pretrained__m_a.jsonl").write_text(json.dumps([choice(0, right=True)], indent=2))
    with pytest.raises(RecordError, match=r"JSON arrays, the layout of lm-eval 0.4.0 to 0.4.2; allowed: samples of lm-eval 0.4.3 or newer"):
        logs.read(str(old))
    with pytest.raises(RecordError, match="results of lm-eval 0.3, which writes no samples"):
        logs.read(str(oldest))


@pytest.mark.parametrize("output", ["results", "mine"])
def test_a_folder_of_lm_eval_0_4_2_is_rejected_by_version_under_any_name(tmp_path: Path, output: str) -> None:
    """``--output_path DIR`` and ``DIR/mine.json``; its samples never begin with samples_."""
    (tmp_path / f"{output}.json").write_text('{"results": {"a": {"acc,none": 1.0}}, "configs": {"a": {}}, "config": {}}')
    (tmp_path / "pretrained__m_a.jsonl").write_text(json.dumps([choice(0, right=True)], indent=2))
    with pytest.raises(RecordError, match=r"the layout of lm-eval 0.4.0 to 0.4.2; .*; fix: run a newer lm-eval with --log_samples"):
        command.compare(str(tmp_path), str(tmp_path), suites="", margin=0.02, overrides=[])


def test_a_results_file_is_rejected_with_the_name_of_its_folder(tmp_path: Path) -> None:
    """lm-eval 0.3 wrote one file, and people name that of later versions too."""
    (tmp_path / "old.json").write_text('{"results": {"a": {"acc": 1.0}}, "versions": {"a": 0}, "config": {}}')
    with pytest.raises(ConfigError, match=f"old.json: got a file; .*; fix: name its folder, {tmp_path}"):
        command.compare(str(tmp_path / "old.json"), str(tmp_path), suites="", margin=0.02, overrides=[])


def test_equal_documents_are_counted_once_though_there_are_two_filters(tmp_path: Path) -> None:
    found = [written(i, right=True, filter_name=name, doc_hash="same") for name in ("one", "two") for i in (0, 1, 2)]
    settings = config("exact_match", output_type="generate_until", filter_list=[{"name": name, "filter": []} for name in ("one", "two")])
    shared = {key: found[0][key] for key in ("arguments", "prompt_hash")}
    lm_eval_logs.write(tmp_path, {"a": [sample | shared for sample in found]}, configs={"a": settings})
    compared = command.compare(str(tmp_path), str(tmp_path), suites="", margin=0.02, overrides=[])
    assert "a: 2 equal documents, distinguished by their numbers" in compared.notes


def test_line_breaks_inside_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    lm_eval_logs.lines(tmp_path / "x.jsonl", [choice(0, right=True, prompt="one\u2028two\x85three")])
    assert logged.rows(tmp_path / "x.jsonl", "t")["prompt"].tolist() == ["one\u2028two\x85three"]


def test_equal_documents_are_distinguished_by_their_order(tmp_path: Path) -> None:
    same = choice(0, right=True)
    lm_eval_logs.lines(tmp_path / "x.jsonl", [same | {"doc_id": 5}, same, choice(1, right=True)])
    rows = logged.rows(tmp_path / "x.jsonl", "t").sort_values("doc_id")
    assert [text[64:] for text in rows["doc_hash"]] == ["", "", "#2"]


def test_bits_per_byte_is_a_ratio_with_its_bytes_as_weight(tmp_path: Path) -> None:
    """−20 nats for 10 bytes are 2 / ln 2 bits per byte."""
    sample = choice(0, right=True) | {
        "metrics": ["bits_per_byte", "word_perplexity"],
        "bits_per_byte": [-20.0, 10],
        "word_perplexity": [-20.0, 3],
    }
    lm_eval_logs.lines(tmp_path / "x.jsonl", [sample])
    rows = logged.rows(tmp_path / "x.jsonl", "t")
    assert rows["metric.bits_per_byte"].tolist() == [pytest.approx(2 / math.log(2))]
    assert rows["weight.bits_per_byte"].tolist() == [10.0]
    assert logged.metric_names(rows) == ["bits_per_byte"]


def test_unconditional_scores_are_not_choices(tmp_path: Path) -> None:
    """With acc_mutual_info every choice is also scored without its context."""
    sample = choice(0, right=True) | {"acc_mutual_info": 1.0, "metrics": ["acc", "acc_mutual_info"]}
    more = {f"gen_args_{4 + i}": {"arg_0": "", "arg_1": text} for i, text in enumerate(lm_eval_logs.CHOICES)}
    sample |= {"arguments": sample["arguments"] | more, "resps": sample["resps"] + [[["-0.1", "False"]]] * 4}
    lm_eval_logs.lines(tmp_path / "x.jsonl", [sample])
    row = logged.rows(tmp_path / "x.jsonl", "t").iloc[0]
    assert row["log_likelihoods"] == [-1.0, -2.0, -3.0, -4.0]
    assert row["chance"] == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "invalid JSON"),
        ('{"doc_id": 1}', "a line without target, arguments, resps"),
        ('{"doc_id": 1, "target": "", "arguments": {}, "resps": []}', "a line with empty arguments"),
        ('{"doc_id": 1, "target": "", "arguments": [["a", " b"]], "resps": [[["-1", "True"]]]}', "without doc_hash and doc"),
        ("", "a file without samples"),
    ],
)
def test_a_line_that_is_not_a_sample_is_rejected(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(RecordError, match=words):
        logged.rows(tmp_path / "x.jsonl", "t")


def test_a_duplicate_item_is_rejected(tmp_path: Path) -> None:
    lm_eval_logs.lines(tmp_path / "x.jsonl", [choice(4, right=True), choice(4, right=True)])
    with pytest.raises(RecordError, match="1 duplicate items, the first with doc_id 4"):
        logged.rows(tmp_path / "x.jsonl", "t")


def test_a_folder_is_read_with_its_settings_and_groups(tmp_path: Path) -> None:
    """A group within a group is replaced by its leaves."""
    items = [choice(i, right=True) for i in range(3)]
    tasks = {"a": items, "b": items, "c": items}
    groups = {"all": ["a", "some"], "some": ["b", "c"], "a": []}
    found = logs.read(str(lm_eval_logs.write(tmp_path, tasks, groups=groups)))
    assert found.model == "some/model"
    assert found.groups == {"all": ("a", "b", "c"), "some": ("b", "c")}
    assert set(found.tasks) == {"a", "b", "c"}
    assert found.notes == ()
    assert found.tasks["a"].settings["version"] == "1"
    assert found.tasks["a"].settings["num_fewshot"] == "0"
    assert [metric.name for metric in found.tasks["a"].metrics] == ["acc"]
    assert found.facts["lm_eval_version"] == "0.4.13"
    assert found.facts["backend"] == "hf"


def test_the_newest_samples_of_each_task_count_with_a_note(tmp_path: Path) -> None:
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=False)], "b": [choice(0, right=False)]})
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)]}, stamp=lm_eval_logs.LATER)
    found = logs.read(str(tmp_path))
    assert found.tasks["a"].samples["metric.acc"].tolist() == [1.0]
    assert found.tasks["b"].samples["metric.acc"].tolist() == [0.0]
    assert "1 older file(s)" in found.notes[0]
    assert lm_eval_logs.LATER in found.notes[0]


def test_two_models_in_one_folder_are_rejected(tmp_path: Path) -> None:
    for model in ("one", "two"):
        lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)]}, model=model)
    with pytest.raises(RecordError, match=r"samples of 2 models \(one, two\).*fix: name one of its folders"):
        logs.read(str(tmp_path))
    assert logs.read(str(tmp_path / "two")).model == "two"


def described(**changes: Any) -> dict[str, Any]:
    """The part of a results file that describes the model."""
    made = {
        "model": "hf",
        "model_args": "pretrained=some/model",
        "model_dtype": "torch.bfloat16",
        "model_revision": "main",
        "model_sha": "a1",
    }
    return made | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_args": "pretrained=some/model,revision=step9000", "model_revision": "step9000", "model_sha": "b2"}, "revision main"),
        ({"model_sha": "b2"}, "model_sha a1"),
        ({"model_args": {"pretrained": "some/model", "peft": "an/adapter"}}, "model_args peft not given"),
        ({"model_args": "pretrained=some/model,load_in_4bit=True"}, "model_args load_in_4bit not given"),
        ({"model_dtype": "torch.float32"}, "dtype torch.bfloat16"),
    ],
    ids=["revision", "moved branch", "adapter", "quantised", "dtype"],
)
@pytest.mark.parametrize("task", ["a", "b"])
def test_two_revisions_in_one_folder_are_rejected(tmp_path: Path, changes: dict[str, Any], said: str, task: str) -> None:
    """Of one task, of which the newest would count, or of two, which would be one side."""
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=False)]}, config=described())
    lm_eval_logs.write(tmp_path, {task: [choice(0, right=True)]}, stamp=lm_eval_logs.LATER, config=described(**changes))
    files = rf"{said} in \S*results_{lm_eval_logs.STAMP}.json, \S+ in \S*results_{lm_eval_logs.LATER}.json"
    with pytest.raises(RecordError, match=rf"results of two models: {files}; allowed: results of one model and revision"):
        logs.read(str(tmp_path))


def test_one_model_may_be_measured_on_several_machines_and_versions(tmp_path: Path) -> None:
    """Arguments as text and as a mapping, other batches, devices and lengths, no sha."""
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)]}, config=described())
    other = {"pretrained": "some/model", "revision": "main", "dtype": "auto", "device": "cuda", "batch_size": 4, "max_length": 2048}
    later = described(model_args=other, model_sha="", batch_size="auto")
    lm_eval_logs.write(tmp_path, {"b": [choice(0, right=True)]}, stamp=lm_eval_logs.LATER, config=later, lm_eval_version="0.4.9")
    assert sorted(logs.read(str(tmp_path)).tasks) == ["a", "b"]


def test_results_without_samples_are_rejected_and_named(tmp_path: Path) -> None:
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)], "b": [choice(0, right=True)]})
    next(tmp_path.rglob("samples_b*")).unlink()
    assert "results without samples, not compared: b" in logs.read(str(tmp_path)).notes[0]
    next(tmp_path.rglob("samples_a*")).unlink()
    with pytest.raises(RecordError, match=r"without samples_\*.jsonl.*--log_samples"):
        logs.read(str(tmp_path))


def test_samples_without_results_are_read_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    lm_eval_logs.lines(tmp_path / "m" / f"samples_a_{lm_eval_logs.STAMP}.jsonl", [choice(0, right=True)])
    found = logs.read(str(tmp_path))
    assert found.model == "m"
    assert found.tasks["a"].settings == {}
    assert "no results file for a" in found.notes[0]


def test_samples_that_do_not_reproduce_the_recorded_score_are_rejected(tmp_path: Path) -> None:
    items = [choice(0, right=True), choice(1, right=False)]
    lm_eval_logs.write(tmp_path, {"a": items}, results={"a": {"acc,none": 0.75}})
    with pytest.raises(RecordError, match=r"mean acc \(filter none\) is 0.5.*allowed: 0.75"):
        logs.read(str(tmp_path))


def test_a_score_that_is_not_a_mean_over_items_is_left_out_with_the_reason(tmp_path: Path) -> None:
    """As in lambada: one log-likelihood per item, of which lm-eval reports exp(−mean)."""
    items = [choice(i, right=i < 2) | {"perplexity": -1.0, "own": 0.5, "metrics": ["perplexity", "acc", "own"]} for i in range(4)]
    listed: list[dict[str, Any]] = [
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "own"},
        {"metric": "bleu", "aggregation": "bleu"},
    ]
    lm_eval_logs.write(
        tmp_path, {"a": items}, configs={"a": config(metric_list=listed)}, results={"a": {"perplexity,none": math.e, "own,none": 7.0}}
    )
    task = logs.read(str(tmp_path)).tasks["a"]
    assert [metric.name for metric in task.metrics] == ["acc"]
    assert sorted(task.left_out) == [
        "a: bleu left out: no number per item",
        "a: own left out: its score is not the mean of its items",
        "a: perplexity left out: its score is not a mean over items (perplexity)",
    ]


def test_a_results_file_of_another_stem_is_found(tmp_path: Path) -> None:
    """``--output_path run.json`` names the results run_STAMP.json, in the folder of the samples."""
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)]})
    results = next(tmp_path.rglob("results_*.json"))
    results.rename(results.with_name(f"run_{lm_eval_logs.STAMP}.json"))
    assert logs.read(str(tmp_path)).tasks["a"].settings["version"] == "1"


def test_a_broken_results_file_is_rejected(tmp_path: Path) -> None:
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)]})
    next(tmp_path.rglob("results_*.json")).write_text("{")
    with pytest.raises(RecordError, match="invalid JSON"):
        logs.read(str(tmp_path))


def test_addresses_of_functions_are_not_settings(tmp_path: Path) -> None:
    found = []
    for side, address in {"one": "0x7f4b27e4b1a0", "two": "0x7fffffffff00"}.items():
        settings = config(metric_list=[{"metric": f"<function agg at {address}>"}, {"metric": "acc", "aggregation": "mean"}])
        folder = lm_eval_logs.write(tmp_path / side, {"a": [choice(0, right=True)]}, configs={"a": settings})
        found.append(json.dumps(dict(logs.read(str(folder)).tasks["a"].settings)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doc_id": "q17"}, "x.jsonl, line 2: doc_id: got 'q17'"),
        ({"doc_id": 1.5}, "x.jsonl, line 2: doc_id: got 1.5"),
        ({"doc_id": None}, "x.jsonl, line 2: got a line without doc_id"),
        ({"resps": None}, "x.jsonl, line 2: got a line without resps"),
        ({"resps": 3}, "x.jsonl, line 2: got an unreadable line"),
        ({"arguments": {"gen_args_0": {"ctx": "a"}}}, "x.jsonl, line 2: got an unreadable line"),
        ({"metrics": 5}, "x.jsonl, line 2: got an unreadable line"),
    ],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    lm_eval_logs.lines(tmp_path / "x.jsonl", [choice(0, right=True), choice(1, right=True) | change])
    with pytest.raises(RecordError, match=words) as raised:
        logged.rows(tmp_path / "x.jsonl", "t")
    assert "\n" not in str(raised.value)


def test_a_byte_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    lm_eval_logs.lines(tmp_path / "x.jsonl", [choice(0, right=True), choice(1, right=True)])
    text = (tmp_path / "x.jsonl").read_bytes()
    (tmp_path / "x.jsonl").write_bytes(text.replace(b"question 1", b"question \xe9"))
    with pytest.raises(RecordError, match=r"line 2: got invalid JSON \('utf-8' codec"):
        logged.rows(tmp_path / "x.jsonl", "t")


@pytest.mark.parametrize("key", ["config", "configs", "versions", "n-shot", "higher_is_better", "group_subtasks"])
def test_null_in_a_results_file_is_read_as_a_missing_key(tmp_path: Path, key: str) -> None:
    """Null for the key, and null for one task."""
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)]})
    results = next(tmp_path.rglob("results_*.json"))
    values = json.loads(results.read_text())
    for found in (None, {"a": None}):
        results.write_text(json.dumps(values | {key: found}))
        assert [metric.name for metric in logs.read(str(tmp_path)).tasks["a"].metrics] == ["acc"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": "hf"}, "config: got a value of type str; allowed: a mapping"),
        ({"configs": {"a": []}}, "configs: a: got a value of type list; allowed: a mapping"),
        ({"group_subtasks": {"g": "a"}}, "group_subtasks: g: got a value of type str; allowed: a list"),
        ({"configs": {"a": {"metric_list": "acc"}}}, "configs: a: metric_list: got a value of type str"),
    ],
)
def test_a_results_file_of_another_shape_is_rejected(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    lm_eval_logs.write(tmp_path, {"a": [choice(0, right=True)]})
    results = next(tmp_path.rglob("results_*.json"))
    results.write_text(json.dumps(json.loads(results.read_text()) | change))
    with pytest.raises(RecordError, match=words):
        logs.read(str(tmp_path))
