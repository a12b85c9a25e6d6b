"""Costs of runs before they start."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from harness import PROTOCOL_VERSION
from harness.config import composition
from harness.config.resolution import Machine
from harness.core.sources import ModelFacts
from harness.methods.tuning.frozen import Frozen
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.methods.tuning.rslora import RsLora
from harness.models import anatomy
from harness.records import provenance
from harness.records.schema import SCHEMA_VERSION
from harness.records.store import Experiment
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace
from harness.sweep.plan import estimate, rates
from harness.sweep.plan.estimate import Cost, Estimator
from harness.sweep.plan.rates import Rates, at
from tests.support import sealing, tiny

HERE = {"processor": provenance.collect()["processor"], "gpu": None}
VERSIONS = {"schema_version": SCHEMA_VERSION, "protocol_version": PROTOCOL_VERSION}


def write(path: Path, values: dict[str, Any]) -> None:
    sealing.write(path, VERSIONS | values)


def record(experiment: Experiment, run_id: str, *, params: int, hardware: dict[str, Any], seconds: float, **changes: Any) -> None:
    """Write a run of 100 tokens and two points; volume 0 took 3 s."""
    values = {"identity": {"tuning": {"class": "Full"}}, "params_total": params, "provenance": hardware, "volumes": [8, 16]}
    measured = {"roles": {"s": "probe"}, "evaluations": {"s": "e"}, "before_sha256": "before"}
    write(experiment.run_folder(run_id) / "record.json", values | measured | changes)
    for volume, share in ((8, 0.5), (16, 1.0)):
        counts = {"trained_tokens": 100 * share, "seconds": seconds * share}
        point = {"counts": counts, "weights_sha256": f"{run_id}{volume}", "peak_memory_bytes": volume}
        write(experiment.point_folder(run_id, volume) / "point.json", point)
        write(experiment.measurement_folder("e", f"{run_id}{volume}") / "measurement.json", {"wall_seconds": 4.0})
    before = {"wall_seconds": 3.0, "identity": {"evaluation": {"items": "report"}}}
    write(experiment.measurement_folder("e", "before") / "measurement.json", before)


def test_a_value_between_two_sizes_lies_on_a_line_of_logarithms() -> None:
    """1 at 10 and 100 at 1,000 give 10 at 100.

    Beyond both sizes it is in proportion to the nearest; without sizes there is no value.
    """
    sizes = {10: 1.0, 1000: 100.0}
    assert at(10, sizes) == 1.0
    assert at(100, sizes) == pytest.approx(10.0)
    assert at(4000, sizes) == pytest.approx(400.0)
    assert at(5, sizes) == pytest.approx(0.5)
    assert at(100, {}) is None


def test_beyond_the_measured_sizes_the_arithmetic_alone_grows() -> None:
    """5 s at 100 parameters with 0.01 s a parameter: 5 + 0.01 · 900 at 1,000, 5 - 0.01 · 50 at 50.

    It never changes by more than in proportion.
    """
    assert at(1000, {100: 5.0}, 0.01) == pytest.approx(14.0)
    assert at(50, {100: 5.0}, 0.01) == pytest.approx(4.5)
    assert at(1000, {100: 5.0}, 1.0) == pytest.approx(50.0)


def test_rates_are_those_of_the_same_hardware_where_there_are_any(tmp_path: Path) -> None:
    """2 s for 100 tokens are 0.02 s each.

    The evaluation of a point and of a baseline, and the memory, are as measured.
    """
    experiment = Experiment(tmp_path / "tiny")
    record(experiment, "a", params=1000, hardware=HERE, seconds=2.0)
    record(experiment, "b", params=1000, hardware={"processor": "other", "gpu": None}, seconds=50.0)
    record(experiment, "c", params=1000, hardware={"processor": "other", "gpu": "a GPU"}, seconds=0.1)
    found = rates.rates([experiment], gpu=False)
    assert found.token_seconds == {"Full": {1000: 0.02}}
    assert found.point_seconds == {("Full", "report", "s"): {1000: 4.0}}
    assert found.suite_seconds == {("s", "report"): {1000: 3.0}}
    assert found.peak_bytes == {"Full": {1000: 16.0}}
    assert found.where == HERE["processor"]
    elsewhere = rates.rates([experiment], gpu=True)
    assert elsewhere.token_seconds == {"Full": {1000: 0.001}}
    assert elsewhere.where == "a GPU, which is not this machine"


def test_what_was_never_measured_has_no_rates(tmp_path: Path) -> None:
    """An unfinished run gives none."""
    experiment = Experiment(tmp_path / "tiny")
    record(experiment, "a", params=1000, hardware=HERE, seconds=2.0)
    (experiment.point_folder("a", 16) / "point.json").unlink()
    assert rates.rates([experiment], gpu=False) == Rates()


@pytest.mark.parametrize(
    ("name", "tuning"),
    [
        *itertools.product(tiny.MODELS, [Full(), Lora(rank=3)]),
        ("gpt_neox", Lora(rank=2, modules=("dense",))),
        ("llama", Lora(rank=2, modules=("q_proj", "v_proj"))),
        *itertools.product(tiny.MODELS, [Lora(layers="attention"), Lora(layers="mlp"), RsLora(rank=3), Frozen(), Frozen(layers=0)]),
    ],
)
def test_trainable_parameters_are_those_that_the_tuning_makes(name: str, tuning: Full | Lora) -> None:
    """Computed from the layers' sizes, equal to the count in the prepared model."""
    model = tiny.MODELS[name]()
    total = sum(parameter.numel() for parameter in model.parameters())
    facts = ModelFacts(params_total=total, context_length=64, content={}, **anatomy.described(model))
    assert tuning.trainable(facts) == tuning.facts(tuning.prepare(model, 0))["trainable"]


def prepared(*overrides: str) -> Prepared:
    fixed = ["model=nursery-smoke-a", "data.volumes=[64,128]"]
    return prepare(composition.compose([*fixed, *overrides]), Workspace(), Machine(cores=1, gpus=0))


def cost(found: Prepared, measured: Rates) -> Cost:
    return Estimator(found.workspace, measured, gpu=False).run(found)


MEASURED = Rates(
    token_seconds={"Full": {1000: 0.001}},
    point_seconds={("Full", "report", "tinyworld", "tinyworld-people"): {1000: 2.0}},
    point_bytes={("tinyworld", "tinyworld-people"): 50.0},
    other_seconds=7.0,
)


def scaled(found: Prepared, **changes: Any) -> Rates:
    """Return the same rates, measured at this model size."""
    size = found.facts.params_total
    values = {"token_seconds": {"Full": {size: 0.001}}, "point_seconds": {key: {size: 2.0} for key in MEASURED.point_seconds}}
    return dataclasses.replace(MEASURED, **values | changes)  # type: ignore[arg-type]


def test_a_run_costs_its_tokens_its_evaluations_and_the_rest() -> None:
    """Tokens are counted with the run's own encoding.

    Time = tokens · 0.001 + 2 · 2 s + 7 s; disk = points, one set of weights, the state.
    """
    found = prepared()
    rows = found.workspace.rows_of(found.config.data)
    chosen = [rows[i * len(rows) // 64] for i in range(64)]
    mean = sum(len(example.input_ids) for example in found.workspace.encoded(found.config, found.resolved, chosen, "target")) / 64
    got, params = cost(found, scaled(found)), found.facts.params_total
    assert got.train_tokens == round(128 * mean)
    assert got.seconds == pytest.approx(got.train_tokens * 0.001 + 4 + 7)
    assert got.disk_bytes == 2 * 50 + 4 * params + 12 * params
    assert got.measured
    assert not got.memory_measured
    assert got.memory_bytes > estimate.IDLE_WORKER_BYTES + 16 * params
    assert cost(found, scaled(found, peak_bytes={"Full": {params: 123.0}})).memory_bytes == 123


def test_replayed_rows_count_and_exchanged_ones_do_not() -> None:
    """Half as many anchor rows on top are more tokens.

    A run of equal compute costs as much as the plain one.
    """
    plain = cost(prepared(), MEASURED).train_tokens
    on_top = cost(prepared("mitigation=replay", "anchor=tinyworld-skill", "mitigation.fraction=0.5"), MEASURED).train_tokens
    anchor = cost(prepared("data=tinyworld-skill", "target_suites=[tinyworld-people]"), MEASURED).train_tokens
    assert on_top == pytest.approx(plain + anchor / 2, rel=0.05)
    equal = ("mitigation=replay", "anchor=tinyworld-skill", "mitigation.fraction=0.5", "mitigation.mode=compute_equivalent")
    assert cost(prepared(*equal), MEASURED).train_tokens == pytest.approx(plain, rel=0.02)


def test_without_any_measurement_steps_and_items_are_counted_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 steps of a model of 2 blocks, 2 points of 1,000 items, and the arithmetic.

    A step takes 0.001 s and 0.002 s a block, an item 0.0005 s, a run 0.3 s and 0.06 s for each of
    2 suites at 2 points. Per parameter and token 6 operations of training at 0.3 of the speed of a
    matrix product, 2 of evaluation at 0.6. Without a GPU to time there is no time for GPUs.
    """
    found = prepared()
    monkeypatch.setattr(estimate, "flops_per_second", lambda gpu, threads: None if gpu else 1e9 * threads)
    got, params = cost(found, Rates()), found.facts.params_total
    assert got.evaluation_tokens is not None
    assert (len(found.facts.blocks), found.resolved.threads) == (2, 1)
    arithmetic = (6 * got.train_tokens / 0.3 + 2 * got.evaluation_tokens / 0.6) * params / 1e9
    assert got.seconds == pytest.approx(16 * 0.005 + 2 * 1000 * 0.0005 + 0.3 + 4 * 0.06 + arithmetic)
    assert not got.measured
    on_gpu = Estimator(Workspace(), Rates(), gpu=True).run(found)
    assert on_gpu.seconds is None


def test_rates_of_a_smaller_model_are_no_measurement_of_a_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates at half the size: the arithmetic of the other half is added, and it is an estimate.

    Per token 0.001 s and 6 operations for each further parameter, which is below proportion.
    """
    found = prepared()
    monkeypatch.setattr(estimate, "flops_per_second", lambda gpu, threads: 1e9)
    half = found.facts.params_total // 2
    known = dataclasses.replace(scaled(found), token_seconds={"Full": {half: 0.001}})
    got, same = cost(found, known), cost(found, scaled(found))
    assert (got.measured, same.measured) == (False, True)
    assert got.seconds is not None
    assert same.seconds is not None
    assert got.seconds - same.seconds == pytest.approx(got.train_tokens * 6 * (found.facts.params_total - half) / 0.3e9)


def test_a_baseline_is_measured_twice() -> None:
    """Its time is twice that of a measurement, its tokens twice those of the suite."""
    found = prepared()
    measured = Rates(suite_seconds={("tinyworld", "report"): {found.facts.params_total: 3.0}})
    got = Estimator(found.workspace, measured, gpu=False).baseline(found, ["tinyworld"])
    once = Estimator(found.workspace, measured, gpu=False)._tokens_of(found, "tinyworld")
    assert got.seconds == 6.0
    assert once is not None
    assert got.evaluation_tokens == 2 * once


def test_costs_add_up_and_memory_is_the_largest() -> None:
    """A part that is unknown of one is unknown of the sum."""
    one = Cost(train_tokens=1, evaluation_tokens=2, seconds=3.0, disk_bytes=4, memory_bytes=5, memory_measured=False)
    two = Cost(train_tokens=10, evaluation_tokens=None, seconds=30.0, measured=False, disk_bytes=40, memory_bytes=4, unknown=("s",))
    both = one + two
    assert (both.train_tokens, both.evaluation_tokens, both.seconds, both.disk_bytes) == (11, None, 33.0, 44)
    assert (both.memory_bytes, both.memory_measured, both.measured, both.unknown) == (5, False, False, ("s",))
