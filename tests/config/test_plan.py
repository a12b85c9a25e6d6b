"""Identity, resolved values and compatibility."""

from __future__ import annotations

import dataclasses

import pytest

from harness.config import combinations, composition, resolution
from harness.config.identity import identify, run_identity
from harness.config.resolution import Machine, SearchedRate
from harness.core.errors import ConfigError
from harness.core.sources import ModelFacts

FACTS = ModelFacts(params_total=100_000, context_length=64, content={"recipe": "abc"})


def run_id(overrides: list[str], inputs: dict[str, object] | None = None, cores: int = 2) -> str:
    config = composition.compose(overrides)
    resolved = resolution.resolve(config, FACTS, (), Machine(cores=cores, gpus=0))
    return identify(run_identity(config, resolved, {"data": "rows"} | (inputs or {})))


@pytest.mark.parametrize(
    "overrides",
    [
        ["name=other"],
        ["results=elsewhere"],
        ["save_weights=all"],
        ["data.volumes=[64]"],
        ["data.volumes=[64,128,256]"],
        ["training.micro_batch_rows=2"],
        ["declared.margin=0.05", "declared.headline=tinyworld"],
    ],
)
def test_names_places_and_shared_volumes_do_not_change_a_run(overrides: list[str]) -> None:
    """Adding a volume extends a run.

    Where it is written, how a step is cut to fit the memory and what is declared do not matter.
    """
    assert run_id(overrides) == run_id([])


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1"],
        ["tuning=lora"],
        ["training.learning_rate=0.5"],
        ["training.batch_rows=4"],
        ["evaluation.token_budget=512"],
        ["training.processes=2"],
    ],
)
def test_whatever_can_change_a_number_changes_the_run(overrides: list[str]) -> None:
    """Seed, method, schedule and evaluation are the run."""
    assert run_id(overrides) != run_id([])


def test_content_of_the_inputs_changes_the_run() -> None:
    """One changed row of data is another run."""
    assert run_id([], {"data": "other rows"}) != run_id([])


def test_independent_volumes_are_runs_of_their_own() -> None:
    """Each has its own schedule, so each its own id."""
    config = composition.compose(["trajectory=independent", "data.volumes=[64,128]"])
    assert [run.data.volumes for run in combinations.runs_of(config)] == [(64,), (128,)]
    shared = composition.compose(["data.volumes=[64,128]"])
    assert combinations.runs_of(shared) == [shared]
    assert run_id(["trajectory=independent", "data.volumes=[64]"]) != run_id(["trajectory=independent", "data.volumes=[128]"])


def test_small_models_take_one_thread_and_large_ones_every_core() -> None:
    """So a tiny run has the same id on any machine."""
    config = composition.compose([])
    large = dataclasses.replace(FACTS, params_total=135_000_000)
    assert resolution.resolve(config, FACTS, (), Machine(cores=8, gpus=0)).threads == 1
    assert resolution.resolve(config, large, (), Machine(cores=8, gpus=0)).threads == 8
    assert run_id([], cores=2) == run_id([], cores=64)


def test_a_run_takes_a_process_a_gpu_and_shares_the_cores_among_them() -> None:
    """Four GPUs are four processes, each with a quarter of the cores, unless fewer are asked for.

    One without a GPU.
    """
    large = dataclasses.replace(FACTS, params_total=135_000_000)

    def found(machine: Machine, *overrides: str) -> tuple[int, int, str]:
        resolved = resolution.resolve(composition.compose(list(overrides)), large, (), machine)
        return resolved.processes, resolved.threads, resolved.device

    assert found(Machine(cores=16, gpus=4)) == (4, 4, "cuda")
    assert found(Machine(cores=16, gpus=4), "training.processes=1") == (1, 16, "cuda")
    assert found(Machine(cores=16, gpus=0)) == (1, 16, "cpu")
    assert found(Machine(cores=1, gpus=0), "training.processes=2") == (2, 1, "cpu")


def test_more_processes_than_rows_of_a_step_are_refused() -> None:
    """Some would have nothing to do.

    Said where the number is set, and where it follows from the GPUs.
    """
    with pytest.raises(ConfigError, match="training.processes: got 9; allowed: at most training.batch_rows = 8"):
        composition.compose(["training.processes=9"])
    with pytest.raises(ConfigError, match="training.processes: got 16"):
        resolution.resolve(composition.compose([]), FACTS, (), Machine(cores=16, gpus=16))


def test_dtype_and_row_length_are_resolved() -> None:
    """float32 on a CPU, bfloat16 on a GPU; rows no longer than the context."""
    config = composition.compose(["training.max_length=1000"])
    assert resolution.resolve(config, FACTS, (), Machine(cores=1, gpus=0)).dtype == "float32"
    assert resolution.resolve(config, FACTS, (), Machine(cores=1, gpus=1)).dtype == "bfloat16"
    assert resolution.resolve(config, FACTS, (), Machine(cores=1, gpus=0)).max_length == 64


RATE = SearchedRate(
    model="nursery-s",
    tuning="full",
    objective="sft",
    data="tinyworld-people",
    mitigation="none",
    learning_rate=0.123,
    candidates=(0.1, 0.123),
    suite="tinyworld-people",
    metric="acc",
    score=0.9,
    volume=64,
    seeds=(0,),
)


def rate_of(*overrides: str) -> tuple[float, bool]:
    found = resolution.resolve(composition.compose(overrides), FACTS, (RATE,), Machine(cores=1, gpus=0))
    return found.learning_rate, found.lr_tuned


def test_pairs_and_rewards_start_from_a_tenth_of_the_rate_of_sft() -> None:
    """What a tuning has by default is made for supervised training.

    A rate that is given stays what it is.
    """
    supervised, _ = rate_of("data=tinyworld-skill")
    for choice in ("grpo data=tinyworld-skill", "dpo data=tinyworld-preferences", "rlaif data=tinyworld-skill"):
        assert rate_of(*f"objective={choice}".split())[0] == pytest.approx(supervised / 10)
    assert rate_of("data=tinyworld-skill", "objective=grpo", "training.learning_rate=0.001")[0] == 0.001


def test_a_searched_rate_is_taken_for_the_same_labels_only() -> None:
    """Another mitigation was not searched, and says so."""
    assert rate_of() == (0.123, True)
    assert not rate_of("mitigation=replay", "anchor=tinyworld-base")[1]
    assert rate_of("training.learning_rate=0.5") == (0.5, False)


CONTROL = ["data=tinyworld-base", "objective=clm", "target_suites=[tinyworld-people]"]
ASKED = ["training.rate_of.data=tinyworld-people", "training.rate_of.objective=sft"]


def test_a_control_takes_the_rate_that_was_searched_for_its_arm() -> None:
    """By the arm's labels in place of its own; it was not searched for the control.

    A rate that is given is taken all the same.
    """
    assert rate_of(*CONTROL, *ASKED) == (0.123, False)
    assert rate_of(*ASKED) == (0.123, True)
    assert rate_of(*CONTROL, *ASKED, "training.learning_rate=0.5") == (0.5, False)
    assert rate_of(*CONTROL)[0] != 0.123


def test_where_an_arm_has_no_searched_rate_its_control_takes_the_same_default() -> None:
    """For a model that no search has seen, both have what the tuning takes at its size."""
    arm, control = rate_of("model=nursery-m"), rate_of("model=nursery-m", *CONTROL, *ASKED)
    assert arm == control
    assert arm[0] != 0.123


def test_a_rate_of_what_was_never_searched_is_refused() -> None:
    """A misspelt name would quietly give another rate than the arm's.

    A label that is none is refused too.
    """
    with pytest.raises(ConfigError, match=r"training.rate_of.data: got 'tinyworld-peopel'; allowed: tinyworld-people; fix: did you mean"):
        rate_of("training.rate_of.data=tinyworld-peopel")
    with pytest.raises(ConfigError, match=r"training.rate_of: got 'date'; allowed: model, tuning, objective, data, mitigation"):
        rate_of("training.rate_of.date=tinyworld-people")


def test_only_the_resolved_rate_is_part_of_a_run() -> None:
    """A rate is the same rate, given as a number or by whom it was searched for."""

    def found(*overrides: str) -> str:
        config = composition.compose(overrides)
        return identify(run_identity(config, resolution.resolve(config, FACTS, (RATE,), Machine(cores=1, gpus=0)), {}))

    assert found(*CONTROL, *ASKED) == found(*CONTROL, "training.learning_rate=0.123")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["declared.margin=0"], "declared.margin: got 0.0; allowed: greater than 0"),
        (["declared.margins={tinyworld: -1}"], "declared.margins.tinyworld: got -1.0; allowed: greater than 0"),
        (["declared.margins={tinywrld: 0.1}"], "declared.margins: got 'tinywrld'; .*did you mean 'tinyworld'"),
        (["declared.headline=blimp"], "declared.headline: got 'blimp'; allowed: one of probe_suites: tinyworld; fix: declared.headline="),
        (["declared.headline=tinyworld-people"], "declared.headline: got 'tinyworld-people'"),
        (["declared.control={dat: tinyworld-base}"], "declared.control: got 'dat'; allowed: model, .* did you mean 'data'"),
        (["declared.margn=0.1"], "declared.margn: got an unknown key"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(overrides: list[str], message: str) -> None:
    """Before anything starts, in one line."""
    with pytest.raises(ConfigError, match=message) as caught:
        composition.compose(overrides)
    assert "\n" not in str(caught.value)


def test_a_search_without_probes_keeps_what_its_experiment_declares() -> None:
    """`probe_suites=[]` is how rates are searched: nothing is judged there, so nothing is refused."""
    config = composition.compose(["declared.headline=tinyworld", "probe_suites=[]"])
    assert config.declared.headline == "tinyworld"


@pytest.mark.parametrize(("mitigation", "fix"), [("merge", "one mitigation.coefficient"), ("early_stop", "no mitigation=early_stop")])
def test_nothing_is_chosen_where_earlier_targets_are_what_may_be_forgotten(mitigation: str, fix: str) -> None:
    """The target suites of a sequence are its stages'; a coefficient that is given is no choice."""
    stages = ["data=sequence", "data.stages=[tinyworld-people,tinyworld-skill]", "data.stage_rows=[64]", f"mitigation={mitigation}"]
    with pytest.raises(ConfigError, match=f"got a sequence of stages, whose earlier stages are what may be forgotten; .*fix: {fix}"):
        combinations.check(composition.compose(stages))
    if mitigation == "merge":
        combinations.check(composition.compose([*stages, "mitigation.coefficient=0.4"]))
