"""`harness export`: what other tools read, from an experiment set by hand.

One run: `boolq`, two choices an item, four items a passage; `facts` and `sums` of the suite
`knowledge`, generated, `sums` failed after training; `text`, whose items have weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness.analysis.table.frame import table
from harness.cli import app
from harness.records.schema import Measurement, Point, Record
from harness.records.writer import ExperimentWriter
from tests.support import experiments
from tests.support.experiments import BEFORE, Task

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
REASON = f"cannot read /data/somebody/private/model.bin with HF_TOKEN={SECRET}"
SHOWN = "cannot read model.bin with HF_TOKEN=***"
TUNED = "a" * 64
RIGHT = experiments.share(30, 40)
AFTER = experiments.flipped(RIGHT, lost=9, gained=3)
FORMATS = ("lm-eval", "hub-card", "eval-results", "every-eval-ever")
OPTIONS: Mapping[str, Sequence[str]] = {
    "eval-results": ["--dataset", "knowledge/facts=me/facts:main", "--dataset", "knowledge/sums=me/sums:main"]
}
PASSAGES = [f"p{i // 4}" for i in range(40)]


def _tasks(values: Sequence[float], failed: str | None) -> list[Task]:
    return [
        Task(suite="boolq", task="boolq", values=values, chance=0.5, clusters=PASSAGES),
        Task(suite="knowledge", task="facts", values=values, metric="exact_match", filter="strict", chance=None),
        Task(suite="knowledge", task="sums", values=experiments.share(10, 20), metric="exact_match", chance=None, failed=failed),
        Task(
            suite="text", task="text", values=values, weights=[1.0 + i for i in range(40)], metric="nats_per_token", higher_is_better=False
        ),
    ]


def _answered(samples: pd.DataFrame) -> pd.DataFrame:
    """Return items with answers: two choices, or a text."""
    chosen = samples["suite"] == "boolq"
    answers: dict[str, list[Any]] = {
        "choices": [[" no", " yes"] if one else None for one in chosen],
        "log_likelihoods": [[-1.5, -0.25] if one else None for one in chosen],
        "text": [None if one else "it is 7" for one in chosen],
    }
    for column, values in answers.items():
        samples[column] = pd.Series(values, index=samples.index, dtype=object)
    return samples


def _measure(experiment: ExperimentWriter, weights: str, tasks: Sequence[Task]) -> None:
    for suite in dict.fromkeys(task.suite for task in tasks):
        own = [task for task in tasks if task.suite == suite]
        kind = {"name": suite, "kind": "likelihood" if suite == "text" else "lm_eval", "cluster": "passage" if suite == "boolq" else None}
        measurement = Measurement(
            evaluation_id=f"e-{suite}",
            suite=suite,
            identity={"suite": kind, "evaluation": {"class": "PrefixEvaluation", "dtype": "float32"}},
            weights_sha256=weights,
            scores=tuple(task.score() for task in own),
            wall_seconds=1.0,
            peak_memory_bytes=1,
            provenance={"time": "2026-11-30T12:00:00+00:00", "versions": {"lm_eval": "0.4.13"}, "platform": "/data/machine"},
        )
        experiment.write_measurement(measurement, _answered(experiments.samples(own)))


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentWriter:
    """The experiment `mine`, whose model is a folder, in results of the working directory."""
    monkeypatch.chdir(tmp_path)
    written = ExperimentWriter(tmp_path / "results" / "mine")
    _measure(written, BEFORE, _tasks(RIGHT, None))
    _measure(written, TUNED, _tasks(AFTER, REASON))
    labels = experiments.COMMAND_LABELS | {"model": "/data/somebody/private/model"}
    roles: dict[str, Any] = {"boolq": "probe", "knowledge": "probe", "text": "target"}
    evaluations = {suite: f"e-{suite}" for suite in roles}
    config = experiments.config_of(labels, roles, 0)
    written.write_config("run1", config, evaluations, BEFORE)
    values: dict[str, Any] = {
        "target_rows": 8,
        "anchor_rows": 0,
        "anchor_tokens": 0,
        "truncated_rows": 0,
        "weight_change": 0.5,
        "peak_memory_bytes": 1,
    }
    written.write_point(Point(run_id="run1", volume=8, weights_sha256=TUNED, counts=experiments.counts(8), **values))
    facts: dict[str, Any] = {"params_total": 9, "params_trainable": 9, "learning_rate": 0.1, "lr_tuned": True, "seed": 0, "threads": 1}
    facts |= {"trajectory": "shared", "dtype": "float32", "tuning_facts": {}, "overlap": {}, "start_weights_sha256": "w", "identity": {}}
    made = {"versions": {"harness": "0.1.0"}, "command": f"harness run model=/data/somebody/private/model HF_TOKEN={SECRET}"}
    written.write_record(
        Record(
            run_id="run1",
            experiment="mine",
            labels=labels,
            config=config,
            volumes=(8,),
            evaluations=evaluations,
            before_sha256=BEFORE,
            roles=roles,
            provenance=made,
            incomplete=(8,),
            **facts,
        )
    )
    written.write_manifest({"run1": {}}, keep=False)
    return written


def _export(to: str, *options: str) -> Path:
    assert app.main(["export", "mine", "--to", to, "--output", "out", *OPTIONS.get(to, ()), *options]) == 0
    return Path("out")


def test_compare_of_the_exported_logs_gives_the_changes_of_the_table(
    experiment: ExperimentWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    """9 of 40 items lost and 3 gained are −0.15, clustered by passage as in the experiment."""
    folder = _export("lm-eval") / "run1-8"
    said = capsys.readouterr().out
    assert "left out: text: a likelihood suite, which lm-eval does not have\n" in said
    assert f"next: harness compare {folder}/before {folder}/after\n" in said
    assert app.main(["compare", str(folder / "before"), str(folder / "after"), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    found = {task["task"]: task for task in compared["tasks"]}
    rows = table(experiment)
    rows = rows[(rows["volume"] == 8) & rows["delta"].notna() & (rows["suite"] != "text") & (rows["task"] != "*")]
    assert {name: (task["before"], task["after"], task["delta"]) for name, task in found.items()} == {
        str(row["task"]): pytest.approx((row["before"], row["value"], row["delta"])) for _, row in rows.iterrows()
    }
    assert found["boolq"]["delta"] == pytest.approx(-0.15)
    assert (found["boolq"]["lost"], found["boolq"]["gained"]) == (9, 3)
    assert not any("independent" in note and "boolq" in note for note in compared["notes"])
    assert any("results without samples, not compared: sums" in note for note in compared["notes"])


def test_a_sample_has_the_keys_and_types_of_lm_eval(experiment: ExperimentWriter) -> None:
    """Responses are texts; a document is its cluster; whether an answer is greedy is unknown."""
    folder = _export("lm-eval")
    lines = next(folder.rglob("after/*/samples_boolq_2026-11-30T12-00-00.jsonl")).read_text(encoding="utf-8").splitlines()
    sample = json.loads(lines[-1])
    assert len(lines) == 40
    assert sample["arguments"] == {
        "gen_args_0": {"arg_0": "question", "arg_1": " no"},
        "gen_args_1": {"arg_0": "question", "arg_1": " yes"},
    }
    assert sample["resps"] == [[["-1.5", "None"]], [["-0.25", "None"]]]
    assert sample["filtered_resps"] == [["-1.5", "None"], ["-0.25", "None"]]
    assert (sample["doc_id"], sample["doc"], sample["filter"], sample["metrics"]) == (0, {"passage": "p0"}, "none", ["acc"])
    written = json.loads(next(folder.rglob("after/*/samples_facts_*.jsonl")).read_text(encoding="utf-8").splitlines()[0])
    assert (written["arguments"]["gen_args_0"], written["resps"]) == ({"arg_0": "question", "arg_1": {}}, [["it is 7"]])
    results = json.loads(next(folder.rglob("after/*/results_*.json")).read_text(encoding="utf-8"))
    assert results["results"]["boolq"]["acc,none"] == pytest.approx(0.6)
    assert results["results"]["facts"]["exact_match,strict"] == pytest.approx(0.6)
    assert results["group_subtasks"] == {"knowledge": ["facts", "sums"]}
    assert (results["model_name"], results["lm_eval_version"]) == ("mine-run1-8", "0.4.13")


@pytest.mark.parametrize("to", FORMATS)
def test_a_failed_measurement_is_missing_with_its_reason(experiment: ExperimentWriter, capsys: pytest.CaptureFixture[str], to: str) -> None:
    """The terminal names it, and so does the file where the format allows; it has no value."""
    folder = _export(to)
    assert f"sums, exact_match: {SHOWN}" in capsys.readouterr().out
    whole = "".join(file.read_text(encoding="utf-8") for file in folder.rglob("*") if file.is_file() and "before" not in file.parts)
    if to == "lm-eval":
        results = json.loads(next(folder.rglob("after/*/results_*.json")).read_text(encoding="utf-8"))
        assert results["results"]["sums"]["exact_match,none"] == "N/A"
        assert results["results"]["knowledge"]["reason"] == f"1 of 2 tasks failed, first sums: {SHOWN}"
        assert results["configs"]["sums"]["metadata"]["failed"] == SHOWN
        assert not list(folder.rglob("after/*/samples_sums*"))
    elif to == "hub-card":
        reason = f"1 of 2 tasks failed, first sums: {SHOWN}"
        (line,) = [line for line in whole.splitlines() if line.startswith("| knowledge ")]
        assert line.startswith("| knowledge | probe | exact_match")
        assert line.endswith(f" | 0.625 | missing: {reason} |  |  |  |")
        assert "knowledge.sums" not in whole
    elif to == "eval-results":
        assert [entry["dataset"]["id"] for entry in yaml.safe_load(whole)] == ["me/facts"]
    else:
        record = next(record for record in _records(folder) if record["model_info"]["name"] == "mine-run1-8")
        assert json.loads(record["source_metadata"]["additional_details"]["missing"])["knowledge.sums.exact_match"] == SHOWN
        assert "sums" not in {result["evaluation_name"] for result in record["evaluation_results"]}


@pytest.mark.parametrize("to", FORMATS)
def test_no_file_has_a_secret_or_an_absolute_path(experiment: ExperimentWriter, to: str) -> None:
    """The model's folder and a failure's reason had both; commands are not exported."""
    for file in _export(to).rglob("*"):
        text = str(file.relative_to("out")) + (file.read_text(encoding="utf-8") if file.is_file() else "")
        assert SECRET not in text
        assert not re.search(r"somebody|private|/data/machine|harness run", text), file
        assert str(Path.cwd()) not in text


def test_the_hub_reads_the_metadata_of_the_card(experiment: ExperimentWriter) -> None:
    """Scores and changes, one data set a task: huggingface_hub's own reader finds each."""
    cards = pytest.importorskip("huggingface_hub.repocard_data")
    text = (_export("hub-card") / "run1-8" / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(text.split("---\n")[1])
    name, results = cards.model_index_to_eval_results(metadata["model-index"])
    assert name == "mine-run1-8"
    assert {(one.dataset_config, one.metric_type): one.metric_value for one in results} == {
        ("boolq.boolq", "acc"): pytest.approx(0.6),
        ("boolq.boolq", "acc_change"): pytest.approx(-0.15),
        ("knowledge.facts", "exact_match"): pytest.approx(0.6),
        ("knowledge.facts", "exact_match_change"): pytest.approx(-0.15),
        ("text.text", "nats_per_token"): pytest.approx(_weighted(AFTER)),
        ("text.text", "nats_per_token_change"): pytest.approx(_weighted(AFTER) - _weighted(RIGHT)),
    }
    assert re.search(r"\n\| boolq \| probe \| acc \| 0\.75 \| 0\.6 \| -0\.15 \| -0\.\d+ to \+?-?0\.\d+ \| 40 \|\n", text)
    assert "`mine-run1-8` is model after 8 rows of people (tuning full, objective sft, mitigation none, seed 0)." in text


def _weighted(values: Sequence[float]) -> float:
    return sum(value * (1.0 + i) for i, value in enumerate(values)) / sum(1.0 + i for i in range(len(values)))


def test_the_hub_reads_the_evaluation_results(experiment: ExperimentWriter) -> None:
    """One entry for each named task, in the metric's unit; what else is known is in the notes."""
    hub = pytest.importorskip("huggingface_hub")
    text = (_export("eval-results") / "run1-8" / ".eval_results" / "forgetting-harness.yaml").read_text(encoding="utf-8")
    (entry,) = hub.parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/facts", "main", pytest.approx(0.6))
    assert entry.date == "2026-11-30T12:00:00+00:00"
    assert entry.notes.startswith("exact_match:strict of 40 items, model after 8 rows of people")
    assert "before training (model) 0.7500, change -0.1500" in entry.notes


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.json"))]


def test_records_of_every_eval_ever_follow_its_schema(experiment: ExperimentWriter) -> None:
    """The rules of schema 0.3.0, written by hand: its own package needs a newer Python."""
    folder = _export("every-eval-ever", "--organization", "Acme Labs")
    assert len(list(folder.rglob("*.json"))) == 2
    for file in folder.rglob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        _check_record(record)
        assert file.relative_to(folder).parts[:-1] == ("data", "mine", *record["model_info"]["id"].split("/"))
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", file.stem)
    before, after = sorted(_records(folder), key=lambda record: str(record["model_info"]["name"] == "mine-run1-8"))
    details = after["model_info"]["additional_details"]
    assert (details["base_model"], details["before_evaluation_id"]) == ("model", before["evaluation_id"])
    (boolq,) = [one for one in after["evaluation_results"] if one["evaluation_result_id"] == "boolq.boolq.acc"]
    assert boolq["score_details"]["score"] == pytest.approx(0.6)
    assert float(boolq["score_details"]["details"]["delta"]) == pytest.approx(-0.15)


def _check_record(record: Mapping[str, Any]) -> None:
    required = {
        "schema_version",
        "evaluation_id",
        "retrieved_timestamp",
        "source_metadata",
        "model_info",
        "eval_library",
        "evaluation_results",
    }
    assert required <= set(record) <= required | {"evaluation_timestamp", "detailed_evaluation_results"}
    assert record["schema_version"] == "0.3.0"
    assert record["retrieved_timestamp"] == str(int(pd.Timestamp("2026-11-30T12:00:00Z").timestamp()))
    source, model = record["source_metadata"], record["model_info"]
    assert source["source_type"] in {"evaluation_run", "documentation"}
    assert source["source_organization_name"] == "Acme Labs"
    assert source["evaluator_relationship"] in {"first_party", "third_party", "collaborative", "other"}
    assert {"name", "version"} <= set(record["eval_library"])
    assert model["additional_details"]["deployment_type"] in {"self_deployed", "externally_managed", "unknown"}
    assert model["additional_details"]["model_availability"] in {"open_weights", "closed_weights", "unknown"}
    assert record["evaluation_results"]
    details = [record["eval_library"], source, model]
    for result in record["evaluation_results"]:
        assert {"evaluation_name", "source_data", "metric_config", "score_details"} <= set(result)
        assert {"dataset_name", "source_type"} <= set(result["source_data"])
        metric, score = result["metric_config"], result["score_details"]["score"]
        assert metric["score_type"] == "continuous"
        assert isinstance(metric["lower_is_better"], bool)
        assert float(metric["min_score"]) <= score <= float(metric["max_score"])
        assert math.isfinite(score)
        details += [metric, {"additional_details": result["score_details"].get("details", {})}]
    assert all(isinstance(value, str) for one in details for value in one.get("additional_details", {}).values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "lm-eval", "--run", "run2"], "--run: got 'run2'; allowed: a recorded run: run1; fix: did you mean 'run1'?"),
        (["--to", "lm-eval", "--run", "run1@9"], "--run run1@: got '9'; allowed: a volume of this run: 8"),
        (["--to", "eval-results"], "--dataset: got none, for --to eval-results; allowed: SUITE=ORG/DATASET:TASK_ID"),
        (["--to", "eval-results", "--dataset", "facts=me/facts:a"], "--dataset: got 'facts'; allowed: boolq, boolq/boolq, knowledge,"),
        (["--to", "eval-results", "--dataset", "boolq=boolq"], "--dataset: got 'boolq=boolq'; allowed: SUITE=ORG/DATASET:TASK_ID"),
        (["--to", "eval-results", "--dataset", "knowledge=a/b:c"], "export --to eval-results: got nothing to export ("),
        (["--to", "hub-card", "--dataset", "boolq=a/b:c"], "--dataset: got --to hub-card; allowed: --to eval-results"),
        (["--to", "hub-card", "--organization", "me"], "--organization: got --to hub-card; allowed: --to every-eval-ever"),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(
    experiment: ExperimentWriter, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    """Exit code 2; the failed task alone is nothing to export."""
    assert app.main(["export", "mine", "--output", "out", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"harness: {message}")
    assert not Path("out").exists()
    assert not list(Path().rglob(".export-*"))


def test_damaged_items_leave_no_file(experiment: ExperimentWriter, capsys: pytest.CaptureFixture[str]) -> None:
    """The first measurements are whole, the last is not: nothing of them is written."""
    (experiment.measurement_folder("e-knowledge", TUNED) / "samples.parquet").write_bytes(b"PAR1")
    assert app.main(["export", "mine", "--to", "lm-eval", "--output", "out"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("out").exists()


def test_another_export_leaves_other_files(experiment: ExperimentWriter) -> None:
    """The same files have the same bytes again, and the user's own stay."""
    folder = _export("lm-eval")
    first = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (folder / "notes.txt").write_text("mine")
    _export("lm-eval", "--run", "run1@8")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == first | {folder / "notes.txt": b"mine"}
