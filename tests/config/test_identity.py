"""Identity of a run: what changes its id and what does not."""

from __future__ import annotations

import pytest

from harness.config import composition, resolution
from harness.config.identity import derived_id, identify, recorded, run_identity, training_id
from harness.config.resolution import Machine
from harness.core.sources import ModelFacts

FACTS = ModelFacts(params_total=100_000, context_length=64, content={"recipe": "abc"})


def run_id(overrides: list[str], inputs: dict[str, object] | None = None, cores: int = 2) -> str:
    config = composition.compose(overrides)
    resolved = resolution.resolve(config, FACTS, (), Machine(cores=cores, gpus=0))
    return identify(run_identity(config, resolved, FACTS, {"data": "rows"} | (inputs or {}), {}))


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
        ["evaluation.token_budget=512"],
        ["evaluation=hf"],
        ["probe_suites=[]"],
        ["training.processes=2"],
        ["training.threads=2"],
    ],
)
def test_names_places_rounding_and_evaluation_do_not_change_a_run(overrides: list[str]) -> None:
    """A further volume extends a run; folders, suites and declarations do not count."""
    assert run_id(overrides) == run_id([])


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1"],
        ["tuning=lora"],
        ["training.learning_rate=0.5"],
        ["training.batch_rows=4"],
    ],
)
def test_settings_that_can_change_the_weights_change_the_run(overrides: list[str]) -> None:
    """Seed, method and schedule are part of the identity."""
    assert run_id(overrides) != run_id([])


def test_content_of_the_inputs_changes_the_run() -> None:
    """One changed row of data gives another run."""
    assert run_id([], {"data": "other rows"}) != run_id([])


def test_independent_volumes_have_ids_of_their_own() -> None:
    """Each has its own schedule."""
    assert run_id(["trajectory=independent", "data.volumes=[64]"]) != run_id(["trajectory=independent", "data.volumes=[128]"])


def test_a_tiny_run_has_the_same_id_on_any_machine() -> None:
    """A small model takes one thread, however many cores there are."""
    assert run_id([], cores=2) == run_id([], cores=64)


def test_a_derived_run_names_the_run_that_trained() -> None:
    """The id of a derived run is that of the training and a coefficient."""
    trained = run_id([])
    assert derived_id(trained, 0.5) == f"{trained}-0.5"
    assert training_id(derived_id(trained, 0.5)) == trained
    assert training_id(trained) == trained


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (["trajectory=independent", "data.volumes=[64]"], False),
        (["data.volumes=[64]"], True),
        (["save_weights=all"], True),
        (["declared.margin=0.05"], True),
        (["results=elsewhere"], True),
        (["training.micro_batch_rows=2"], True),
        (["mitigation=early_stop", "data.volumes=[16,64]"], False),
        (["seed=3"], False),
    ],
)
def test_what_asks_for_the_same_run_has_the_same_settings(overrides: list[str], same: bool) -> None:
    """Of two runs with equal settings and different inputs, the later supersedes the earlier."""
    base = ["data.volumes=[16]", *(text for text in overrides if text.startswith(("trajectory", "mitigation")))]
    first, second = (recorded(composition.compose(texts))["settings"] for texts in (base, [*base, *overrides]))
    assert (first == second) is same
