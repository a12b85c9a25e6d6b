"""Values that a configuration leaves open: threads, processes, dtypes, learning rates."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from harness.config import composition, resolution
from harness.config.identity import identify, run_identity
from harness.config.resolution import Machine, SearchedRate
from harness.core.errors import ConfigError
from harness.core.sources import ModelFacts

FACTS = ModelFacts(params_total=100_000, context_length=64, content={"recipe": "abc"})
LARGE = dataclasses.replace(FACTS, params_total=135_000_000)


def test_small_models_take_one_thread_and_large_ones_every_core() -> None:
    """Below ``SMALL_MODEL_PARAMS`` a second thread makes a run slower."""
    config = composition.compose([])
    assert resolution.resolve(config, FACTS, (), Machine(cores=8, gpus=0)).threads == 1
    assert resolution.resolve(config, LARGE, (), Machine(cores=8, gpus=0)).threads == 8


def test_gradient_checkpointing_is_the_default_from_a_billion_parameters_on() -> None:
    """It is no part of a run's identity; either way can be set."""
    billion, machine = dataclasses.replace(FACTS, params_total=1_000_000_000), Machine(cores=1, gpus=0)

    def found(facts: ModelFacts, *overrides: str) -> bool:
        return resolution.resolve(composition.compose(list(overrides)), facts, (), machine).gradient_checkpointing

    assert (found(LARGE), found(billion)) == (False, True)
    assert found(LARGE, "training.gradient_checkpointing=true")
    assert not found(billion, "training.gradient_checkpointing=false")


def test_a_run_takes_one_process_for_each_gpu_and_they_share_the_cores() -> None:
    """Four GPUs give four processes with a quarter of the cores each, unless set otherwise."""

    def found(machine: Machine, *overrides: str) -> tuple[int, int, str]:
        resolved = resolution.resolve(composition.compose(list(overrides)), LARGE, (), machine)
        return resolved.processes, resolved.threads, resolved.device

    assert found(Machine(cores=16, gpus=4)) == (4, 4, "cuda")
    assert found(Machine(cores=16, gpus=4), "training.processes=1") == (1, 16, "cuda")
    assert found(Machine(cores=16, gpus=0)) == (1, 16, "cpu")
    assert found(Machine(cores=1, gpus=0), "training.processes=2") == (2, 1, "cpu")
    assert found(Machine(cores=16, gpus=4), "objective=dpo", "data=tinyworld-preferences") == (4, 4, "cuda")
    assert found(Machine(cores=16, gpus=4), "objective=grpo", "data=tinyworld-skill") == (1, 16, "cuda")  # rewards: in one process


def test_more_processes_than_rows_of_a_step_are_rejected() -> None:
    """The error comes where the number is set, and where it follows from the GPUs."""
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
    """A tuning's default is for supervised training; a given rate is not changed."""
    supervised, _ = rate_of("data=tinyworld-skill")
    for choice in ("grpo data=tinyworld-skill", "dpo data=tinyworld-preferences", "rlaif data=tinyworld-skill"):
        assert rate_of(*f"objective={choice}".split())[0] == pytest.approx(supervised / 10)
    assert rate_of("data=tinyworld-skill", "objective=grpo", "training.learning_rate=0.001")[0] == 0.001


def test_a_searched_rate_is_taken_for_the_same_labels_only() -> None:
    """For another mitigation no rate was searched, and ``lr_tuned`` is false."""
    assert rate_of() == (0.123, True)
    assert rate_of("mitigation=replay", "anchor=tinyworld-base") == (0.123, False)  # compared with none at one rate
    assert rate_of("training.learning_rate=0.5") == (0.5, False)


CONTROL = ["data=tinyworld-base", "objective=clm", "target_suites=[tinyworld-people]"]
ASKED = ["training.rate_of.data=tinyworld-people", "training.rate_of.objective=sft"]
"""A control, and the overrides with which it takes the rate of its arm."""


def test_a_control_takes_the_rate_that_was_searched_for_its_arm() -> None:
    """``lr_tuned`` is false for it, and a given rate takes precedence."""
    assert rate_of(*CONTROL, *ASKED) == (0.123, False)
    assert rate_of(*ASKED) == (0.123, True)
    assert rate_of(*CONTROL, *ASKED, "training.learning_rate=0.5") == (0.5, False)
    assert rate_of(*CONTROL)[0] != 0.123


def test_where_an_arm_has_no_searched_rate_its_control_takes_the_same_default() -> None:
    """Without a search for the model, both take the tuning's default for its size."""
    arm, control = rate_of("model=nursery-m"), rate_of("model=nursery-m", *CONTROL, *ASKED)
    assert arm == control
    assert arm[0] != 0.123


def test_rate_of_a_label_without_a_searched_rate_is_rejected() -> None:
    """A misspelt label would silently give another rate than the arm's."""
    with pytest.raises(ConfigError, match=r"training.rate_of.data: got 'tinyworld-peopel'; allowed: tinyworld-people; fix: did you mean"):
        rate_of("training.rate_of.data=tinyworld-peopel")
    with pytest.raises(ConfigError, match=r"training.rate_of: got 'date'; allowed: model, tuning, objective, data, mitigation"):
        rate_of("training.rate_of.date=tinyworld-people")


def test_only_the_resolved_rate_is_part_of_a_run() -> None:
    """A searched rate and the same rate given as a number make the same run."""

    def found(*overrides: str) -> str:
        config = composition.compose(overrides)
        resolved = resolution.resolve(config, FACTS, (RATE,), Machine(cores=1, gpus=0))
        return identify(run_identity(config, resolved, FACTS, {}, {}))

    assert found(*CONTROL, *ASKED) == found(*CONTROL, "training.learning_rate=0.123")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rates: 5", "learning_rates.yaml.rates: got 5; allowed: a list, each a mapping"),
        ("rates: null", "learning_rates.yaml.rates: got None"),
        ("rates: [null]", "learning_rates.yaml.rates[0]: got None; allowed: a mapping"),
        ("rates: {a: 1}", "learning_rates.yaml.rates: got {'a': 1}"),
        ("rates: [{1: 2}]", "learning_rates.yaml.rates[0].1: got an unknown key"),
        ("rate: []", "learning_rates.yaml.rate: got an unknown key; allowed: rates"),
        ("- rates", "learning_rates.yaml: got list; allowed: a mapping"),
    ],
)
def test_a_file_of_rates_of_another_shape_is_one_line(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file and the entry."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "learning_rates.yaml").write_text(text)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    with pytest.raises(ConfigError) as raised:
        composition.searched_rates()
    assert str(tmp_path) in str(raised.value)
    assert words in str(raised.value)


@pytest.mark.parametrize("rate", [0.0, -0.1, math.inf, math.nan])
def test_a_searched_rate_that_no_run_can_take_is_rejected(rate: float) -> None:
    """As a rate on the command line is."""
    with pytest.raises(ConfigError, match="rate of nursery-s, full, sft, tinyworld-people, none: learning_rate"):
        dataclasses.replace(RATE, learning_rate=rate)
