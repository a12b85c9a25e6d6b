"""Weight mitigations and early stop: derived runs, choices on select items, resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.table.frame import table
from harness.config import composition
from harness.core.errors import ConfigError, EvaluationError
from harness.records.schema import Point
from harness.run import selection
from harness.run.outstanding import is_done
from harness.run.workspace import Workspace
from harness.sweep.claims import Claims
from harness.sweep.plan.stale import stale_runs
from harness.sweep.states import UnitStates, recorded_so_far
from harness.sweep.units import units_of
from tests.support.small_runs import Runs, scores_of, without_time

MERGE = ("mitigation=merge", "mitigation.grid=[0.0,0.5,1.0]")
A_POINT = 3
"""Tasks of the two suites."""


def numbers(run: Runs, point: Point) -> list[float | None]:
    return [score.value for score in scores_of(run.prepared, point)]


def whole(run: Runs) -> dict[tuple[str, int], Point]:
    """Every point of the experiment, without the fields that differ between executions."""
    experiment = run.prepared.experiment
    found = {(one, volume): experiment.point(one, volume) for one in experiment.run_ids() for volume in experiment.volumes(one)}
    return {key: without_time(point) for key, point in found.items() if point}


def test_a_plan_counts_every_evaluation(runs: Runs) -> None:
    """Three coefficients per volume, each on select items too.

    Early stop adds the select items once per volume.
    """
    from harness.sweep.plan.estimate import Estimator
    from harness.sweep.plan.rates import rates

    estimator = Estimator(runs.workspace, rates([], gpu=False), gpu=False)
    overrides = {"none": (), "select": ("evaluation.items=select", "probe_suites=[]"), "early": ("mitigation=early_stop",), "merge": MERGE}
    tokens = {name: estimator.run(runs.prepare(*given)).evaluation_tokens for name, given in overrides.items()}
    assert tokens["none"]
    assert tokens["select"]
    assert tokens["early"] == tokens["none"] + tokens["select"]
    assert tokens["merge"] == 3 * tokens["early"]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_one_training_serves_every_coefficient(runs: Runs, tuning: str) -> None:
    """λ 0 has the scores of the start model, λ 1 of the tuned one.

    The run's own point is the best one.
    """
    runs(f"tuning={tuning}", name="plain")
    plain = {volume: runs.point(volume) for volume in (8, 16)}
    untrained = dataclasses.replace(plain[8], weights_sha256=runs.prepared.before_sha256)
    before, tuned_numbers = numbers(runs, untrained), {volume: numbers(runs, point) for volume, point in plain.items()}
    assert runs(f"tuning={tuning}", *MERGE) == "done"
    assert runs.trained == 2
    select, report = [what for what in runs.evaluated if what[1] == "select"], [what for what in runs.evaluated if what[1] == "report"]
    assert set(select) == {("tinyworld_people", "select")}
    assert len(select) == 2 * 3
    assert len(report) == 2 * A_POINT + (2 * 3 - 1) * A_POINT  # volume 0 twice; two volumes of three coefficients, 0 but once
    for volume in (8, 16):
        start, half, tuned = (runs.point(volume, coefficient) for coefficient in (0.0, 0.5, 1.0))
        assert numbers(runs, start) == before
        assert numbers(runs, tuned) == tuned_numbers[volume]
        assert (start.weight_change, half.coefficient) == (0.0, 0.5)
        assert tuned.weight_change == pytest.approx(plain[volume].weight_change, rel=1e-5)
        assert half.weight_change == pytest.approx((tuned.weight_change or 0) / 2, rel=1e-5)
        own = runs.point(volume)
        assert own.selected == {**start.selected, **half.selected, **tuned.selected}
        assert f"{own.coefficient:g}" == selection.best(own.selected)
        assert numbers(runs, own) == numbers(runs, runs.point(volume, own.coefficient))
        assert (own.counts.trained_tokens, half.counts.trained_tokens) == (plain[volume].counts.trained_tokens,) * 2


def test_derived_runs_have_records_and_follow_their_parent(runs: Runs) -> None:
    """A record names the parent; derived runs are current, stale and done with it."""
    runs(*MERGE)
    experiment, run_id = runs.prepared.experiment, runs.prepared.run_id
    ids = [f"{run_id}-{name}" for name in ("0", "0.5", "1")]
    assert experiment.run_ids() == [run_id, *ids]
    record = experiment.record(ids[1])
    assert record
    assert (record.derived_from, record.labels["mitigation"]) == (run_id, "merge[coefficient=0.5,grid=[0.0, 0.5, 1.0]]")
    assert record.identity == {**runs.prepared.identity, "coefficient": 0.5}
    rows = table(experiment)
    assert set(rows["run_id"]) == {run_id, *ids}
    assert set(rows["status"]) == {"ok"}
    experiment.write_manifest({run_id: {"name": "a"}}, keep=False)
    assert experiment.current() == {run_id, *ids}
    assert (experiment.asked(), experiment.stale()) == ({run_id}, set())
    assert not stale_runs(experiment, [runs.prepared])
    experiment.write_manifest({"0" * 12: {"name": "a"}}, keep=False)
    assert experiment.current() == {"0" * 12}
    assert experiment.stale() == {run_id}
    assert table(experiment).empty
    assert set(table(experiment, stale=True)["run_id"]) == {run_id, *ids}
    assert [one.id for one in stale_runs(experiment, [])] == [run_id]


def test_only_missing_points_are_measured(runs: Runs) -> None:
    """A repeated command does nothing; a larger volume adds its own points only.

    A derived run that is missing is trained for again.
    """
    runs("data.volumes=[8]", *MERGE)
    assert runs("data.volumes=[8]", *MERGE) == "already done"
    assert not runs.evaluated
    assert runs(*MERGE) == "done"
    assert (runs.trained, len(runs.evaluated)) == (1, 3 + 2 * A_POINT)  # coefficient 0 has the weights of the volume before
    experiment, half = runs.prepared.experiment, runs.prepared.derived[0.5]
    once = whole(runs)
    unit = units_of([(_asked(runs), runs.prepared)])[0]
    states = lambda: UnitStates(experiment, Claims(experiment, sweep="s"))  # noqa: E731 - an instance caches what is done
    assert states().is_done(unit)
    experiment.set_aside(half)
    assert not states().is_done(unit)
    assert not is_done(runs.prepared)
    assert runs(*MERGE) == "done"
    assert runs.evaluated == [("tinyworld_people", "select")] * 2  # what is reported was measured on equal weights before
    assert whole(runs) == once


def _asked(runs: Runs) -> Any:
    from harness.sweep.axes import Asked

    return Asked(runs.prepared.config, ())


@pytest.mark.parametrize("stop_at", [13, 19])
def test_an_interrupted_grid_resumes(runs: Runs, stop_at: int) -> None:
    """Nothing is measured twice.

    The interruptions are at a coefficient of the first volume, on reported items, and at one of the
    second volume, on select items.
    """
    runs(*MERGE, name="whole")
    every, expected = len(runs.evaluated), whole(runs)
    assert every == 2 * A_POINT + 2 * 3 + (2 * 3 - 1) * A_POINT
    with pytest.raises(KeyboardInterrupt):
        runs(*MERGE, stop_at=stop_at)
    assert not is_done(runs.prepared)
    interrupted = recorded_so_far(runs.prepared.experiment, runs.prepared.run_id)
    assert runs(*MERGE) == "done"
    assert len(runs.evaluated) == every - (stop_at - 1)
    assert recorded_so_far(runs.prepared.experiment, runs.prepared.run_id) != interrupted
    assert whole(runs) == expected
    assert not list(Path("results/a").glob("runs/*/partial/*"))


def test_a_fixed_coefficient_is_measured_by_the_run_itself(runs: Runs) -> None:
    """Nothing is chosen, so no target suite is needed.

    The other coefficients are derived runs; a grid of one has none.
    """
    runs(*MERGE, "mitigation.coefficient=0.5", "target_suites=[]", "data.volumes=[8]")
    assert list(runs.prepared.derived) == [0.0, 1.0]
    assert (runs.point(8).coefficient, runs.point(8).selected) == (0.5, {})
    assert not any(what == "select" for _, what in runs.evaluated)
    labels = {record.labels["mitigation"] for one in runs.prepared.experiment.run_ids() if (record := runs.prepared.experiment.record(one))}
    assert labels == {f"merge[coefficient={name},grid=[0.0, 0.5, 1.0]]" for name in ("0", "0.5", "1")}
    alone = runs.prepare("mitigation=merge", "mitigation.grid=[1.0]", "mitigation.coefficient=1.0")
    assert (alone.derived, alone.own_coefficient, alone.needs_selection) == ({}, 1.0, False)


def test_the_best_on_select_items_is_chosen_and_ties_go_to_the_smallest(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded score of a loss is negated, because lower is better."""
    assert selection.best({"0.2": 0.5, "0.4": 0.7, "0.6": 0.7, "1": 0.1}) == "0.4"
    assert selection.best({"16": 0.5, "8": 0.5}) == "8"
    runs(*MERGE, "target_suites=[loss]", "data.volumes=[8]")
    loss = next(score for score in runs.scores(8, 0.5) if score.suite == "loss" and score.primary)
    assert not loss.higher_is_better
    assert runs.point(8, 0.5).selected["0.5"] < 0 < loss.value  # type: ignore[operator]
    monkeypatch.setattr(selection, "_mean", lambda suite, scores: {"aim": 0.5}[suite])
    runs(*MERGE, "data.volumes=[8]", name="equal")
    assert runs.point(8).coefficient == 0.0


def test_a_choice_needs_select_items_of_one_metric(runs: Runs) -> None:
    """Other configurations are rejected before anything is evaluated; probes do not count."""
    with pytest.raises(ConfigError, match="got no target suite to select on"):
        runs.prepare("mitigation=merge", "target_suites=[]")
    with pytest.raises(ConfigError, match="got acc of aim, nats_per_token of loss; allowed: one metric to select on"):
        runs.prepare("mitigation=merge", "target_suites=[aim,loss]")
    runs.prepare("mitigation=merge", "target_suites=[aim,loss]", "mitigation.coefficient=0.5")
    with pytest.raises(EvaluationError, match="suite unchosen: select"):
        runs("mitigation=merge", "target_suites=[unchosen]")
    assert not runs.evaluated


def test_a_failed_choice_is_a_failed_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """No coefficient is chosen if one could not be measured."""
    from harness.evaluation.samples import failed

    scores = (failed(Workspace().suite("aim"), "tinyworld_people", "RuntimeError: no memory"),)
    with pytest.raises(EvaluationError, match="select items: got tinyworld_people failed: RuntimeError: no memory"):
        selection._mean("aim", scores)


def test_drift_is_measured_of_changed_weights(runs: Runs) -> None:
    """λ 0 has no drift, λ 0.5 has less than λ 1."""
    runs(*MERGE, "probe_suites=[drift]", "data.volumes=[8]")
    found = {one: next(s.value for s in runs.scores(8, one) if s.primary and s.suite == "drift") for one in (0.0, 0.5, 1.0)}
    assert found[0.0] == 0
    assert 0 < found[0.5] < found[1.0]  # type: ignore[operator]


def test_the_weights_of_a_fixed_coefficient_are_saved(runs: Runs) -> None:
    """They are saved as a plain model, also if an adapter was trained."""
    import torch
    from transformers import AutoModelForCausalLM

    runs("tuning=lora", *MERGE, "mitigation.coefficient=0.0")
    assert (runs.point(8).weights, runs.point(16).weights) == (None, "weights/16")
    folder = runs.prepared.experiment.run_folder(runs.prepared.run_id) / "weights" / "16"
    saved, start = AutoModelForCausalLM.from_pretrained(folder), runs.prepared.config.model.load()
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in start.state_dict().items())


def test_other_models_are_checked_and_part_of_the_run(runs: Runs) -> None:
    """Their content is in the identity; an unknown name is rejected.

    A run without other models has no such entry.
    """
    pair = "mitigation.vectors=[{chat: chat, base: base}]"
    runs("mitigation=chat_vector", pair, "mitigation.grid=[0.0,0.5]", "data.volumes=[8]")
    models = runs.prepared.identity["inputs"]["models"]
    assert models == {name: composition.member("model", name).facts().content | {"context_length": 64} for name in ("chat", "base")}
    assert runs.point(8).coefficient == 1.0
    assert sorted(runs.prepared.derived) == [0.0, 0.5]
    moved = [of.weight_change or 0 for of in (runs.point(8, 0.0), runs.point(8, 0.5), runs.point(8))]
    assert moved == sorted(set(moved))
    assert "models" not in runs.prepare().identity["inputs"]
    with pytest.raises(ConfigError, match="model: got 'chatty'; allowed: base, chat"):
        runs.prepare("mitigation=chat_vector", "mitigation.vectors=[{chat: chatty, base: base}]")


def test_a_model_of_another_width_is_rejected_before_training(runs: Runs) -> None:
    with pytest.raises(
        ConfigError, match=r"mitigation=chat_vector.*: model wide: got layers of other sizes; allowed: those of model=start"
    ):
        runs.prepare("mitigation=chat_vector", "mitigation.vectors=[{chat: wide, base: wide}]")


def test_early_stop_takes_the_best_volume_so_far(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores on the select items are made up; a tie goes to the earlier volume."""
    scores = {8: 0.2, 16: 0.6, 24: 0.6, 32: 0.4}
    monkeypatch.setattr(selection.Selection, "score", lambda self, model, run_id, volume, when, base=None: scores[volume])
    volumes = "data.volumes=[8,16,24,32]"
    runs(volumes, name="plain")
    plain = {volume: runs.point(volume) for volume in scores}
    expected = {volume: numbers(runs, point) for volume, point in plain.items()}
    assert runs(volumes, "mitigation=early_stop") == "done"
    points = {volume: runs.point(volume) for volume in scores}
    assert [numbers(runs, points[volume]) for volume in scores] == [expected[best] for best in (8, 16, 16, 16)]
    assert points[24].selected == {"8": 0.2, "16": 0.6, "24": 0.6}
    assert [point.weights for point in points.values()] == ["weights/8", *["weights/16"] * 3]
    assert [point.target_rows for point in points.values()] == [8, 16, 24, 32]
    assert points[32].weight_change == plain[16].weight_change
    assert len(runs.evaluated) == 2 * A_POINT + 2 * A_POINT  # volume 0 twice; the two best volumes


def test_an_interrupted_early_stop_resumes(runs: Runs) -> None:
    """Scores of earlier volumes are read from disk."""
    early = ("mitigation=early_stop", "data.volumes=[8,16]")
    runs(*early, name="whole")
    expected = whole(runs)
    with pytest.raises(KeyboardInterrupt):
        runs(*early, stop_at=2 * A_POINT + 1 + A_POINT + 1)  # at the second volume, on select items
    assert runs.prepared.experiment.volumes(runs.prepared.run_id) == [8]
    assert runs(*early) == "done"
    assert whole(runs) == expected
    assert runs(*early) == "already done"


def test_early_stop_on_other_volumes_is_another_run(runs: Runs) -> None:
    """The best volume so far depends on the volumes of the run.

    Independent trajectories have one volume each, so early stop is rejected.
    """
    ids = {runs.prepare("mitigation=early_stop", f"data.volumes={volumes}").run_id for volumes in ("[8,16]", "[16]", "[8,16,24]")}
    assert len(ids) == 3
    assert runs.prepare("mitigation=early_stop", "data.volumes=[16,8]").run_id in ids
    with pytest.raises(ConfigError, match="trajectory=independent, in which a run has one volume"):
        runs.prepare("mitigation=early_stop", "trajectory=independent", "data.volumes=[8]")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("merge", "merge[coefficient=0.4]"),
        ("merge[coefficient=0.5]", "merge[coefficient=0.4]"),
        ("merge[coefficient=0.5,grid=[0.2, 0.5]]", "merge[coefficient=0.4,grid=[0.2, 0.5]]"),
        ("merge[grid=[0.2, 0.5]]", "merge[coefficient=0.4,grid=[0.2, 0.5]]"),
    ],
)
def test_the_label_of_a_derived_run_names_its_coefficient(label: str, expected: str) -> None:
    assert selection.with_coefficient(label, 0.4) == expected
