"""Identity, resolved values and compatibility."""

from __future__ import annotations

import dataclasses

import pytest

from harness import compose, plan
from harness.errors import ConfigError
from harness.interfaces import ModelFacts
from harness.plan import Machine, SearchedRate

FACTS = ModelFacts(params_total=100_000, context_length=64, content={"recipe": "abc"})


def run_id(overrides: list[str], inputs: dict[str, object] | None = None, cores: int = 2) -> str:
    config = compose.compose(overrides)
    resolved = plan.resolve(config, FACTS, (), Machine(cores=cores, gpus=0))
    return plan.identify(plan.identity(config, resolved, {"data": "rows"} | (inputs or {})))


@pytest.mark.parametrize(
    "overrides",
    [
        ["name=other"],
        ["results=elsewhere"],
        ["save_weights=all"],
        ["data.volumes=[64]"],
        ["data.volumes=[64,128,256]"],
        ["training.micro_batch_rows=2"],
    ],
)
def test_names_places_and_shared_volumes_do_not_change_a_run(overrides: list[str]) -> None:
    """Adding a volume extends a run; where it is written, and how a step is cut to fit the memory, does not matter."""
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
    config = compose.compose(["trajectory=independent", "data.volumes=[64,128]"])
    assert [run.data.volumes for run in plan.runs_of(config)] == [(64,), (128,)]
    shared = compose.compose(["data.volumes=[64,128]"])
    assert plan.runs_of(shared) == [shared]
    assert run_id(["trajectory=independent", "data.volumes=[64]"]) != run_id(["trajectory=independent", "data.volumes=[128]"])


def test_small_models_take_one_thread_and_large_ones_every_core() -> None:
    """So a tiny run has the same id on any machine."""
    config = compose.compose([])
    large = dataclasses.replace(FACTS, params_total=135_000_000)
    assert plan.resolve(config, FACTS, (), Machine(cores=8, gpus=0)).threads == 1
    assert plan.resolve(config, large, (), Machine(cores=8, gpus=0)).threads == 8
    assert run_id([], cores=2) == run_id([], cores=64)


def test_a_run_takes_a_process_a_gpu_and_shares_the_cores_among_them() -> None:
    """Four GPUs are four processes, each with a quarter of the cores, unless fewer are asked for; one without a GPU."""
    large = dataclasses.replace(FACTS, params_total=135_000_000)

    def found(machine: Machine, *overrides: str) -> tuple[int, int, str]:
        resolved = plan.resolve(compose.compose(list(overrides)), large, (), machine)
        return resolved.processes, resolved.threads, resolved.device

    assert found(Machine(cores=16, gpus=4)) == (4, 4, "cuda")
    assert found(Machine(cores=16, gpus=4), "training.processes=1") == (1, 16, "cuda")
    assert found(Machine(cores=16, gpus=0)) == (1, 16, "cpu")
    assert found(Machine(cores=1, gpus=0), "training.processes=2") == (2, 1, "cpu")


def test_more_processes_than_rows_of_a_step_are_refused() -> None:
    """Some would have nothing to do; said where the number is set, and where it follows from the GPUs."""
    with pytest.raises(ConfigError, match="training.processes: got 9; allowed: at most training.batch_rows = 8"):
        compose.compose(["training.processes=9"])
    with pytest.raises(ConfigError, match="training.processes: got 16"):
        plan.resolve(compose.compose([]), FACTS, (), Machine(cores=16, gpus=16))


def test_dtype_and_row_length_are_resolved() -> None:
    """float32 on a CPU, bfloat16 on a GPU; rows no longer than the context."""
    config = compose.compose(["training.max_length=1000"])
    assert plan.resolve(config, FACTS, (), Machine(cores=1, gpus=0)).dtype == "float32"
    assert plan.resolve(config, FACTS, (), Machine(cores=1, gpus=1)).dtype == "bfloat16"
    assert plan.resolve(config, FACTS, (), Machine(cores=1, gpus=0)).max_length == 64


def test_a_searched_rate_is_taken_for_the_same_labels_only() -> None:
    """Another mitigation was not searched, and says so."""
    rate = SearchedRate(
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
    found = plan.resolve(compose.compose([]), FACTS, (rate,), Machine(cores=1, gpus=0))
    assert (found.learning_rate, found.lr_tuned) == (0.123, True)
    other = plan.resolve(compose.compose(["mitigation=replay", "anchor=tinyworld-base"]), FACTS, (rate,), Machine(cores=1, gpus=0))
    assert not other.lr_tuned
    own = plan.resolve(compose.compose(["training.learning_rate=0.5"]), FACTS, (rate,), Machine(cores=1, gpus=0))
    assert (own.learning_rate, own.lr_tuned) == (0.5, False)
