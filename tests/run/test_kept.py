"""Suites that are added or changed after training: measured on kept weights, or trained for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness.core.errors import ModelError
from harness.core.progress import Silent
from harness.run import execution, settling
from harness.run.outstanding import outstanding
from harness.run.workspace import Workspace
from harness.sweep.plan.planning import as_text, plan_sweep
from tests.support.small_runs import Runs

OWN = Path("own/benchmarks/suites")
LATER = ("probe_suites=[probe,loss,drift]",)
A_POINT = 3


@pytest.mark.parametrize(
    "method",
    [("tuning=full",), ("tuning=lora",), ("tuning=lora", "mitigation=merge", "mitigation.coefficient=0.5", "mitigation.grid=[0.5]")],
)
def test_a_suite_added_later_is_measured_without_training(runs: Runs, method: tuple[str, ...]) -> None:
    """Its scores are those of a run that measured it from the start, drift from the base too."""
    runs(*method, *LATER, name="whole")
    expected = {volume: (runs.point(volume).weights_sha256, runs.scores(volume)) for volume in (8, 16)}
    assert runs(*method, "save_weights=all") == "done"
    run_id = runs.prepared.run_id
    assert runs(*method, *LATER) == "done"
    assert (runs.prepared.run_id, runs.trained) == (run_id, 0)
    assert not runs.evaluated  # suites of lm-eval were measured before
    assert {volume: (runs.point(volume).weights_sha256, runs.scores(volume)) for volume in (8, 16)} == expected
    record = runs.prepared.experiment.record(run_id)
    assert record
    assert (set(record.evaluations), set(record.overlap)) == ({"aim", "probe", "loss", "drift"},) * 2
    assert runs(*method, *LATER) == "already done"


def test_a_changed_suite_is_measured_again_and_the_old_scores_come_back(runs: Runs) -> None:
    """No training; asked for as it was, nothing at all is done."""
    runs("save_weights=all")
    before = runs.scores(16)
    suite = OWN / "probe.yaml"
    text = suite.read_text()
    suite.write_text(text.replace("report: 12", "report: 10"))
    runs.workspace.known.clear()
    fixed = ["model=start", "data.volumes=[8,16]", "target_suites=[aim]", "probe_suites=[probe]", "name=a", "training.learning_rate=0.01"]
    assert [run.again for run in plan_sweep(fixed, workers=1).runs()] == ["weights kept: measures probe (changed) at 8, 16"]
    assert runs() == "done"
    assert (runs.trained, len(runs.evaluated)) == (0, 2 * 2 + 2 * 2)  # two tasks: before twice, at two volumes
    assert runs.scores(16) != before
    suite.write_text(text)
    runs.workspace.known.clear()
    assert runs() == "already done"
    assert runs.scores(16) == before


def test_the_record_shows_how_a_run_was_asked_for_last(runs: Runs) -> None:
    """Roles, settings, prompts and overlap follow the suites, also without any measurement."""
    runs("save_weights=all")
    run_id, experiment = runs.prepared.run_id, runs.prepared.experiment
    swapped = ("target_suites=[probe]", "probe_suites=[aim]", "evaluation.likelihood_tokens=512")
    assert not settling.is_settled(runs.prepare(*swapped))
    assert runs(*swapped) == "already done"
    record = experiment.record(run_id)
    assert record
    assert record.roles == {"probe": "target", "aim": "probe"}
    assert (record.config["probe_suites"], record.config["evaluation"]["likelihood_tokens"]) == (["aim"], 512)
    assert experiment.config(run_id)["probe_suites"] == ["aim"]
    (OWN / "probe.yaml").write_text("kind: lm_eval\ntasks: [tinyworld_arithmetic]\nmetric: acc\nreport: 12\n")
    runs.workspace.known.clear()
    assert runs(*swapped) == "done"
    changed = experiment.record(run_id)
    assert changed
    assert [path.stem for path in (experiment.run_folder(run_id) / "prompts" / "probe").glob("*.txt")] == ["tinyworld_arithmetic"]
    assert (changed.overlap["probe"]["items"], record.overlap["probe"]["items"]) == (12, 24)


def test_anchor_rows_that_are_mixed_in_count_for_the_overlap(runs: Runs) -> None:
    """16 of 24 items are drawn from the anchor; of 22 that are asked later, those among the 16."""
    runs("save_weights=all")
    record, experiment = runs.prepared.experiment.record(runs.prepared.run_id), runs.prepared.experiment
    assert record
    assert (record.overlap["probe"]["exact"], record.overlap["probe"]["items"]) == (0, 24)
    texts = experiment.measurement_samples(runs.prepared.evaluation_ids["probe"], record.before_sha256)["item"].unique()
    Path("old.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    replay = ("mitigation=replay", "mitigation.fraction=1", "anchor=old.jsonl", "save_weights=all")
    runs(*replay)
    for suite in (None, "kind: lm_eval\ntasks: [tinyworld_facts, tinyworld_grammar]\nmetric: acc\nreport: 11\n"):
        if suite:
            (OWN / "probe.yaml").write_text(suite)
            runs.workspace.known.clear()
            assert runs(*replay) == "done"
        record = experiment.record(runs.prepared.run_id)
        assert record
        samples = experiment.measurement_samples(runs.prepared.evaluation_ids["probe"], record.before_sha256)
        drawn = {row.text for row in runs.prepared.anchor[:16]}
        assert record.overlap["probe"]["exact"] == len(drawn.intersection(samples["item"])) >= (14 if suite else 16)


def test_a_larger_volume_resumes_after_a_suite_changed(runs: Runs) -> None:
    """Volumes that are not asked for again stay as they were measured."""
    runs()
    assert runs("data.volumes=[32]", *LATER) == "done"
    assert runs.trained == 2


def test_weights_that_were_not_kept_are_trained_again(runs: Runs) -> None:
    """The last volume is measured on kept weights; the trained ones equal those of before."""
    runs()
    first = {volume: runs.point(volume) for volume in (8, 16)}
    later = runs.prepare(*LATER)
    found = outstanding(later)
    assert (found.train, dict(found.measure), found.retrained) == ((8,), {16: ("loss", "drift")}, ("loss", "drift"))
    fixed = ["model=start", "data.volumes=[8,16]", "target_suites=[aim]", "name=a", "training.learning_rate=0.01"]
    text = as_text(plan_sweep([*fixed, *LATER], workers=1))
    assert "weights kept: measures loss, drift at 16; weights not kept: retrains, to measure loss, drift at 8" in text
    assert runs(*LATER) == "done"
    assert (runs.trained, runs.evaluated) == (2, [])
    assert {volume: runs.point(volume) for volume in (8, 16)} == first


def test_what_is_planned_on_kept_weights_trains_nothing(runs: Runs) -> None:
    """The plan counts evaluation alone."""
    runs("save_weights=all")
    fixed = ["model=start", "data.volumes=[8,16]", "target_suites=[aim]", "name=a", "training.learning_rate=0.01"]
    found = plan_sweep([*fixed, "probe_suites=[probe,loss]"], workers=1)
    (run,) = found.runs()
    assert (run.state, run.again) == ("pending", "weights kept: measures loss at 8, 16")
    assert (found.left.train_tokens, run.cost is not None and (run.cost.evaluation_tokens or 0) > 0) == (0, True)


def test_a_reading_rule_belongs_to_the_run(runs: Runs) -> None:
    """Early stop chooses on the target's select items: asked otherwise, it is another run."""
    early = ("mitigation=early_stop",)
    first = runs.prepare(*early).run_id
    assert runs.prepare(*early, "probe_suites=[]").run_id == first
    (OWN / "aim.yaml").write_text((OWN / "aim.yaml").read_text().replace("select: 20", "select: 19"))
    runs.workspace.known.clear()
    assert runs.prepare(*early).run_id != first


def other_weights() -> None:
    """Give the start model other weights, as a model that is made anew on another machine."""
    file = Path("models/start/model.safetensors")
    found = load_file(file)
    save_file({name: value * 1.01 for name, value in found.items()}, file, {"format": "pt"})


def test_a_run_of_a_rebuilt_start_model_is_another_and_the_old_one_stays(runs: Runs) -> None:
    """Points, weights and state too, when one more volume is asked for."""
    runs("data.volumes=[8]")
    old = runs.prepared.experiment.run_folder(runs.prepared.run_id)
    files = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert {"points", "weights", "state", "record.json"} <= {path.name for path in old.iterdir()}
    other_weights()
    runs.workspace = Workspace()
    assert runs("data.volumes=[8,16]") == "done"
    assert runs.prepared.experiment.run_folder(runs.prepared.run_id) != old
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == files


def test_a_start_model_that_changes_before_it_is_loaded_fails_the_run(runs: Runs) -> None:
    """The run would be recorded as one of the model that was there when it was planned."""
    prepared = runs.prepare()
    other_weights()
    with pytest.raises(ModelError, match=r"model start: got another model.safetensors than when the run was prepared; .*; fix: run"):
        execution.execute(prepared, Silent())
    assert not (prepared.experiment.run_folder(prepared.run_id) / "points").exists()
