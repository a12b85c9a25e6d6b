"""Weight remedies and early stop: what is measured of one training, what it stands for, and what is done of it when."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.table.frame import table
from harness.config import composition
from harness.core.errors import ConfigError, EvaluationError
from harness.records.schema import Point
from harness.run import preparation, selection
from harness.run.workspace import Workspace
from harness.sweep.claims import Claims
from harness.sweep.plan.stale import stale_runs
from harness.sweep.states import UnitStates
from harness.sweep.units import units_of
from harness.sweep.worker import recorded_so_far
from tests.support.small_runs import Runs

MERGE = ("mitigation=merge", "mitigation.grid=[0.0,0.5,1.0]")
A_POINT = 3
"""Tasks of the two suites."""


def numbers(point: Point) -> list[float | None]:
    return [score.value for score in point.scores]


def whole(run: Runs) -> dict[tuple[str, int], Point]:
    """Every point of the experiment, but for what differs from try to try."""
    experiment = run.prepared.experiment
    same: dict[str, Any] = {"wall_seconds": 0.0, "evaluation_seconds": 0.0, "peak_memory_bytes": 0, "evaluation_facts": {}}
    found = {(one, volume): experiment.point(one, volume) for one in experiment.run_ids() for volume in experiment.volumes(one)}
    return {key: dataclasses.replace(point, **same) for key, point in found.items() if point}


def test_a_plan_counts_every_evaluation(runs: Runs) -> None:
    """Three coefficients at each volume, each on select items first.

    Early stop on these once a volume.
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
    """λ 0 is the start model, λ 1 the tuned one, in scores and in how far the weights are.

    The run stands for the best of all.
    """
    runs(f"tuning={tuning}", name="plain")
    plain = {volume: runs.point(volume) for volume in (8, 16)}
    before = [score.value for one in runs.prepared.experiment.baseline_ids() for score in _baseline(runs, one).scores]
    assert runs(f"tuning={tuning}", *MERGE) == "done"
    assert runs.trained == 2
    select, report = [what for what in runs.evaluated if what[1] == "select"], [what for what in runs.evaluated if what[1] == "report"]
    assert set(select) == {("tinyworld_people", "select")}
    assert len(select) == 2 * 3
    assert len(report) == 2 * A_POINT + 2 * 3 * A_POINT  # volume 0 twice, then two volumes with three coefficients
    for volume in (8, 16):
        start, half, tuned = (runs.point(volume, coefficient) for coefficient in (0.0, 0.5, 1.0))
        assert sorted(value for value in numbers(start) if value is not None) == sorted(value for value in before if value is not None)
        assert numbers(tuned) == numbers(plain[volume])
        assert (start.weight_change, half.coefficient) == (0.0, 0.5)
        assert tuned.weight_change == pytest.approx(plain[volume].weight_change, rel=1e-5)
        assert half.weight_change == pytest.approx(tuned.weight_change / 2, rel=1e-5)
        own = runs.point(volume)
        assert own.selected == {**start.selected, **half.selected, **tuned.selected}
        assert f"{own.coefficient:g}" == selection.best(own.selected)
        assert numbers(own) == numbers(runs.point(volume, own.coefficient))
        assert (own.train_tokens, half.train_tokens) == (plain[volume].train_tokens,) * 2


def _baseline(runs: Runs, baseline_id: str) -> Any:
    return runs.prepared.experiment.baseline(baseline_id)


def test_derived_runs_are_rows_of_the_table_and_no_runs_of_their_own(runs: Runs) -> None:
    """Records that say where they come from; current, stale and done with the run that trained."""
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


def test_what_is_done_is_not_done_again_and_more_is_added(runs: Runs) -> None:
    """The same command does nothing, a larger volume adds its points alone, a derived run that is gone is measured again."""
    runs("data.volumes=[8]", *MERGE)
    assert runs("data.volumes=[8]", *MERGE) == "already done"
    assert not runs.evaluated
    assert runs(*MERGE) == "done"
    assert (runs.trained, len(runs.evaluated)) == (1, 3 * (1 + A_POINT))
    experiment, half = runs.prepared.experiment, runs.prepared.derived[0.5]
    once = whole(runs)
    unit = units_of([(_asked(runs), runs.prepared)], experiment.baseline_keys())[0]
    states = lambda: UnitStates(experiment, Claims(experiment, sweep="s"))  # noqa: E731 - one remembers what it saw done
    assert states().is_done(unit)
    experiment.forget(half)
    assert not states().is_done(unit)
    assert not preparation.done(runs.prepared)
    assert runs(*MERGE) == "done"
    assert len(runs.evaluated) == 2 * (1 + A_POINT)
    assert whole(runs) == once


def _asked(runs: Runs) -> Any:
    from harness.sweep.axes import Asked

    return Asked(runs.prepared.config, ())


@pytest.mark.parametrize("stop_at", [13, 19])
def test_interrupted_in_between_it_goes_on_there(runs: Runs, stop_at: int) -> None:
    """Among the coefficients of the first volume, on those reported, and of the second, on select items: nothing is measured twice."""
    runs(*MERGE, name="whole")
    every, expected = len(runs.evaluated), whole(runs)
    assert every == 2 * A_POINT + 2 * 3 * (1 + A_POINT)
    with pytest.raises(KeyboardInterrupt):
        runs(*MERGE, stop_at=stop_at)
    assert not preparation.done(runs.prepared)
    told = recorded_so_far(runs.prepared.experiment, runs.prepared.run_id)
    assert runs(*MERGE) == "done"
    assert len(runs.evaluated) == every - (stop_at - 1)
    assert recorded_so_far(runs.prepared.experiment, runs.prepared.run_id) != told
    assert whole(runs) == expected
    assert not list(Path("results/a").glob("runs/*/partial/*"))


def test_a_coefficient_that_is_given_is_the_run_itself(runs: Runs) -> None:
    """Nothing is chosen, so no target is needed.

    The others are derived; alone, there is nothing beside it.
    """
    runs(*MERGE, "mitigation.coefficient=0.5", "target_suites=[]", "data.volumes=[8]")
    assert list(runs.prepared.derived) == [0.0, 1.0]
    assert (runs.point(8).coefficient, runs.point(8).selected) == (0.5, {})
    assert not any(what == "select" for _, what in runs.evaluated)
    labels = {record.labels["mitigation"] for one in runs.prepared.experiment.run_ids() if (record := runs.prepared.experiment.record(one))}
    assert labels == {f"merge[coefficient={name},grid=[0.0, 0.5, 1.0]]" for name in ("0", "0.5", "1")}
    alone = runs.prepare("mitigation=merge", "mitigation.grid=[1.0]", "mitigation.coefficient=1.0")
    assert (alone.derived, alone.stands_for, alone.chooses) == ({}, 1.0, False)


def test_the_better_on_select_items_is_chosen_and_of_equals_the_smaller(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loss, lower is better: the score that is recorded is turned."""
    assert selection.best({"0.2": 0.5, "0.4": 0.7, "0.6": 0.7, "1": 0.1}) == "0.4"
    assert selection.best({"16": 0.5, "8": 0.5}) == "8"
    runs(*MERGE, "target_suites=[loss]", "data.volumes=[8]")
    loss = next(score for score in runs.point(8, 0.5).scores if score.suite == "loss" and score.primary)
    assert not loss.higher_is_better
    assert runs.point(8, 0.5).selected["0.5"] < 0 < loss.value  # type: ignore[operator]
    monkeypatch.setattr(selection, "_mean", lambda suite, scores: {"aim": 0.5}[suite])
    runs(*MERGE, "data.volumes=[8]", name="equal")
    assert runs.point(8).coefficient == 0.0


def test_a_choice_needs_something_to_choose_on(runs: Runs) -> None:
    """Refused before anything is loaded, or built; probes never serve."""
    with pytest.raises(ConfigError, match="got no target suite to choose on"):
        runs.prepare("mitigation=merge", "target_suites=[]")
    with pytest.raises(ConfigError, match="got acc of aim, nats_per_token of loss; allowed: one metric to choose on"):
        runs.prepare("mitigation=merge", "target_suites=[aim,loss]")
    runs.prepare("mitigation=merge", "target_suites=[aim,loss]", "mitigation.coefficient=0.5")
    with pytest.raises(EvaluationError, match="suite unchosen: select"):
        runs("mitigation=merge", "target_suites=[unchosen]")
    assert not runs.evaluated


def test_a_failed_choice_is_a_failed_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """No coefficient is taken where one could not be measured."""
    from harness.evaluation.samples import failed

    scores = (failed(Workspace().suite("aim"), "tinyworld_people", "RuntimeError: no memory"),)
    with pytest.raises(EvaluationError, match="select items: got tinyworld_people failed: RuntimeError: no memory"):
        selection._mean("aim", scores)


def test_drift_is_measured_of_changed_weights(runs: Runs) -> None:
    """The start model is at no distance from itself, half the way at less than all of it."""
    runs(*MERGE, "probe_suites=[drift]", "data.volumes=[8]")
    found = {one: next(s.value for s in runs.point(8, one).scores if s.primary and s.suite == "drift") for one in (0.0, 0.5, 1.0)}
    assert found[0.0] == 0
    assert 0 < found[0.5] < found[1.0]  # type: ignore[operator]


def test_the_weights_that_a_run_stands_for_are_saved(runs: Runs) -> None:
    """Those of its coefficient, as a plain model, of an adapter too."""
    import torch
    from transformers import AutoModelForCausalLM

    runs("tuning=lora", *MERGE, "mitigation.coefficient=0.0")
    assert (runs.point(8).weights, runs.point(16).weights) == (None, "weights/16")
    folder = runs.prepared.experiment.run_folder(runs.prepared.run_id) / "weights" / "16"
    saved, start = AutoModelForCausalLM.from_pretrained(folder), runs.prepared.config.model.load()
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in start.state_dict().items())


def test_other_models_are_checked_and_part_of_the_run(runs: Runs) -> None:
    """A name that is none, a vocabulary that is another.

    Their content is in the identity, and only where there are any.
    """
    pair = "mitigation.vectors=[{chat: chat, base: base}]"
    runs("mitigation=chat_vector", pair, "mitigation.grid=[0.0,0.5]", "data.volumes=[8]")
    models = runs.prepared.identity["inputs"]["models"]
    assert models == {name: composition.member("model", name).facts().content for name in ("chat", "base")}
    assert runs.point(8).coefficient == 1.0
    assert sorted(runs.prepared.derived) == [0.0, 0.5]
    assert runs.point(8, 0.0).weight_change < runs.point(8, 0.5).weight_change < runs.point(8).weight_change
    assert "models" not in runs.prepare().identity["inputs"]
    with pytest.raises(ConfigError, match="model: got 'chatty'; allowed: base, chat"):
        runs.prepare("mitigation=chat_vector", "mitigation.vectors=[{chat: chatty, base: base}]")


def test_a_model_of_another_width_is_refused_before_anything_is_trained(runs: Runs) -> None:
    with pytest.raises(
        ConfigError, match=r"mitigation=chat_vector.*: model wide: got layers of other sizes; allowed: those of model=start"
    ):
        runs.prepare("mitigation=chat_vector", "mitigation.vectors=[{chat: wide, base: wide}]")


def test_early_stop_stands_for_the_best_volume_so_far(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabricated: 8 rows 0.2, 16 rows 0.6, 24 rows 0.6 and 32 rows 0.4 on the select items.

    A tie stays with the earlier.
    """
    told = {8: 0.2, 16: 0.6, 24: 0.6, 32: 0.4}
    monkeypatch.setattr(selection.Selection, "score", lambda self, model, run_id, volume, when, base=None: told[volume])
    volumes = "data.volumes=[8,16,24,32]"
    runs(volumes, name="plain")
    plain = {volume: runs.point(volume) for volume in told}
    assert runs(volumes, "mitigation=early_stop") == "done"
    points = {volume: runs.point(volume) for volume in told}
    assert [numbers(points[volume]) for volume in told] == [numbers(plain[best]) for best in (8, 16, 16, 16)]
    assert points[24].selected == {"8": 0.2, "16": 0.6, "24": 0.6}
    assert [point.weights for point in points.values()] == ["weights/8", *["weights/16"] * 3]
    assert [point.target_rows for point in points.values()] == [8, 16, 24, 32]
    assert points[32].weight_change == plain[16].weight_change
    assert len(runs.evaluated) == 2 * A_POINT + 2 * A_POINT  # volume 0 twice; the two that were best


def test_early_stop_goes_on_where_it_was_interrupted(runs: Runs) -> None:
    """What was chosen before is read again from disk."""
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
    """What is best so far depends on what was looked at.

    Each volume a run of its own has nothing to stop at.
    """
    ids = {runs.prepare("mitigation=early_stop", f"data.volumes={volumes}").run_id for volumes in ("[8,16]", "[16]", "[8,16,24]")}
    assert len(ids) == 3
    assert runs.prepare("mitigation=early_stop", "data.volumes=[16,8]").run_id in ids
    with pytest.raises(ConfigError, match="trajectory=independent, where each volume is a run of its own"):
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
